"""Time and memory of an int8 file on Ethos-U NPUs, as estimated by Arm's compiler.

The compiler is `vela`, of the optional package `ethos-u-vela`. It is run as a program, so that it
can have its own Python environment. It decides which operators run on the NPU, assigns the others
to the CPU, and estimates time and memory of those on the NPU.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.base import commands
from pipeline.base.artifacts import command, refuse_changed
from pipeline.base.console import UserError
from pipeline.base.text_table import text_table
from pipeline.inference.litert import open_interpreter
from pipeline.inference.tflite_files import read_graph

ACCELERATORS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")
VERSION = "5.2.0"  # the version of ethos-u-vela whose output this module reads
KIB = 1024  # bytes: the unit of vela's summary; the table has kilobytes of 1000 bytes
COLUMNS = (
    *(("accelerator", -14), ("MHz", 5), ("ms", 8)),
    *(("SRAM KB", 9), ("flash KB", 9), ("DRAM KB", 8)),
)
WIDTH = 80  # characters per line of the table
MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")  # their names in vela's summary

# "   CPU: Passthrough = NAME (outputs [1, 96, 96, 3])": NAME is that of the output tensor.
CPU_OPERATOR = re.compile(r"^ +CPU: (\S+) = (.*) \(.*outputs .*\)$", re.MULTILINE)
CPU_COUNT = re.compile(r"^CPU operators = (\d+)", re.MULTILINE)

Row = dict[str, Any]  # the estimate for one accelerator


def installation() -> str:
    """The command that installs vela into an environment of its own."""
    make = commands.line(commands.python(), "-m", "venv", "vela")
    return f"{make} && vela/bin/pip install ethos-u-vela=={VERSION}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --npu. It reads --model, too, which prediction/predict.py adds."""
    parser.add_argument(
        "--npu",
        action="store_true",
        help="estimate time and memory of the int8 file on NPUs (needs ethos-u-vela), and do "
        "nothing else",
    )


def find_vela() -> str:
    """The path of the program vela.

    It is the one that the variable VELA names; without that variable, the one in PATH, or the one
    in the folder of this Python.

    Raises:
        UserError: there is none.
    """
    named, python_folder = os.environ.get("VELA"), str(Path(sys.executable).parent)
    if named:
        program = shutil.which(named)
    else:
        program = shutil.which("vela") or shutil.which("vela", path=python_folder)
    if program:
        return str(Path(program).absolute())
    if named:
        raise UserError(
            f"VELA names {named}, which is not a program; install vela with: {installation()}"
        )
    raise UserError(
        "the estimate needs the program vela of the package ethos-u-vela; install it in a separate "
        f"environment with: {installation()} && export VELA=$PWD/vela/bin/vela"
    )


def estimate(path: Path) -> list[Row]:
    """Estimates an int8 file on each of ACCELERATORS. Leaves no files behind.

    Returns:
        One dictionary per accelerator: file, accelerator, mhz (its clock), memory_mode (vela's name
        for the memories that hold weights and activations), milliseconds (on the NPU, per image),
        sram_kb, flash_kb, dram_kb (kilobytes of 1000 bytes), cpu_operators (the number of operators
        that fall back to the CPU, by kind).

    Raises:
        UserError: vela is not installed, the file is not an int8 file, or vela rejects it.
    """
    vela = find_vela()
    if path.suffix != ".tflite":
        raise UserError(not_int8(path))
    refuse_changed(path)
    open_interpreter(path)  # or the one line that it is no .tflite file
    graph = read_graph(path.read_bytes())
    if graph.inputs[0].type not in ("int8", "uint8"):
        raise UserError(not_int8(path))
    kinds = {operator.tensor: operator.kind for operator in graph.operators}
    rows = []
    for accelerator in ACCELERATORS:
        summary, printed = run_vela(vela, path, accelerator)
        try:
            row = read_summary(summary) | {"cpu_operators": cpu_operators(printed, kinds)}
        except (KeyError, ValueError, StopIteration):
            raise UserError(
                f"{vela} gives other output than version {VERSION}; install that version with: "
                f"{installation()}"
            ) from None
        rows.append({"file": path.name, "accelerator": accelerator} | row)
    return rows


