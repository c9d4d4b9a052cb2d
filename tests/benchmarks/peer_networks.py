"""What a user would pick instead, as int8 files for against_other_runtimes.py --peers.

    python -m venv peers && peers/bin/pip install -r tests/benchmarks/requirements_peers.txt
    peers/bin/python tests/benchmarks/peer_networks.py --folder DIR --image-size 128x128 --classes 3
    python tests/benchmarks/against_other_runtimes.py --peers DIR

In an environment of its own: torch and TensorFlow ask for different versions of the same packages.

YOLO26n-sem          Ultralytics' smallest network of this kind, from its yolo26n-sem.yaml, by its
                     own export with quantize=8: OpenVINO (NNCF, preset MIXED) and LiteRT (AI Edge
                     Quantizer). In OpenVINO it ends in a map of classes: its time includes
                     enlarging the logits 8 times and the argmax. In LiteRT it ends in float32
                     logits at full size. Its input is float in both
MobileNetV2 U-Net    of segmentation_models_pytorch, in OpenVINO, NNCF's default preset as our own
                     network has it there; it ends in logits at full size

No weights are downloaded: time and size do not depend on them, and no accuracy is claimed. They are
random; a few pictures drawn here give normalisation its statistics, so that values have the usual
range, and int8 its ranges. Ultralytics is AGPL-3.0: it is installed for this comparison alone, and
nothing here is a copy of it.

Parameters and multiply-accumulates are counted as those of our own .tflite files: weights and
biases once normalisation is folded into the convolutions; products in convolutions and dense
layers, by hooks, of what runs (YOLO's second head serves training alone). The products of YOLO's
attention are between activations and do not count: 0.6 % more at 480 x 384 pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

CALIBRATION_IMAGES = 32
MULTIPLE = 32  # pixels: what both networks halve five times
SEED = 7
YOLO_YAML = "yolo26n-sem.yaml"
PACKAGES = (
    *("torch", "ultralytics", "segmentation_models_pytorch", "openvino", "nncf"),
    *("litert-torch", "ai-edge-quantizer"),
)
RECORD = "peers.json"

os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}  # it would install, and ask

try:
    import nncf
    import numpy as np
    import openvino
    import segmentation_models_pytorch as smp
    import torch
    from PIL import Image
except ImportError as missing:
    MISSING: ImportError | None = missing
else:
    MISSING = None

Files = dict[str, Path]  # by runtime; of OpenVINO the .xml file, beside which lies a .bin file


def drawn_pictures(width: int, height: int) -> np.ndarray:
    """Random colours that run into each other: uint8 (CALIBRATION_IMAGES, height, width, 3)."""
    random = np.random.default_rng(SEED)
    spots = random.integers(0, 256, (CALIBRATION_IMAGES, 8, 8, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(few).resize((width, height), Image.BICUBIC)) for few in spots]
    )


def planar(pictures: np.ndarray) -> np.ndarray:
    """Pictures as torch takes them: float32 (n, 3, height, width) in 0..1."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / 255


def settle(network: torch.nn.Module, images: np.ndarray) -> None:
    """Gives the normalisation of an untrained network the statistics of these images."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all
    network.train()
    with torch.no_grad():
        for start in range(0, len(images), 8):
            network(torch.from_numpy(images[start : start + 8]))
    network.eval()


def counted(network: torch.nn.Module, image: np.ndarray) -> dict[str, int]:
    """Parameters and multiply-accumulates of what runs for an image (3, height, width)."""
    nn = torch.nn
    parameters: dict[str, int] = {}
    products: list[int] = []

    def look(name: str, module: nn.Module, taken: torch.Tensor, made: torch.Tensor) -> None:
        numbers = {key: each.numel() for key, each in module.named_parameters(recurse=False)}
        if isinstance(module, nn.BatchNorm2d):
            numbers.pop("weight")  # folded, it scales a kernel; its shift becomes a bias
        parameters[name] = sum(numbers.values())
        if isinstance(module, nn.ConvTranspose2d):
            products.append(taken.numel() * module.weight[0].numel())
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            products.append(made.numel() * module.weight[0].numel())

    hooks = [
        module.register_forward_hook(
            lambda module, taken, made, name=name: look(name, module, taken[0], made)
        )
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        network.eval()(torch.from_numpy(image[None]))
    for hook in hooks:
        hook.remove()
    return {"parameters": sum(parameters.values()), "multiply_accumulates": sum(products)}


def write_data_set(folder: Path, pictures: np.ndarray, classes: int) -> Path:
    """Pictures and masks of the class 0 as Ultralytics' export reads them; its data.yaml."""
    for kind in ("images", "masks"):
        (folder / kind / "val").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "images" / "val" / f"{number:03}.png")
        empty = Image.new("L", picture.shape[1::-1])
        empty.save(folder / "masks" / "val" / f"{number:03}.png")
    names = [f"class_{number}" for number in range(classes)]
    lines = [f"path: {folder}", "train: images/val", "val: images/val", "masks_dir: masks"]
    path = folder / "data.yaml"
    path.write_text("\n".join([*lines, f"names: {json.dumps(names)}", ""]), encoding="utf-8")
    return path


