"""What an NPU would take for an int8 file, as Arm's own compiler estimates it.

The compiler is `vela`, of the optional package `ethos-u-vela`. It is run as a program, so that it
may have an environment of its own. It knows which operators an Ethos-U runs, leaves the others to
the processor beside it, and reckons time and memory of the rest.
"""

from __future__ import annotations

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

import numpy as np

from pipeline.base.artifacts import command, refuse_changed
from pipeline.base.console import UserError
from pipeline.inference.litert import open_interpreter, operators

ACCELERATORS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")
VERSION = "5.2.0"  # of ethos-u-vela, whose output this module reads
INSTALL = f"python3 -m venv vela && vela/bin/pip install ethos-u-vela=={VERSION}"
KIB = 1024  # bytes; vela counts memory in these, our tables in 1000 bytes
WIDTH = 80  # columns of the table
MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")  # as vela's summary calls them

# "   CPU: Passthrough = NAME (outputs [1, 96, 96, 3])": vela names the tensor, not the operator.
CPU_OPERATOR = re.compile(r"^ +CPU: (\S+) = (.*) \(.*outputs .*\)$", re.MULTILINE)
CPU_COUNT = re.compile(r"^CPU operators = (\d+)", re.MULTILINE)

Row = dict[str, Any]  # an accelerator


def find_vela() -> str:
    """The program vela: the one that VELA names, else one in PATH, else one beside this Python.

    Raises:
        UserError: it is not there.
    """
    named, beside = os.environ.get("VELA"), str(Path(sys.executable).parent)
    found = (
        shutil.which(named) if named else shutil.which("vela") or shutil.which("vela", path=beside)
    )
    if found:
        return str(Path(found).absolute())
    if named:
        raise UserError(f"VELA names {named}, which is no program; install vela with: {INSTALL}")
    raise UserError(
        "the estimate needs the program vela of the package ethos-u-vela; install it in an "
        f"environment of its own with: {INSTALL} && export VELA=$PWD/vela/bin/vela"
    )


def estimate(path: Path) -> list[Row]:
    """What each of ACCELERATORS would take for an int8 file. Nothing is left behind.

    Returns:
        A dictionary per accelerator: file, accelerator, mhz (its clock), memory_mode (vela's name
        for what lies where), milliseconds (of the NPU alone), sram_kb, flash_kb, dram_kb (1000
        bytes), cpu_operators (those that fall back to the CPU: how many of each kind).

    Raises:
        UserError: no vela, no int8 file, or vela refuses it.
    """
    vela = find_vela()
    if path.suffix != ".tflite":
        raise UserError(not_int8(path))
    refuse_changed(path)
    if open_interpreter(path).get_input_details()[0]["dtype"] not in (np.int8, np.uint8):
        raise UserError(not_int8(path))
    kinds = {operator.tensor: operator.kind for operator in operators(path.read_bytes())}
    rows = []
    for accelerator in ACCELERATORS:
        summary, printed = run_vela(vela, path, accelerator)
        try:
            row = read_summary(summary) | {"cpu_operators": cpu_operators(printed, kinds)}
        except (KeyError, ValueError, StopIteration):
            raise UserError(
                f"{vela} does not answer as version {VERSION} does; install that with: {INSTALL}"
            ) from None
        rows.append({"file": path.name, "accelerator": accelerator} | row)
    return rows


def not_int8(path: Path) -> str:
    """What is said of a file that does not compute in int8."""
    make = command("int8", path.parent)
    return f"{path} is no int8 .tflite file, which the estimate needs; make one with: {make}"


def run_vela(vela: str, path: Path, accelerator: str) -> tuple[str, str]:
    """Compiles a file for an accelerator, in a temporary folder.

    Returns:
        vela's summary (CSV), and what it printed.

    Raises:
        UserError: it failed.
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
            said, failed = done.stderr.strip() or done.stdout, done.returncode != 0
        except OSError as error:
            done, said, failed = None, str(error), True
        summaries = sorted(Path(folder).glob("*_summary_*.csv"))
        if failed or not summaries:
            last = ([line.strip() for line in said.splitlines() if line.strip()] or ["silence"])[-1]
            raise UserError(
                f"vela refuses {path} for {accelerator} ({last}); see: {vela} {path} "
                f"--accelerator-config {accelerator}"
            )
        return summaries[0].read_text(encoding="utf-8"), done.stdout


def read_summary(summary: str) -> Row:
    """Time and memory from vela's summary: a CSV of two lines, seconds and KiB.

    Raises:
        KeyError, ValueError, StopIteration: it is no such summary.
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
    """Counts the operators that vela leaves to the CPU.

    Args:
        printed: what it printed.
        kinds: by the tensor that it writes, the kind of each operator in the file. vela calls
            most of those that it leaves alone "Passthrough", whatever they are.

    Returns:
        How many of each kind, the most frequent first.

    Raises:
        ValueError: the list is not there, or is not as long as it says.
    """
    found = [kinds.get(tensor, own) for own, tensor in CPU_OPERATOR.findall(printed)]
    said = CPU_COUNT.search(printed)
    if said is None or int(said[1]) != len(found):
        raise ValueError("vela's list of CPU operators is of another form")
    return dict(Counter(found).most_common())


def table(rows: Iterable[Row]) -> str:
    """The rows of `estimate` as a table of at most WIDTH columns, with what they mean below."""
    rows = list(rows)
    lines = [
        f"{rows[0]['file']} on an NPU: estimates, nothing was measured",
        f"{'accelerator':14}{'MHz':>5}{'ms':>8}{'SRAM KB':>9}{'flash KB':>9}{'DRAM KB':>8}"
        "  on the CPU",
    ]
    for row in rows:
        memory = f"{row['sram_kb']:9.0f}{row['flash_kb']:9.0f}{row['dram_kb']:8.0f}"
        start = f"{row['accelerator']:14}{row['mhz']:5.0f}{row['milliseconds']:8.2f}{memory}  "
        kinds = [f"{count} {kind}" for kind, count in row["cpu_operators"].items()]
        for kind in kinds or ["nothing"]:
            lines += textwrap.wrap(start + kind, WIDTH, drop_whitespace=False)
            start = " " * len(start)
    notes = (
        "Arm's compiler vela computes them for a clock and memories that it takes as usual for "
        "each accelerator. ms: one image, on the NPU alone; what falls back to the CPU takes time "
        "that is not in it. KB: 1000 bytes. Where DRAM is not 0, activations and weights lie "
        "there, and SRAM is the NPU's cache."
    )
    return "\n".join(lines + textwrap.wrap(notes, WIDTH))
