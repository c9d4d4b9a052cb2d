"""Runs an exported segmentation model on the device. Needs ai-edge-litert, NumPy and Pillow only.

python run_on_device.py               checks the test picture, prints OK and the latency
python run_on_device.py photo.jpg     also writes photo.classes.png: a shade of grey per class

The exit code is 1 if the test picture gives other classes than it did where the folder was made.
"""

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

TIMED_RUNS = 20


def main() -> None:
    """Checks the test picture, times the model, and writes the classes of the photos."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # class names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    folder = Path(__file__).resolve().parent
    sys.path.insert(0, str(folder))
    from pipeline.data import marked_pictures
    from pipeline.data.decoding import open_picture
    from pipeline.data.photographs import rules_from, upright_rgb

    targets = {photo: photo.with_suffix(".classes.png") for photo in map(Path, sys.argv[1:])}
    for target in targets.values():
        if not marked_pictures.is_replaceable(target):
            sys.exit(f"{target} was not written by this program and stays; give it another name")
    contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    interpreter = Interpreter(model_path=str(folder / contract["file"]), num_threads=1)
    interpreter.allocate_tensors()
    input_details = interpreter.get_input_details()[0]
    output_details = interpreter.get_output_details()[0]
    _, height, width, _ = contract["input"]["shape"]
    class_names = contract["output"]["classes"]
    rules = rules_from(contract["input"].get("photos", {}))

    def logits(pixels: np.ndarray) -> np.ndarray:
        """Logits (height, width, classes) of a uint8 RGB image (height, width, 3)."""
        offset = 128 if contract["input"]["type"] == "int8" else 0
        values = (pixels.astype(np.int16) - offset).astype(input_details["dtype"])
        interpreter.set_tensor(input_details["index"], values[None])
        interpreter.invoke()
        return interpreter.get_tensor(output_details["index"])[0]

    pixels = np.fromfile(folder / "picture.rgb", np.uint8).reshape(height, width, 3)
    expected = np.fromfile(folder / "picture.logits", output_details["dtype"])
    expected = expected.reshape(output_details["shape"][1:])
    different = int((logits(pixels).argmax(-1) != expected.argmax(-1)).sum())
    started = time.perf_counter()
    for _ in range(TIMED_RUNS):
        logits(pixels)
    milliseconds = 1000 / TIMED_RUNS * (time.perf_counter() - started)
    print("OK" if not different else f"{different} of {height * width} pixels differ")
    print(f"{milliseconds:.2f} ms per image, classes: {', '.join(class_names)}")
    for photo, target in targets.items():
        with open_picture(photo) as picture:
            image, _ = upright_rgb(picture, photo, rules)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        classes = logits(np.asarray(image)).argmax(-1).astype(np.uint8)
        step = 255 // max(1, len(class_names) - 1)
        marked_pictures.save(Image.fromarray(classes * np.uint8(step)), target)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
