"""Times one .tflite file by our stopwatch and by LiteRT's own benchmark tool, taking turns.

    python tests/benchmarks/latency_against_official_tool.py models/int8_quantized_model.tflite

A ratio near 1 says that evaluation.py's latencies are those that the official tool reports. Run
it on an otherwise idle machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import evaluation
import quantization


def our_median(path: Path, threads: int, runs: int) -> float:
    """Milliseconds of one run, timed as evaluation.py does."""
    interpreter = quantization.open_interpreter(path, threads)
    size = int(interpreter.get_input_details()[0]["shape"][1])
    quantization.set_image(interpreter, np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    times = []
    for _ in range(evaluation.WARM_UP_RUNS + runs):
        started = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times[evaluation.WARM_UP_RUNS :]))


def official_median(path: Path, threads: int, runs: int) -> float:
    """The same by the tool that comes with the ai-edge-litert package; it rounds to 0.01 ms."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", f"--model={path}",
                   f"--num_runs={runs}", f"--warmup_runs={evaluation.WARM_UP_RUNS}", f"--num_threads={threads}",
                   f"--result_json={result}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not result.exists():
            sys.exit(f"the official tool failed:\n{done.stdout}{done.stderr}")
        return json.loads(result.read_text())["latency"]["median_ms"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of ours and theirs in turn (default: %(default)s)")
    arguments = parser.parse_args()
    ours, theirs = [], []
    for number in range(arguments.rounds):
        ours.append(our_median(arguments.model, arguments.threads, arguments.runs))
        theirs.append(official_median(arguments.model, arguments.threads, arguments.runs))
        pipeline.say(f"round {number + 1}: ours {ours[-1]:.3f} ms, official tool {theirs[-1]:.3f} ms")
    ratio = np.median(ours) / np.median(theirs)
    pipeline.say(f"median of rounds: ours {np.median(ours):.3f} ms, official tool {np.median(theirs):.3f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
