"""Operator profile: the time that each operator of a .tflite file takes."""

from __future__ import annotations

import argparse
import copy
import textwrap
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import artifact_path, command, refuse_changed
from pipeline.base.console import UserError
from pipeline.base.text_table import text_table
from pipeline.inference.litert import open_interpreter
from pipeline.inference.litert_private import operator_details
from pipeline.inference.tflite_files import Graph, packed, read_graph, schema, tables
from pipeline.variants import VARIANTS

OPERATOR_RUNS = 30  # timed runs of each operator
WARM_UP_RUNS = 5  # runs before them, not timed
COLUMNS = (("operator", -24), ("count", 7), ("XNNPACK", 9), ("others", 8), ("ms", 9), ("share", 8))
WIDTH = 80  # characters per line of the notes


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --profile."""
    parser.add_argument(
        "--profile",
        action="store_true",
        help="time each operator of the .tflite files, show which run in XNNPACK, and do nothing "
        "else",
    )


def delegated_operators(path: Path) -> tuple[set[int], int]:
    """Indices of the operators that XNNPACK runs, and the number of partitions they form.

    The interpreter lists the file's operators and, after them, one DELEGATE node per partition.
    It does not list the operators of a partition. They are found by following the graph from the
    partition's outputs back to its inputs.
    """
    nodes = operator_details(open_interpreter(path))
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    producers = {
        int(tensor): node
        for node in nodes
        if node["op_name"] != "DELEGATE"
        for tensor in node["outputs"]
    }
    delegated: set[int] = set()
    for partition in partitions:
        partition_inputs = {int(tensor) for tensor in partition["inputs"]}
        pending = [int(tensor) for tensor in partition["outputs"]]
        while pending:
            tensor = pending.pop()
            producer = producers.get(tensor)
            if producer and tensor not in partition_inputs and producer["index"] not in delegated:
                delegated.add(producer["index"])
                pending += [int(tensor) for tensor in producer["inputs"]]
    return delegated, len(partitions)


def time_operators(path: Path, seed: int) -> list[tuple[int, str, float]]:
    """Times every operator of a .tflite file on its own, on random input and one thread.

    Each operator is timed in a file that contains only that operator: `litert-benchmark`, which
    is in LiteRT's wheel, times whole models only, and LiteRT's profiler has no Python interface.
    Operators that dequantise constants (float16) run once, when a file is loaded; they are left
    out.

    Args:
        path: the file.
        seed: of the random input.

    Returns:
        For each operator: its index in the file, its kind (as "CONV_2D"), and the median of
        OPERATOR_RUNS runs in milliseconds.
    """
    random = np.random.default_rng(seed)
    whole = path.read_bytes()
    model, graph, times = tables(whole), read_graph(whole), []
    for index, operator in enumerate(graph.operators):
        if operator.unpacks:
            continue
        content = single_operator(model, graph, index)
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            values = (100 * random.random(details["shape"])).astype(details["dtype"])
            interpreter.set_tensor(details["index"], values)
        times.append((index, operator.kind, median_milliseconds(interpreter)))
    return times


def single_operator(model: schema.ModelT, graph: Graph, index: int) -> bytes:
    """The content of a .tflite file with one operator, and those that unpack its constants.

    Args:
        model, graph: the whole file, as `tables` and `read_graph` give it.
        index: of the operator to keep.
    """
    unpackers = {node.outputs[0].index: k for k, node in enumerate(graph.operators) if node.unpacks}
    operator = graph.operators[index]
    computed = [tensor.index for tensor in operator.inputs if tensor.data is None]
    kept = [unpackers[number] for number in computed if number in unpackers] + [index]
    small_model, small_graph = copy.copy(model), copy.copy(model.subgraphs[0])
    small_graph.operators = [small_graph.operators[k] for k in kept]
    small_graph.inputs = [number for number in computed if number not in unpackers]
    small_graph.outputs = [tensor.index for tensor in operator.outputs]
    small_model.subgraphs, small_model.signatureDefs = [small_graph], None
    small_model.metadata = None
    nodes = [graph.operators[k] for k in kept]
    tensors = [tensor for node in nodes for tensor in (*node.inputs, *node.outputs)]
    used_buffers = {small_graph.tensors[tensor.index].buffer for tensor in tensors}
    small_model.buffers = [
        buffer if number in used_buffers else schema.BufferT()
        for number, buffer in enumerate(model.buffers)
    ]
    return packed(small_model)


def median_milliseconds(interpreter: Interpreter) -> float:
    """The median time of OPERATOR_RUNS runs of an interpreter, after WARM_UP_RUNS."""
    runs = []
    for _ in range(WARM_UP_RUNS + OPERATOR_RUNS):
        started = time.perf_counter()
        interpreter.invoke()
        runs.append(1e3 * (time.perf_counter() - started))
    return float(np.median(runs[WARM_UP_RUNS:]))


def profile(models_dir: Path, seed: int) -> str:
    """The profiles of all .tflite files of a models folder as a text, with notes below.

    Args:
        models_dir: the folder.
        seed: of the random inputs.

    Raises:
        UserError: there is no .tflite file.
    """
    paths = [artifact_path(models_dir, name) for name in VARIANTS]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise UserError(
            f"{models_dir} has no .tflite file; make them with: {command('int8', models_dir)}"
        )
    notes = (
        f"ms: the sum over the operators of a kind, each timed on its own with 1 thread, median of "
        f"{OPERATOR_RUNS} runs. The time of the whole model differs, because data passes between "
        "operators there, and because of other load on the machine. XNNPACK, others: how many "
        "operators of the whole model XNNPACK runs, and how many LiteRT's own kernels run."
    )
    lines = [line for path in paths for line in profile_lines(path, seed)]
    return "\n".join(lines + textwrap.wrap(notes, WIDTH))


def profile_lines(path: Path, seed: int) -> list[str]:
    """The profile of one file as the lines of a table."""
    refuse_changed(path)
    whole = median_milliseconds(open_interpreter(path))
    operators, (delegated, partitions) = time_operators(path, seed), delegated_operators(path)
    total = sum(milliseconds for *_, milliseconds in operators)
    by_kind: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for index, kind, milliseconds in operators:
        by_kind[kind].append((index, milliseconds))
    lines = [
        f"{path.name}: {whole:.2f} ms for the whole model",
        f"  {total:.2f} ms for the sum of its operators; "
        f"{partitions} XNNPACK partition{'s' * (partitions != 1)}",
    ]
    cells = []
    for kind, runs in sorted(by_kind.items(), key=lambda item: -sum(run[1] for run in item[1])):
        in_xnnpack = sum(index in delegated for index, _ in runs)
        milliseconds = sum(run[1] for run in runs)
        counts = map(str, (len(runs), in_xnnpack, len(runs) - in_xnnpack))
        cells.append((kind, *counts, f"{milliseconds:.3f}", f"{milliseconds / total:.1%}"))
    lines += [f"  {line}" for line in text_table(COLUMNS, cells)]
    return [*lines, ""]