def not_int8(path: Path) -> str:
    """The error message for a file that does not compute in int8."""
    make = command("int8", path.parent)
    return f"{path} is not an int8 .tflite file, which the estimate needs; make one with: {make}"


def run_vela(vela: str, path: Path, accelerator: str) -> tuple[str, str]:
    """Compiles a file for an accelerator, in a temporary folder.

    Returns:
        vela's summary (CSV), and its standard output.

    Raises:
        UserError: vela failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(path.resolve()), "--accelerator-config", accelerator]
        arguments += ["--show-cpu-operations", "--output-dir", folder]
        try:
            done = subprocess.run(
                [vela, *arguments],
                cwd=folder,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
            )
            printed, failed = done.stdout, done.returncode != 0
            messages = done.stderr.strip() or printed
        except OSError as error:
            printed, failed, messages = "", True, str(error)
        summaries = sorted(Path(folder).glob("*_summary_*.csv"))
        if failed or not summaries:
            lines = [line.strip() for line in messages.splitlines() if line.strip()]
            reason = lines[-1] if lines else "no message"
            raise UserError(
                f"vela failed on {path} for {accelerator} ({reason}); to see all of its output: "
                f"{commands.line(vela, path, '--accelerator-config', accelerator)}"
            )
        return summaries[0].read_text(encoding="utf-8"), printed


def read_summary(summary: str) -> Row:
    """Time and memory from vela's summary.

    Args:
        summary: a CSV of a header and one line, with seconds, hertz and KiB.

    Returns:
        The keys of `estimate` from mhz to dram_kb.

    Raises:
        KeyError, ValueError, StopIteration: the text is no such summary.
    """
    line = next(csv.DictReader(summary.splitlines()))
    memory = {area: float(line[f"{area}_memory_used"]) * KIB / 1000 for area in MEMORIES}
    return {
        "mhz": float(line["core_clock"]) / 1e6,
        "memory_mode": line["memory_mode"],
        "milliseconds": round(1e3 * float(line["inference_time"]), 3),
        "sram_kb": round(memory["sram"], 1),
        "flash_kb": round(memory["on_chip_flash"] + memory["off_chip_flash"], 1),
        "dram_kb": round(memory["dram"], 1),
    }


def cpu_operators(printed: str, kinds: dict[str, str]) -> dict[str, int]:
    """Counts the operators that fall back to the CPU.

    Args:
        printed: the standard output of vela.
        kinds: the kind of each operator in the file, by the tensor that it writes. It replaces
            vela's own name, because vela calls most operators on the CPU "Passthrough".

    Returns:
        The number of operators by kind, the most frequent kind first.

    Raises:
        ValueError: vela's list is missing, or has another length than vela states.
    """
    fallbacks = [
        kinds.get(tensor, vela_kind) for vela_kind, tensor in CPU_OPERATOR.findall(printed)
    ]
    count = CPU_COUNT.search(printed)
    if count is None or int(count[1]) != len(fallbacks):
        raise ValueError("vela's list of CPU operators has another form")
    return dict(Counter(fallbacks).most_common())


def table(rows: Iterable[Row]) -> str:
    """The rows of `estimate` as a table of at most WIDTH characters per line, with notes below."""
    rows = list(rows)
    cells = []
    for row in rows:
        memory = [f"{row[key]:.0f}" for key in ("sram_kb", "flash_kb", "dram_kb")]
        speed = f"{row['mhz']:.0f}", f"{row['milliseconds']:.2f}"
        cells.append([row["accelerator"], *speed, *memory])
    head, *starts = text_table(COLUMNS, cells)
    lines = [f"{rows[0]['file']} on an NPU: estimates, not measurements", f"{head}  on the CPU"]
    for row, start in zip(rows, starts):
        start += "  "
        kinds = [f"{count} {kind}" for kind, count in row["cpu_operators"].items()]
        for kind in kinds or ["nothing"]:
            lines += textwrap.wrap(start + kind, WIDTH, drop_whitespace=False)
            start = " " * len(start)
    notes = (
        "Estimated by Arm's compiler vela, with its default clock and memories for each "
        "accelerator. ms: one image, on the NPU; the time of operators on the CPU is not included. "
        "KB: 1000 bytes. Where DRAM is not 0, it holds activations and weights, and SRAM is the "
        "NPU's cache."
    )
    return "\n".join(lines + textwrap.wrap(notes, WIDTH))
