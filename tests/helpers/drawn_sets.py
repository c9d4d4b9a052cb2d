"""Data sets of drawn pictures on disk, and what data preparation makes of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import data_preparation
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.data.dataset import SPLITS, load_classes, load_split
from pipeline.report import charts, overlays
from pipeline.report.dataset_summary import LEFT_OUT

YAML = """# a comment
path: .
train: images/train
val: images/val
masks_dir: masks
names:
  0: sky
  1: road
  2: tree
label_mapping:
  11: ignore_label
"""


def stripes(number, classes, width=40, height=32):
    """Image and mask of vertical stripes, one per class; red in the image is the class index.

    Green is 7 times `number`, so that a test can tell which picture an array is.
    """
    order = (np.arange(classes) + number) % classes
    mask = np.repeat(order[np.arange(width) * classes // width][None], height, axis=0)
    image = np.stack([mask * 255 // max(1, classes - 1), mask * 0 + 7 * number, mask * 0], -1)
    return image.astype(np.uint8), mask.astype(np.uint8)


def save(path, pixels, **options):
    """Writes an array or a picture; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


def write_set(folder, number=12, classes=3, image="images/p{:02}.png", mask="masks/p{:02}.png"):
    """Writes images and masks of `stripes`; `image` and `mask` are patterns of file names."""
    for k in range(number):
        pixels, truth = stripes(k, classes)
        save(folder / image.format(k), pixels)
        save(folder / mask.format(k), truth)
    return folder


def add_noise(folder):
    """Makes photographs of the pictures in a folder: their blue is noise."""
    for number, path in enumerate(sorted(folder.iterdir())):
        pixels = np.array(Image.open(path))
        noise = np.random.default_rng(number).integers(0, 256, pixels.shape[:2])
        pixels[..., 2] = noise
        save(path, pixels)


def with_palette(values, colours):
    """A mask of mode "P" with these palette colours."""
    picture = Image.fromarray(np.asarray(values, np.uint8))
    picture.putpalette([part for colour in colours for part in colour])
    return picture


def prepare(models_dir, data, *flags):
    """Runs data_preparation.py without drawing dataset.jpg; returns record, classes and arrays.

    None for `data`: the flags name it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "save", lambda _, path: path.touch())
        patch.setattr(overlays, "examples", lambda *_: None)
        where = ["--models-dir", str(models_dir), *(["--data", str(data)] if data else [])]
        size = () if "--image-size" in flags else ("--image-size", "32")
        data_preparation.main([*where, *size, *map(str, flags)])
    arrays = {split: [part[:] for part in load_split(models_dir, split)] for split in SPLITS}
    left_out = artifact_path(models_dir, "dataset").with_name(LEFT_OUT)
    return SimpleNamespace(
        record=read_record(models_dir, "dataset"),
        classes=load_classes(models_dir),
        counts={split: len(images) for split, (images, _) in arrays.items()},
        images={split: images for split, (images, _) in arrays.items()},
        masks={split: masks for split, (_, masks) in arrays.items()},
        all_masks=np.concatenate([masks for _, masks in arrays.values()]),
        all_images=np.concatenate([images for images, _ in arrays.values()]),
        left_out=left_out.read_text("utf-8").splitlines() if left_out.exists() else [],
    )


def trimap(seed):
    """A mask of a disc (1) with a border (3) on background (2)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    distance = np.hypot(x - random.uniform(30, 66), y - random.uniform(30, 66)) - 25
    mask = np.where(distance < -2, 1, np.where(distance < 2, 3, 2))
    return Image.fromarray(mask.astype(np.uint8))
