"""Data sets of rectangles, written as the tools write them that have polygons."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.drawn_sets import save

WIDTH, HEIGHT = 120, 90
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


def boxes(number: int) -> list[tuple[int, Box]]:
    """Two objects of a picture: class 0 and, smaller and partly over it, class 1."""
    random = np.random.default_rng(number)
    x, y = int(random.integers(0, WIDTH - 60)), int(random.integers(0, HEIGHT - 50))
    return [(0, (x, y, x + 50, y + 40)), (1, (x + 30, y + 20, x + 58, y + 48))]


def picture(number: int) -> np.ndarray:
    """The photograph of `mask`, uint8 (HEIGHT, WIDTH, 3)."""
    return np.array([(90, 90, 90), (220, 60, 50), (60, 200, 70)], np.uint8)[mask(number)]


def mask(number: int) -> np.ndarray:
    """The classes that the objects cover: 0 background, 1 and 2 those of `boxes`."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (left, top, right, bottom) in boxes(number):
        pixels[top:bottom, left:right] = value + 1
    return pixels


def corners(box: Box) -> list[tuple[int, int]]:
    """The points of a box as a polygon."""
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def yolo_line(value: int, box: Box) -> str:
    """A line of a label file, with six digits as exports have them."""
    shares = [f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners(box)]
    return " ".join([str(value), *shares])


def write_yolo(folder: Path, image: str, label: str, numbers: range, newline: str = "\n") -> None:
    """Writes pictures and their label files; `image` and `label` are patterns of file names."""
    for number in numbers:
        save(folder / image.format(number), picture(number))
        path = folder / label.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [yolo_line(value, box) for value, box in boxes(number)]
        path.write_bytes((newline.join(lines) + newline).encode())


def labelme(
    number: int, name: str, labels: tuple[str, str] = ("red", "green")
) -> dict[str, object]:
    """The content of labelme's file of a picture."""
    shapes = [
        {
            "label": labels[value],
            "points": [[float(x), float(y)] for x, y in corners(box)],
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for value, box in boxes(number)
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def write_labelme(folder: Path, image: str, file: str, numbers: range) -> None:
    """Writes pictures and labelme's files; `image` and `file` are patterns of file names."""
    for number in numbers:
        path = save(folder / image.format(number), picture(number))
        target = folder / file.format(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(labelme(number, path.name), indent=2))


def encoded_mask(inside: np.ndarray) -> str:
    """A mask as labelme stores it in a shape."""
    buffer = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).convert("1").save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
