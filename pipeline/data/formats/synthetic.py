"""Synthetic data set: drawn animals, without a download, for the demo and the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipeline.data.classes import PET_COLOURS, PET_NAMES
from pipeline.data.image_reader import as_png
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import Collection, Picture, Sample, Split

COUNTS = {"train": 900, "test": 200}  # number of pictures per split
KINDS = {  # class names by number of classes; the pictures are the same
    2: ("pet", "background"),
    3: PET_NAMES,
    6: ("pet", "wall", "ground", "ball", "box", "stick"),
}
BORDER_WIDTH = 0.035  # of the image side; as wide as the border in Oxford-IIIT Pet


def texture(random: np.random.Generator, size: int, cells: int, strength: float) -> np.ndarray:
    """Smooth noise around zero with `cells` blobs along a side, float32 (size, size, 3)."""
    noise = random.normal(0, 1, (cells, cells)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
    tint = 1 + 0.3 * random.normal(0, 1, 3)
    return (strength * smooth[..., None] * tint).astype(np.float32)


def animal_outline(random: np.random.Generator, size: int) -> Image.Image:
    """Silhouette of a four-legged animal, mode "L": 255 inside, 0 outside."""
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    x, y = random.uniform(0.38, 0.62, 2) * size
    length, height = random.uniform(0.20, 0.31) * size, random.uniform(0.11, 0.19) * size
    leg, thickness = random.uniform(0.16, 0.30) * size, random.uniform(0.055, 0.09) * size
    head = random.uniform(0.10, 0.16) * size

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> None:
        draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=255)

    ellipse(x, y, length, height)
    for offset in (-0.75, -0.5, 0.45, 0.72):  # legs, of half the body's length
        hip, foot = x + offset * length, x + offset * length + random.uniform(-0.05, 0.05) * size
        ground = y + height * 0.6 + leg
        draw.line((hip, y, foot, ground), fill=255, width=int(thickness))
        ellipse(foot, ground, thickness * 0.7, thickness * 0.5)
    hx, hy = x + length * 0.95, y - height * random.uniform(0.5, 1.5)
    draw.line((x + length * 0.5, y, hx, hy), fill=255, width=int(head * 1.1))  # neck
    ellipse(hx, hy, head, head * 0.9)
    ellipse(hx + head * 0.7, hy + head * 0.25, head * 0.55, head * 0.4)  # muzzle
    reach = head * random.uniform(1.3, 1.9)
    for side in (-0.65, 0.25):  # pointed ears
        draw.polygon(
            [
                (hx + side * head, hy - head * 0.5),
                (hx + (side + 0.55) * head, hy - head * 0.5),
                (hx + (side + 0.2) * head, hy - reach),
            ],
            fill=255,
        )
    swing = random.uniform(-1.2, 0.8) * height
    tail = [
        (x - length * (0.85 + 0.3 * t), y - swing * t - height * 0.8 * np.sin(3 * t))
        for t in np.linspace(0, 1, 9)
    ]
    draw.line(tail, fill=255, width=int(thickness * 0.8), joint="curve")
    if random.random() < 0.5:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return canvas.rotate(random.uniform(-25, 25), Image.Resampling.BILINEAR)


def draw_animal(seed: tuple[int, ...], size: int, classes: int) -> tuple[bytes, bytes]:
    """Draws a synthetic photograph and its mask: an animal with fur, its shadow, and clutter.

    Both have twice the given size; `decode` shrinks them. Fur and clutter take their colours from
    the same range, so that colour alone does not separate the classes.

    Args:
        seed: of the random numbers; the same seed gives the same pictures.
        size: side of the prepared image, in pixels.
        classes: a key of KINDS. 3: pet, background, and a band around the outline as border, like
            in Oxford-IIIT Pet. 6: the animal and five kinds of objects behind it.

    Returns:
        Photograph and mask, encoded as PNG. Mask values are indices of KINDS[classes].
    """
    random = np.random.default_rng(seed)
    large = 2 * size
    outline = animal_outline(random, large)
    eroded = dilated = outline
    for _ in range(round(BORDER_WIDTH * large / 2)):  # many small filters: faster than a large one
        eroded = eroded.filter(ImageFilter.MinFilter(3))
        dilated = dilated.filter(ImageFilter.MaxFilter(3))
    inside, around = np.asarray(eroded) > 127, np.asarray(dilated) > 127

    def colour() -> np.ndarray:
        return random.uniform(45, 210) + random.uniform(-40, 40, 3)

    def fill(rgb: np.ndarray) -> tuple[int, ...]:
        return tuple(int(value) for value in rgb)

    fur = colour()
    scene = Image.new("RGB", (large, large), fill(colour()))
    draw = ImageDraw.Draw(scene)
    horizon = random.uniform(0.4, 0.8) * large
    draw.rectangle((0, horizon, large, large), fill=fill(colour()))
    clutter = Image.new("L", scene.size, 1)  # mask of what is behind the animal, as in KINDS[6]
    draw_mask = ImageDraw.Draw(clutter)
    draw_mask.rectangle((0, horizon, large, large), fill=2)
    for _ in range(random.integers(4, 14)):  # balls, boxes and sticks
        left, top = random.uniform(-0.1, 0.9, 2) * large
        right, bottom = (
            left + random.uniform(0.05, 0.35) * large,
            top + random.uniform(0.05, 0.35) * large,
        )
        box, paint = (left, top, right, bottom), fill(fur if random.random() < 0.25 else colour())
        kind = random.integers(3)
        if kind == 0:
            draw.ellipse(box, fill=paint)
            draw_mask.ellipse(box, fill=3)
        elif kind == 1:
            draw.rectangle(box, fill=paint)
            draw_mask.rectangle(box, fill=4)
        else:
            draw.line(box, fill=paint, width=9)
            draw_mask.line(box, fill=5, width=9)
    pixels = np.asarray(scene, np.float32) + texture(random, large, int(random.integers(6, 40)), 16)
    shadow = outline.transform(
        outline.size, Image.Transform.AFFINE, (1, 0.35, -0.15 * large, 0, 1, -0.05 * large)
    )
    pixels *= (
        1
        - 0.35 * np.asarray(shadow.filter(ImageFilter.GaussianBlur(5)), np.float32)[..., None] / 255
    )

    coat = (
        fur
        + texture(random, large, int(random.integers(30, 90)), 22)
        + texture(random, large, 4, 25)
    )
    if random.random() < 0.5:  # patches of a second colour
        patches = texture(random, large, 6, 1)[..., :1] > 0.5
        coat = np.where(patches, colour() + coat - fur, coat)
    coat += np.linspace(25, -35, large)[:, None, None]  # light from above
    alpha = np.asarray(outline.filter(ImageFilter.GaussianBlur(1.5)), np.float32)[..., None] / 255
    pixels = pixels * (1 - alpha) + coat * alpha + random.normal(0, 6, pixels.shape)
    pixels = pixels * random.uniform(0.75, 1.2) + random.uniform(-15, 15)

    if classes == 3:
        mask = np.where(inside, 0, np.where(around, 2, 1))
    else:
        others = np.asarray(clutter) if classes == 6 else 1
        mask = np.where(np.asarray(outline) > 127, 0, others)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return as_png(image), as_png(Image.fromarray(mask.astype(np.uint8)))


def drawn_animals(classes: int, size: tuple[int, int], seed: int) -> Collection:
    """The synthetic data set.

    Each picture has its own seed, so it depends neither on the others nor on their number.

    Args:
        classes: a key of KINDS.
        size: height and width of the prepared images; pictures are drawn as squares.
        seed: of the data set.
    """

    def read(split: str) -> Iterator[Sample]:
        stream = ("train", "test").index(split)
        for number in range(COUNTS[split]):
            draw = functools.partial(draw_animal, (seed, stream, number), max(size), classes)
            yield sample(functools.lru_cache(1)(draw), f"{split} drawing {number}")

    def sample(draw: Callable[[], tuple[bytes, bytes]], name: str) -> Sample:
        image = Picture(lambda: draw()[0], name)
        return Sample(name, image, Picture(lambda: draw()[1], f"mask of {name}"))

    splits = {split: Split(COUNTS[split], functools.partial(read, split)) for split in COUNTS}
    colours = PET_COLOURS if classes == 3 else None
    return Collection(
        title="synthetic animals",
        splits=splits,
        labels=Labels(KINDS[classes], colours),
        named=False,
        synthetic=True,
    )
