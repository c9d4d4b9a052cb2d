"""Runs an exported segmentation model where it is to work: needs ai-edge-litert, NumPy, Pillow.

python run_on_device.py               checks the test picture, prints OK and the time
python run_on_device.py photo.jpg     writes photo.classes.png: black, and a grey per class
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def main() -> None:
    """Checks the test picture, times the model, writes the classes of photos."""
    folder = Path(__file__).resolve().parent
    contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    model = Interpreter(model_path=str(folder / contract["file"]), num_threads=1)
    model.allocate_tensors()
    slot, result = model.get_input_details()[0], model.get_output_details()[0]
    _, height, width, _ = contract["input"]["shape"]

    def logits(pixels: np.ndarray) -> np.ndarray:  # uint8 (height, width, 3), RGB
        less = 128 if contract["input"]["type"] == "int8" else 0
        model.set_tensor(
            slot["index"], (pixels.astype(np.int16) - less).astype(slot["dtype"])[None]
        )
        model.invoke()
        return model.get_tensor(result["index"])[0]

    pixels = np.fromfile(folder / "picture.rgb", np.uint8).reshape(height, width, 3)
    expected = np.fromfile(folder / "picture.logits", result["dtype"]).reshape(result["shape"][1:])
    different = int((logits(pixels).argmax(-1) != expected.argmax(-1)).sum())
    started = time.perf_counter()
    for _ in range(20):
        logits(pixels)
    milliseconds = 50 * (time.perf_counter() - started)
    print("OK" if not different else f"{different} of {height * width} pixels differ")
    print(f"{milliseconds:.2f} ms an image, classes: {', '.join(contract['output']['classes'])}")
    for photo in map(Path, sys.argv[1:]):
        picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        classes = logits(np.asarray(picture)).argmax(-1).astype(np.uint8)
        step = 255 // max(1, len(contract["output"]["classes"]) - 1)
        Image.fromarray(classes * np.uint8(step)).save(photo.with_suffix(".classes.png"))
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
