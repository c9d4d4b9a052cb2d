"""Times any .tflite files against each other in one run: across networks, folders and settings.

    python tests/benchmarks/compare_files.py original=models/float32_model.tflite int8=models/int8_quantized_model.tflite

The files take turns of ten runs in a row, so that a noisy machine hits all alike; everything is repeated, so
that the table shows how far to trust it. Times are relative to the first file. Run it on an otherwise idle machine.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import evaluation
import quantization


def time_files(paths: dict[str, Path], threads: int, runs: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name, milliseconds of runs in a row and of runs right after another file's, see `quantization.time_in_turns`."""
    calls = {}
    for name, path in paths.items():
        interpreter = quantization.open_interpreter(path, threads)
        size = int(interpreter.get_input_details()[0]["shape"][1])
        quantization.set_image(interpreter, np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
        calls[name] = interpreter.invoke
    return quantization.time_in_turns(calls, runs)


def markdown(record: dict[str, Any]) -> str:
    """The table of a run; each cell of times has the medians of all repeats."""
    lines = [f"| file | MB | gzip, MB | median ms (p90) | right after another file, ms | times faster than "
             f"{record['files'][0]['name']} |", "| --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for row in record["files"]:
        both = ", ".join(f"{median:.2f} ({p90:.2f})" for median, p90 in zip(row["median_ms"], row["p90_ms"]))
        lines.append(f"| {row['name']} | {row['bytes'] / 1e6:.2f} | {row['gzip_bytes'] / 1e6:.2f} | {both} | "
                     f"{', '.join(f'{median:.2f}' for median in row['after_another_ms'])} | "
                     f"{', '.join(f'{ratio:.2f}' for ratio in row['times_faster'])} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE", help="a name for the table and a .tflite file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200, help="of each file, per repeat (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    paths = {name: Path(path) for name, path in (item.split("=", 1) for item in arguments.files)}
    repeats = [time_files(paths, arguments.threads, arguments.runs) for _ in range(arguments.repeats)]
    first, rows = next(iter(paths)), []
    for name, path in paths.items():
        medians = [float(np.median(times[name][0])) for times in repeats]
        faster = [float(np.median(times[first][0])) / median for times, median in zip(repeats, medians)]
        after = [float(np.median(times[name][1])) for times in repeats]
        rows.append({"name": name, "bytes": path.stat().st_size, "gzip_bytes": evaluation.gzip_bytes(path),
                     "median_ms": medians, "p90_ms": [float(np.percentile(times[name][0], 90)) for times in repeats],
                     "after_another_ms": after, "times_faster": faster})  # fmt: skip
    pipeline.say(f"{evaluation.cpu_name()}, {arguments.threads} thread(s), {arguments.repeats} repeats")
    record = {"cpu": evaluation.cpu_name(), "threads": arguments.threads, "runs": arguments.runs,
              "versions": pipeline.versions(), "files": rows}  # fmt: skip
    pipeline.say(markdown(record))
    if arguments.json:
        pipeline.write_json(arguments.json, record)


if __name__ == "__main__":
    pipeline.run(main)
