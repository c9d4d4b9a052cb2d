"""Where the time of a .tflite file goes, operator by operator."""

from __future__ import annotations

import copy
import textwrap
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import artifact_path, command, refuse_changed
from pipeline.base.console import UserError
from pipeline.inference.litert import open_interpreter
from pipeline.inference.litert_private import operator_details
from pipeline.inference.tflite_files import SharingBuilder
from pipeline.variants import VARIANTS

OPERATOR_RUNS = 30  # timed runs of each operator alone
WARM_UP_RUNS = 5  # before them
WIDTH = 80  # columns of the notes


def delegated_operators(path: Path) -> tuple[set[int], int]:
    """Numbers of the operators that XNNPACK runs, and into how many parts of the graph they fall.

    The interpreter lists the file's operators and, after them, one DELEGATE per part. It does
    not say what is in a part: that is what leads from its inputs to its outputs.
    """
    nodes = operator_details(open_interpreter(path))
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    makers = {
        int(tensor): node
        for node in nodes
        if node["op_name"] != "DELEGATE"
        for tensor in node["outputs"]
    }
    inside: set[int] = set()
    for part in parts:
        ends = {int(tensor) for tensor in part["inputs"]}
        ahead = [int(tensor) for tensor in part["outputs"]]
        while ahead:
            tensor = ahead.pop()
            if tensor not in ends and tensor in makers and makers[tensor]["index"] not in inside:
                inside.add(makers[tensor]["index"])
                ahead += [int(before) for before in makers[tensor]["inputs"]]
    return inside, len(parts)


def time_operators(path: Path, seed: int) -> list[tuple[int, str, float]]:
    """Times every operator of a .tflite file alone, on random input and one thread.

    Each as a file of its own: the wheel's `litert-benchmark` times whole models only, and the
    profiler inside LiteRT has no Python interface. Dequantisation of constants (float16) is done
    once at loading, and not listed.

    Returns:
        For each operator: number in the file, kind, median milliseconds of OPERATOR_RUNS.
    """
    random = np.random.default_rng(seed)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    kinds = {number: kind for kind, number in vars(schema.BuiltinOperator).items()}
    filled = [model.buffers[tensor.buffer].data is not None for tensor in graph.tensors]
    unpackers = {
        int(operator.outputs[0]): operator
        for operator in graph.operators
        if all(filled[tensor] for tensor in operator.inputs)
    }
    times = []
    for number, operator in enumerate(graph.operators):
        if int(operator.outputs[0]) in unpackers:
            continue
        alone = single_operator(model, operator, unpackers, filled)
        interpreter = Interpreter(model_content=alone, num_threads=1)
        interpreter.allocate_tensors()
        for slot in interpreter.get_input_details():
            values = (100 * random.random(slot["shape"])).astype(slot["dtype"])
            interpreter.set_tensor(slot["index"], values)
        kind = kinds[model.operatorCodes[operator.opcodeIndex].builtinCode]
        times.append((number, kind, median_milliseconds(interpreter)))
    return times


def single_operator(
    model: schema.ModelT,
    operator: schema.OperatorT,
    unpackers: dict[int, schema.OperatorT],
    filled: list[bool],
) -> bytes:
    """A .tflite file of one operator, with those that unpack its constants before it.

    Args:
        unpackers: by the tensor that they write. filled: which tensors are constants.
    """
    graph = model.subgraphs[0]
    inputs = [int(tensor) for tensor in operator.inputs]
    chain = [unpackers[tensor] for tensor in inputs if tensor in unpackers] + [operator]
    tensors = {int(each) for link in chain for each in (*link.inputs, *link.outputs)}
    used = {graph.tensors[tensor].buffer for tensor in tensors if tensor >= 0}
    alone, part = copy.copy(model), copy.copy(graph)
    part.operators, part.outputs = chain, operator.outputs
    part.inputs = [
        tensor
        for tensor in inputs
        if tensor >= 0 and not filled[tensor] and tensor not in unpackers
    ]
    alone.subgraphs, alone.signatureDefs, alone.metadata = [part], None, None
    alone.buffers = [
        buffer if k in used else schema.BufferT() for k, buffer in enumerate(model.buffers)
    ]
    builder = SharingBuilder()
    builder.Finish(alone.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def median_milliseconds(interpreter: Interpreter) -> float:
    """The median of OPERATOR_RUNS runs of an interpreter, after WARM_UP_RUNS."""
    runs = []
    for _ in range(WARM_UP_RUNS + OPERATOR_RUNS):
        started = time.perf_counter()
        interpreter.invoke()
        runs.append(1e3 * (time.perf_counter() - started))
    return float(np.median(runs[WARM_UP_RUNS:]))


def profile(models_dir: Path, seed: int) -> str:
    """For every .tflite file there is: its operators by kind, who runs them, how long they take.

    Raises:
        UserError: there is no .tflite file.
    """
    paths = [artifact_path(models_dir, name) for name in VARIANTS]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise UserError(
            f"{models_dir} holds no .tflite file; make them with: {command('int8', models_dir)}"
        )
    notes = (
        f"ms: each operator alone, 1 thread, median of {OPERATOR_RUNS} runs, then summed. The "
        "whole differs from that by what passes between operators, and by what else the machine "
        "does. XNNPACK, others: who runs the operator in the whole model, as counted in the "
        "interpreter's plan."
    )
    lines = [line for path in paths for line in profile_lines(path, seed)]
    return "\n".join(lines + textwrap.wrap(notes, WIDTH))


def profile_lines(path: Path, seed: int) -> list[str]:
    """The profile of one file as a table."""
    refuse_changed(path)
    whole = median_milliseconds(open_interpreter(path))
    operators, (inside, parts) = time_operators(path, seed), delegated_operators(path)
    total = sum(milliseconds for *_, milliseconds in operators)
    by_kind: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, kind, milliseconds in operators:
        by_kind[kind].append((number, milliseconds))
    lines = [
        f"{path.name}: {whole:.2f} ms as a whole",
        f"  {total:.2f} ms operator by operator; XNNPACK in {parts} part{'s' * (parts != 1)}",
        f"  {'operator':24}{'count':>7}{'XNNPACK':>9}{'others':>8}{'ms':>9}{'share':>8}",
    ]
    for kind, runs in sorted(by_kind.items(), key=lambda item: -sum(run[1] for run in item[1])):
        own, spent = sum(number in inside for number, _ in runs), sum(run[1] for run in runs)
        counts = f"{len(runs):7}{own:9}{len(runs) - own:8}"
        lines.append(f"  {kind:24}{counts}{spent:9.3f}{spent / total:8.1%}")
    return [*lines, ""]
