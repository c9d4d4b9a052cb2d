"""Times any .tflite files against each other in one run: across networks, folders and settings.

    python tests/benchmarks/compare_files.py original=models/float32_model.tflite int8=models/int8_quantized_model.tflite

The files take turns, one run each, so that a noisy machine hits all alike; everything is repeated, so that
the table shows how far to trust it. Times are relative to the first file. Run it on an otherwise idle machine.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import evaluation
import quantization

SECONDS = 60  # per file and repeat at most: slow files get fewer runs, but at least 10


def time_files(paths: dict[str, Path], threads: int, runs: int) -> dict[str, np.ndarray]:
    """Milliseconds of single runs, by name."""
    interpreters, wanted, times = {}, {}, {name: [] for name in paths}
    for name, path in paths.items():
        interpreter = interpreters[name] = quantization.open_interpreter(path, threads)
        size = int(interpreter.get_input_details()[0]["shape"][1])
        quantization.set_image(interpreter, np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
        for _ in range(evaluation.WARM_UP_RUNS):
            started = time.perf_counter()
            interpreter.invoke()
        wanted[name] = int(np.clip(SECONDS / (time.perf_counter() - started), 10, runs))
    for turn in range(runs):
        for name, interpreter in interpreters.items():
            if turn * wanted[name] // runs < (turn + 1) * wanted[name] // runs:
                started = time.perf_counter()
                interpreter.invoke()
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: np.array(values) for name, values in times.items()}


def markdown(record: dict[str, Any]) -> str:
    """The table of a run; each cell of times has the medians of all repeats."""
    lines = [f"| file | MB | gzip, MB | median ms (p90) | times faster than {record['files'][0]['name']} |",
             "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for row in record["files"]:
        both = ", ".join(f"{median:.2f} ({p90:.2f})" for median, p90 in zip(row["median_ms"], row["p90_ms"]))
        lines.append(f"| {row['name']} | {row['bytes'] / 1e6:.2f} | {row['gzip_bytes'] / 1e6:.2f} | {both} | "
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
        medians = [float(np.median(times[name])) for times in repeats]
        faster = [float(np.median(times[first])) / median for times, median in zip(repeats, medians)]
        rows.append({"name": name, "bytes": path.stat().st_size, "gzip_bytes": evaluation.gzip_bytes(path),
                     "median_ms": medians, "p90_ms": [float(np.percentile(times[name], 90)) for times in repeats],
                     "times_faster": faster})  # fmt: skip
    pipeline.say(f"{evaluation.cpu_name()}, {arguments.threads} thread(s), {arguments.repeats} repeats")
    record = {"cpu": evaluation.cpu_name(), "threads": arguments.threads, "runs": arguments.runs,
              "versions": pipeline.versions(), "files": rows}  # fmt: skip
    pipeline.say(markdown(record))
    if arguments.json:
        pipeline.write_json(arguments.json, record)


if __name__ == "__main__":
    pipeline.run(main)