def make_yolo(folder: Path, pictures: np.ndarray, classes: int) -> tuple[dict[str, int], Files]:
    """YOLO26n-sem: its counts, and its own int8 exports in `folder`."""
    os.environ["YOLO_CONFIG_DIR"] = str(folder)  # not the user's own
    from ultralytics import YOLO
    from ultralytics.nn.tasks import SemanticSegmentationModel

    images, (height, width) = planar(pictures), pictures.shape[1:3]
    torch.manual_seed(SEED)
    yolo = YOLO(YOLO_YAML)
    network = SemanticSegmentationModel(YOLO_YAML, nc=classes, verbose=False)
    network.args, network.task, yolo.model = yolo.model.args, yolo.task, network
    settle(network, images)
    counts = counted(network, images[0])
    network.pt_path = str(folder / "yolo26n-sem.pt")  # beside which it writes
    data = write_data_set(folder / "data", pictures, classes)
    settings = {"quantize": 8, "data": str(data), "imgsz": [height, width], "device": "cpu"}
    exported = Path(yolo.export(format="openvino", **settings))
    lite = Path(yolo.export(format="litert", **settings))
    return counts, {"OpenVINO": next(exported.glob("*.xml")), "LiteRT": lite}


def make_unet(folder: Path, pictures: np.ndarray, classes: int) -> tuple[dict[str, int], Files]:
    """The U-Net on MobileNetV2: its counts, and its int8 form in `folder`."""
    images = planar(pictures)
    torch.manual_seed(SEED)
    network = smp.Unet("mobilenet_v2", encoder_weights=None, classes=classes)
    settle(network, images)
    counts = counted(network, images[0])
    one = torch.from_numpy(images[:1])
    plain = openvino.convert_model(network, example_input=one, input=list(one.shape))
    calibration = nncf.Dataset([image[None] for image in images])
    small = nncf.quantize(plain, calibration, subset_size=len(images))
    path = folder / "mobilenet_v2_unet.xml"
    openvino.save_model(small, path, compress_to_fp16=False)
    return counts, {"OpenVINO": path}


def write_all(folder: Path, width: int, height: int, classes: int) -> list[dict[str, Any]]:
    """Makes all networks, and writes their files and then the record into `folder`.

    Returns:
        A row of each: name, runtime, precision, files (name to SHA-256, first the one to open),
        parameters, multiply_accumulates.
    """
    pictures, rows = drawn_pictures(width, height), []
    (folder / RECORD).unlink(missing_ok=True)  # a killed run leaves none
    with tempfile.TemporaryDirectory() as place:
        for name, make in (("YOLO26n-sem", make_yolo), ("MobileNetV2 U-Net", make_unet)):
            counts, files = make(Path(place), pictures, classes)
            for runtime, path in files.items():
                stem, written = name.lower().replace(" ", "-"), {}
                for suffix in (".xml", ".bin") if path.suffix == ".xml" else (path.suffix,):
                    content = path.with_suffix(suffix).read_bytes()
                    (folder / (stem + suffix)).write_bytes(content)
                    written[stem + suffix] = hashlib.sha256(content).hexdigest()
                about = {"name": name, "runtime": runtime, "precision": "int8", "files": written}
                rows.append(about | counts)
    record = {
        "image_size": [width, height],
        "classes": classes,
        "calibration_images": f"{len(pictures)} drawn by peer_networks.py",
        "weights": "random",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "networks": rows,
    }
    temporary = folder / f".{RECORD}"
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RECORD)
    return rows


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: WIDTHxHEIGHT in multiples of 32."""
    sides = [int(side) for side in text.split("x")] if re.fullmatch(r"\d+x\d+", text) else []
    if not sides or not all(side and side % MULTIPLE == 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is not WIDTHxHEIGHT in multiples of {MULTIPLE}")
    return sides[0], sides[1]


def class_number(text: str) -> int:
    """An argparse type: 2 to 150 classes, as many as the pipeline takes."""
    if not text.isdecimal() or not 2 <= int(text) <= 150:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 2 and 150")
    return int(text)


def main() -> int:
    """Writes the folder and says what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="where the files are written"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        required=True,
        metavar="WIDTHxHEIGHT",
        help="pixels, as the data set of the network to compare with has them",
    )
    parser.add_argument(
        "--classes", type=class_number, required=True, help="as that data set has them"
    )
    arguments = parser.parse_args()
    if MISSING:
        remedy = "pip install -r tests/benchmarks/requirements_peers.txt"
        print(f"peer_networks.py: {MISSING.name} is missing; {remedy}", file=sys.stderr)
        return 2
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{arguments.folder}: {error.strerror}")
    for row in write_all(arguments.folder, *arguments.image_size, arguments.classes):
        print(
            f"{arguments.folder / next(iter(row['files']))}: {row['name']}, {row['runtime']} "
            f"{row['precision']}, {row['parameters'] / 1e6:.2f} M parameters, "
            f"{row['multiply_accumulates'] / 1e6:.0f} M multiply-accumulates"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
