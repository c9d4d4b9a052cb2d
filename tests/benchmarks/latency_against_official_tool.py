"""Times one .tflite file by our stopwatch and by LiteRT's own benchmark tool, taking turns.

    python tests/benchmarks/latency_against_official_tool.py models/int8_quantized_model.tflite

A ratio near 1 says that evaluation.py's latencies are those that the official tool reports. Run
it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compare_files import open_with_noise

from pipeline.base import console

WARM_UP_RUNS = 5


def our_median(path: Path, threads: int, runs: int) -> float:
    """Milliseconds of one run, timed as evaluation.py does."""
    interpreter, times = open_with_noise(path, threads), []
    for _ in range(WARM_UP_RUNS + runs):
        started = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times[WARM_UP_RUNS:]))


def official_median(path: Path, threads: int, runs: int) -> float:
    """The same by the tool that comes with the ai-edge-litert package; it rounds to 0.01 ms."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [
            *(sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model"),
            *(f"--model={path}", f"--num_runs={runs}", f"--warmup_runs={WARM_UP_RUNS}"),
            *(f"--num_threads={threads}", f"--result_json={result}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not result.exists():
            sys.exit(f"the official tool failed:\n{done.stdout}{done.stderr}")
        return json.loads(result.read_text())["latency"]["median_ms"]


def main() -> None:
    """Prints each round, and the ratio of the medians of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200, help="per round (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of ours and theirs in turn (default: %(default)s)"
    )
    arguments = parser.parse_args()
    given = arguments.model, arguments.threads, arguments.runs
    ours, theirs = [], []
    for number in range(arguments.rounds):
        ours.append(our_median(*given))
        theirs.append(official_median(*given))
        both = f"ours {ours[-1]:.3f} ms, official tool {theirs[-1]:.3f} ms"
        console.say(f"round {number + 1}: {both}")
    one, other = np.median(ours), np.median(theirs)
    both = f"ours {one:.3f} ms, official tool {other:.3f} ms"
    console.say(f"median of rounds: {both}, ratio {one / other:.3f}")


if __name__ == "__main__":
    console.run(main)
