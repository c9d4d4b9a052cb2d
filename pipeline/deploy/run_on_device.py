"""Runs an exported segmentation model on the device. Needs ai-edge-litert, NumPy and Pillow only.

python run_on_device.py               checks the test picture, prints OK and the latency
python run_on_device.py photo.jpg     also writes photo.jpg.classes.png: the index of each pixel's
                                      class, at the photo's own size, with a palette of colours

Photos become the model's input as contract.json says ("picture", "photos"), as in training. The
class maps are those that evaluation.py --image writes. If the fit is "crop", they show the middle
of the photo, which is all that the model sees.

The exit code is 1 if the test picture gives other classes than it did where the folder was made, or
if a photo cannot be read.
"""

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

TIMED_RUNS = 20


def main() -> None:
    """Checks the test picture, times the model, and writes the classes of the photos."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # class names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    folder = Path(__file__).resolve().parent
    sys.path.insert(0, str(folder))
    from pipeline.data import marked_pictures
    from pipeline.data.class_maps import as_picture, class_map
    from pipeline.data.classes import make_classes
    from pipeline.data.decoding import open_picture
    from pipeline.data.fitting import fitted, rule_from
    from pipeline.data.photographs import rules_from, upright_rgb, white_key

    photos = list(map(Path, sys.argv[1:]))
    targets = {photo: photo.with_name(f"{photo.name}.classes.png") for photo in photos}
    for target in targets.values():
        if not marked_pictures.is_replaceable(target):
            sys.exit(f"{target} was not written by this program and stays; give it another name")
    contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    taken, given = contract["input"], contract["output"]
    trained = taken.get("photos", {})  # what the training pictures had beside 8-bit colours
    try:
        depth, fit = rules_from(trained), rule_from(taken.get("picture", {}))
    except ValueError as error:
        sys.exit(f"contract.json asks for {error}; export the folder and its program together")
    classes = make_classes(given["classes"], given.get("colours"))
    interpreter = Interpreter(model_path=str(folder / contract["file"]), num_threads=1)
    interpreter.allocate_tensors()
    input_details = interpreter.get_input_details()[0]
    output_details = interpreter.get_output_details()[0]
    _, height, width, _ = taken["shape"]

    def logits(pixels: np.ndarray) -> np.ndarray:
        """Logits (height, width, classes) of a uint8 RGB image (height, width, 3)."""
        offset = 128 if taken["type"] == "int8" else 0
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
    print(f"{milliseconds:.2f} ms per image, classes: {', '.join(classes.names)}")
    unread = 0
    for photo, target in targets.items():
        try:
            with open_picture(photo) as picture:
                white = white_key(picture)
                image, _ = upright_rgb(picture, photo, depth)
        except Exception as error:  # Pillow raises many types on damaged files
            print(f"{photo} cannot be read ({error})", file=sys.stderr)
            unread += 1
            continue
        seen = fitted(image, (height, width), fit)
        left, top, right, bottom = seen.part
        found = class_map(logits(np.asarray(seen.image)), (right - left, bottom - top), seen.box)
        marked_pictures.save(as_picture(found, classes.palette), target)
        print(f"wrote {target}")
        if white and white not in trained:
            print(
                f"note: {photo} is deeper than 8 bits, and no picture was that the model was "
                f"trained on; {getattr(depth, white)} is taken for white"
            )
    sys.exit(bool(different or unread))


if __name__ == "__main__":
    main()
