"""Times any .tflite files against each other in one run: across networks, folders and settings.

    python tests/benchmarks/compare_files.py a=models/float32_model.tflite b=other/model.tflite

The files take turns of ten runs in a row, so that a noisy machine hits all alike; everything is
repeated, so that the table shows how far to trust it. Times are relative to the first file. Run it
on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.base import console, lazy
from pipeline.base.files import write_json
from pipeline.evaluation import processor
from pipeline.inference import litert, timing
from pipeline.inference.tflite_files import gzip_bytes
from pipeline.report import findings


def open_with_noise(path: Path, threads: int) -> Any:
    """An interpreter of a file with a random image as its input."""
    interpreter = litert.open_interpreter(path, threads)
    shape = tuple(interpreter.get_input_details()[0]["shape"][1:])
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    litert.set_image(interpreter, image)
    return interpreter


def time_files(
    paths: dict[str, Path], threads: int, runs: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name, milliseconds of runs in a row and of runs right after another file's.

    See `timing.time_in_turns`.
    """
    calls = {name: open_with_noise(path, threads).invoke for name, path in paths.items()}
    return timing.time_in_turns(calls, runs)


def markdown(record: dict[str, Any]) -> str:
    """The table of a run; each cell of times has the medians of all repeats."""
    first = record["files"][0]["name"]
    lines = [
        "| file | MB | gzip, MB | median ms (p90) | right after another file, ms "
        f"| against {first} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["files"]:
        both = zip(row["median_ms"], row["p90_ms"])
        cells = [
            row["name"],
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['gzip_bytes'] / 1e6:.2f}",
            ", ".join(f"{median:.2f} ({p90:.2f})" for median, p90 in both),
            ", ".join(f"{median:.2f}" for median in row["after_another_ms"]),
            ", ".join(findings.speed_text(ratio, " times") for ratio in row["times_faster"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Times the files, prints the table, writes the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="+", metavar="NAME=FILE", help="a name for the table and a .tflite file"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--runs", type=int, default=200, help="of each file, per repeat (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    pairs = [item.split("=", 1) for item in arguments.files]
    if any(len(pair) < 2 for pair in pairs):
        parser.error("each file is given as NAME=FILE")
    paths = {name: Path(path) for name, path in pairs}
    repeats = [
        time_files(paths, arguments.threads, arguments.runs) for _ in range(arguments.repeats)
    ]
    first, rows = next(iter(paths)), []
    for name, path in paths.items():
        medians = [float(np.median(times[name][0])) for times in repeats]
        firsts = [float(np.median(times[first][0])) for times in repeats]
        row = {
            "name": name,
            "bytes": path.stat().st_size,
            "gzip_bytes": gzip_bytes(path),
            "median_ms": medians,
            "p90_ms": [float(np.percentile(times[name][0], 90)) for times in repeats],
            "after_another_ms": [float(np.median(times[name][1])) for times in repeats],
            "times_faster": [slow / quick for slow, quick in zip(firsts, medians)],
        }
        rows.append(row)
    cpu = processor.cpu_name()
    record = {
        "cpu": cpu,
        "threads": arguments.threads,
        "runs": arguments.runs,
        "versions": lazy.versions(),
        "files": rows,
    }
    console.say(f"{cpu}, {arguments.threads} thread(s), {arguments.repeats} repeats")
    console.say(markdown(record))
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    console.run(main)
