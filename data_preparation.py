"""Stage 1 of 5: prepare the data set.

Reads   Oxford-IIIT Pet 4.0.0 through TensorFlow Datasets (downloaded once, 773 MiB, or read
        from TFDS_DATA_DIR / --data-dir); or, with --dataset synthetic, draws its own animals.
Writes  models/dataset/   images and masks as uint8 arrays that later stages memory-map, and
                          dataset.json, which says what they are
        dataset.jpg       a few photos, their masks and overlays

    python data_preparation.py
    python data_preparation.py --dataset synthetic      (no download, about 15 s)

Expect 3312 training, 368 validation and 3669 test examples; about half a minute once TFDS
has the data. The official `train` split is cut 90/10 into training and validation by the
seed; the official `test` split stays whole and only evaluation.py reads it.

Your own photos: --dataset folder --data-dir DIR, with DIR/images/NAME.jpg (or .png) and
DIR/masks/NAME.png holding 1 for pet, 2 for background, 3 for border. A fifth of them, chosen by the
seed, becomes the test split.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pipeline  # first: it sets what TensorFlow reads at import

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

IMAGE_SIZE = 128  # pixels, the side of the square that images and masks are resized to
VALIDATION_SHARE = 0.1  # of the official train split
FOLDER_TEST_SHARE = 0.2  # of a folder of your own photos
SYNTHETIC_COUNTS = {"train": 900, "test": 200}  # drawn images per official split
BORDER_WIDTH = 0.035  # of the image side: the drawn trimaps' border band, as wide as the real one

# What the audit counts.
UNREADABLE, ODD_VALUES = "unreadable, left out", "mask values outside 1..3, left out"
NO_PET, ODD_SIZES = "mask without any pet, kept", "image and mask of different size, kept"
AUDIT = (UNREADABLE, ODD_VALUES, NO_PET, ODD_SIZES)

Example = tuple[bytes, bytes]  # an encoded image and an encoded trimap, as they lie on disk
Source = Callable[[], Example]  # gives an example when called, so that workers read in parallel


# --- reading ------------------------------------------------------------------------------


def read_oxford_pets(split: str, data_dir: Path | None) -> tuple[int, Iterator[Source]]:
    """Number and stream of the examples of an official split, still encoded.

    TFDS would decode them too, but would stop at the first unreadable file; `decode` counts it.

    Raises:
        pipeline.UserError: the data set is not there and cannot be downloaded.
    """
    with pipeline.silenced():
        import tensorflow_datasets as tfds  # slow to import, and not needed by the other data sets

    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder("oxford_iiit_pet:4.0.0", data_dir=folder)
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its download layer does
        raise pipeline.UserError(
            f"Oxford-IIIT Pet is neither in {folder or '~/tensorflow_datasets'} nor to be downloaded "
            f"({type(error).__name__}); copy a prepared tensorflow_datasets folder here and name it with "
            "--data-dir DIR, or go on without it: python data_preparation.py --dataset synthetic"
        ) from None
    raw = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
    config = tfds.ReadConfig(interleave_cycle_length=1)  # shards in order: the same order everywhere
    stream = builder.as_dataset(split=split, decoders=raw, read_config=config, shuffle_files=False)
    read = (functools.partial(lambda e: (e["image"], e["segmentation_mask"]), e) for e in tfds.as_numpy(stream))
    return builder.info.splits[split].num_examples, read


def read_folder(split: str, data_dir: Path | None, seed: int) -> tuple[int, Iterator[Source]]:
    """Number and stream of the examples of DIR/images and DIR/masks that fall into `split`.

    Raises:
        pipeline.UserError: no folder named, no images in it, or an image without its mask.
    """
    if data_dir is None:
        raise pipeline.UserError("--dataset folder needs --data-dir DIR with DIR/images and DIR/masks")
    images = sorted(p for p in (data_dir / "images").glob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(images) < 10:
        raise pipeline.UserError(f"{data_dir / 'images'} holds {len(images)} .jpg or .png files; at least 10 are needed")
    for path in images:
        if not (data_dir / "masks" / f"{path.stem}.png").exists():
            raise pipeline.UserError(f"{data_dir / 'masks' / path.stem}.png is missing; draw it or remove {path}")
    test = np.random.default_rng(seed).permutation(len(images)) < FOLDER_TEST_SHARE * len(images)
    chosen = [path for path, in_test in zip(images, test) if in_test == (split == "test")]

    def read(path: Path) -> Example:
        return path.read_bytes(), (data_dir / "masks" / f"{path.stem}.png").read_bytes()

    return len(chosen), (functools.partial(read, path) for path in chosen)


def decode(source: Source, size: int) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """Reads, decodes and resizes one example, and names its blemishes.

    Any size, orientation and colour mode is taken (grey, palette, RGBA, CMYK). The image is
    resized with antialiasing, the mask by its nearest values, both to a square.

    Returns:
        uint8 image (size, size, 3), uint8 mask (size, size) of 0 pet, 1 background, 2 border,
        and the blemishes, from AUDIT; image and mask are None if they cannot be used.
    """
    image_bytes, trimap_bytes = source()
    try:
        image = Image.open(io.BytesIO(image_bytes)).convert("RGB")
        trimap = Image.open(io.BytesIO(trimap_bytes))
        trimap.load()
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return None, None, [UNREADABLE]
    if trimap.mode not in ("L", "P", "I", "I;16"):  # a grey mask saved as RGB or RGBA
        trimap = trimap.convert("RGB").getchannel(0)
    values = np.asarray(trimap)
    if values.min() < 1 or values.max() > 3:
        return None, None, [ODD_VALUES]
    blemishes = [NO_PET] * (not (values == 1).any()) + [ODD_SIZES] * (image.size != trimap.size)
    image = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's widens when it shrinks
    trimap = Image.fromarray(values.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(trimap) - np.uint8(1), blemishes


# --- the synthetic data set ---------------------------------------------------------------


def texture(random: np.random.Generator, size: int, cells: int, strength: float) -> np.ndarray:
    """Smooth noise around zero, float32 (size, size, 3): `cells` blobs along a side."""
    noise = random.normal(0, 1, (cells, cells)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
    tint = 1 + 0.3 * random.normal(0, 1, 3)
    return (strength * smooth[..., None] * tint).astype(np.float32)


def animal_outline(random: np.random.Generator, size: int) -> Image.Image:
    """The silhouette of a four-legged animal, mode L, 255 inside: body, head, ears, legs, tail."""
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    x, y = random.uniform(0.38, 0.62, 2) * size
    length, height = random.uniform(0.20, 0.31) * size, random.uniform(0.11, 0.19) * size
    leg, thick = random.uniform(0.16, 0.30) * size, random.uniform(0.055, 0.09) * size
    head = random.uniform(0.10, 0.16) * size

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> None:
        draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=255)

    ellipse(x, y, length, height)
    for place in (-0.75, -0.5, 0.45, 0.72):
        foot = x + place * length + random.uniform(-0.05, 0.05) * size
        draw.line((x + place * length, y, foot, y + height * 0.6 + leg), fill=255, width=int(thick))
        ellipse(foot, y + height * 0.6 + leg, thick * 0.7, thick * 0.5)
    hx, hy = x + length * 0.95, y - height * random.uniform(0.5, 1.5)
    draw.line((x + length * 0.5, y, hx, hy), fill=255, width=int(head * 1.1))  # neck
    ellipse(hx, hy, head, head * 0.9)
    ellipse(hx + head * 0.7, hy + head * 0.25, head * 0.55, head * 0.4)  # muzzle
    reach = head * random.uniform(1.3, 1.9)
    for side in (-0.65, 0.25):  # pointed ears
        draw.polygon([(hx + side * head, hy - head * 0.5), (hx + (side + 0.55) * head, hy - head * 0.5),
                      (hx + (side + 0.2) * head, hy - reach)], fill=255)  # fmt: skip
    swing = random.uniform(-1.2, 0.8) * height
    tail = [(x - length * (0.85 + 0.3 * t), y - swing * t - height * 0.8 * np.sin(3 * t)) for t in np.linspace(0, 1, 9)]
    draw.line(tail, fill=255, width=int(thick * 0.8), joint="curve")
    if random.random() < 0.5:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return canvas.rotate(random.uniform(-25, 25), Image.Resampling.BILINEAR)


def draw_animal(random: np.random.Generator, size: int) -> Example:
    """One synthetic example: a furred animal with a shadow on a cluttered background.

    Drawn at twice the size and shrunk by `decode`. The trimap's border is a band around the
    outline, as in the real set. Fur and clutter take their colours from the same range, so
    colour alone does not tell them apart.
    """
    large = 2 * size
    outline = animal_outline(random, large)
    eroded = dilated = outline
    for _ in range(round(BORDER_WIDTH * large / 2)):  # small filters in a row: quicker than one large
        eroded, dilated = eroded.filter(ImageFilter.MinFilter(3)), dilated.filter(ImageFilter.MaxFilter(3))
    inside, around = np.asarray(eroded) > 127, np.asarray(dilated) > 127

    def colour() -> np.ndarray:
        return random.uniform(45, 210) + random.uniform(-40, 40, 3)

    def fill(value: np.ndarray) -> tuple[int, ...]:
        return tuple(int(v) for v in value)

    fur = colour()
    scene = Image.new("RGB", (large, large), fill(colour()))
    draw = ImageDraw.Draw(scene)
    horizon = random.uniform(0.4, 0.8) * large
    draw.rectangle((0, horizon, large, large), fill=fill(colour()))
    for _ in range(random.integers(4, 14)):  # clutter: blobs, boxes and sticks
        left, top = random.uniform(-0.1, 0.9, 2) * large
        right, bottom = left + random.uniform(0.05, 0.35) * large, top + random.uniform(0.05, 0.35) * large
        box, paint = (left, top, right, bottom), fill(fur if random.random() < 0.25 else colour())
        kind = random.integers(3)
        if kind == 0:
            draw.ellipse(box, fill=paint)
        elif kind == 1:
            draw.rectangle(box, fill=paint)
        else:
            draw.line(box, fill=paint, width=9)
    pixels = np.asarray(scene, np.float32) + texture(random, large, int(random.integers(6, 40)), 16)
    shadow = outline.transform(outline.size, Image.Transform.AFFINE, (1, 0.35, -0.15 * large, 0, 1, -0.05 * large))
    pixels *= 1 - 0.35 * np.asarray(shadow.filter(ImageFilter.GaussianBlur(5)), np.float32)[..., None] / 255

    coat = fur + texture(random, large, int(random.integers(30, 90)), 22) + texture(random, large, 4, 25)
    if random.random() < 0.5:  # patches of a second colour
        patches = texture(random, large, 6, 1)[..., :1] > 0.5
        coat = np.where(patches, colour() + coat - fur, coat)
    coat += np.linspace(25, -35, large)[:, None, None]  # lit from above
    soft = np.asarray(outline.filter(ImageFilter.GaussianBlur(1.5)), np.float32)[..., None] / 255
    pixels = pixels * (1 - soft) + coat * soft + random.normal(0, 6, pixels.shape)
    pixels = pixels * random.uniform(0.75, 1.2) + random.uniform(-15, 15)

    trimap = np.where(inside, 1, np.where(around, 3, 2)).astype(np.uint8)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return as_png(image), as_png(Image.fromarray(trimap))


def as_png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def draw_synthetic(split: str, size: int, seed: int) -> tuple[int, Iterator[Source]]:
    """Number and stream of drawn examples. Each has a seed of its own, so that the order and
    the number of the others do not matter."""
    count = SYNTHETIC_COUNTS[split]
    kind = ("train", "test").index(split)
    return count, (functools.partial(draw_animal, np.random.default_rng([seed, kind, number]), size)
                   for number in range(count))  # fmt: skip


# --- writing ------------------------------------------------------------------------------


def prepare_split(number: int, sources: Iterator[Source], size: int, label: str,
                  audit: Counter[str]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Decodes a stream of examples into uint8 images (n, size, size, 3) and masks (n, size, size).

    Blemishes are counted in `audit`.

    Raises:
        pipeline.UserError: less than half of it can be used.
    """
    images = np.empty((number, size, size, 3), np.uint8)
    masks = np.empty((number, size, size), np.uint8)
    kept = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool, pipeline.progress(label, number, "images") as bar:
        while chunk := list(itertools.islice(sources, 64)):  # so that memory holds few photographs
            for image, mask, blemishes in pool.map(lambda source: decode(source, size), chunk):
                audit.update(blemishes)
                bar.update()
                if image is not None:
                    images[kept], masks[kept] = image, mask
                    kept += 1
    if kept < max(2, number / 2):
        found = ", ".join(f"{count} {what}" for what, count in audit.items())
        raise pipeline.UserError(f"only {kept} of {number} {label} examples can be used: {found}")
    return images[:kept], masks[:kept]


def write_data_set(folder: Path, arrays: dict[str, tuple[np.ndarray, np.ndarray]], about: dict) -> None:
    """Writes the arrays and, last, `dataset.json`, which names them: until it is replaced, the
    old data set is whole; the old arrays go only after that."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, (images, masks) in arrays.items():
        for kind, array in (("images", images), ("masks", masks)):
            name = f"{split}_{kind}-{about['fingerprint'][:8]}.npy"
            with pipeline.atomic(folder / name) as temporary:
                np.save(temporary, array)
            files[f"{split}_{kind}"] = name
    pipeline.write_json(folder / "dataset.json", {**about, "files": files})
    for path in folder.glob("*.npy"):
        if path.name not in files.values():
            path.unlink()


def describe(arrays: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[dict, str]:
    """Example count and class shares of each split, and one fingerprint of every byte."""
    digest, splits = hashlib.sha256(), {}
    for split, (images, masks) in arrays.items():
        counts = np.bincount(masks.ravel(), minlength=len(pipeline.CLASSES))
        shares = {name: round(float(n / masks.size), 4) for name, n in zip(pipeline.CLASSES, counts)}
        splits[split] = {"examples": len(images), "class_shares": shares}
        digest.update(images)
        digest.update(masks)
    return splits, digest.hexdigest()


def load_split(models_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The one loader: a split of the prepared data set, memory-mapped.

    Args:
        split: "train", "validation" or "test"; only evaluation.py asks for "test".

    Returns:
        uint8 images (n, size, size, 3), RGB, and uint8 masks (n, size, size): 0 pet,
        1 background, 2 border.

    Raises:
        pipeline.UserError: the data set is missing or not whole.
    """
    about = pipeline.read_record(models_dir, "dataset")
    folder = pipeline.artifact_path(models_dir, "dataset").parent
    try:
        images, masks = (np.load(folder / about["files"][f"{split}_{kind}"], mmap_mode="r") for kind in ("images", "masks"))
    except (OSError, ValueError, KeyError) as error:
        raise pipeline.UserError(f"the data set in {folder} is not whole ({error}); "
                                 f"make it anew with: {pipeline.command('dataset', models_dir)}") from None  # fmt: skip
    return images, masks


# --- the picture --------------------------------------------------------------------------

COLOURS = np.array([(242, 142, 43), (58, 72, 98), (255, 255, 255)], np.uint8)  # pet, background, border


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, dimmed where the mask says background, with the border drawn in white.

    Args:
        image: uint8 (height, width, 3). mask: class indices (height, width).
    """
    share = np.array([0.35, 0.65, 0.75])[mask][..., None]
    return (image * (1 - share) + COLOURS[mask] * share).astype(np.uint8)


def draw_picture(path: Path, images: np.ndarray, masks: np.ndarray, title: str) -> None:
    """Draws the first examples as columns of photo, mask and overlay, with a legend."""
    import matplotlib.figure
    from matplotlib.patches import Patch

    rows = [images, COLOURS[masks], [overlay(*pair) for pair in zip(images, masks)]]
    figure = matplotlib.figure.Figure((1.5 * len(images), 5.6), layout="constrained", facecolor="#f4f1ea")
    axes = figure.subplots(3, len(images), squeeze=False)
    for row, pictures, name in zip(axes, rows, ("photo", "mask", "overlay")):
        row[0].set_ylabel(name, fontsize=12)
        for axis, picture in zip(row, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    handles = [Patch(facecolor=colour / 255, edgecolor="#555555", label=name)
               for name, colour in zip(pipeline.CLASSES, COLOURS)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    figure.suptitle(title, fontsize=13)
    with pipeline.atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


# --- the stage ----------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--dataset", choices=("oxford_iiit_pet", "synthetic", "folder"), default="oxford_iiit_pet",
                        help="where the examples come from (default: %(default)s)")  # fmt: skip
    parser.add_argument("--data-dir", type=Path, metavar="DIR",
                        help="the TFDS data folder, or the folder of your own photos")  # fmt: skip
    parser.add_argument("--image-size", type=pipeline.bounded(int, 32, 1024), default=IMAGE_SIZE, metavar="PIXELS",
                        help="side of the square images, a multiple of 32 (default: %(default)s)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.image_size % 32:
        parser.error(f"--image-size {arguments.image_size} is not a multiple of 32, the stride of the network")
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises pipeline.UserError for what the user can mend."""
    arguments = parse(argv)
    models_dir, size = arguments.models_dir, arguments.image_size
    stage = pipeline.Stage(__file__, arguments, *["data_dir"] * (arguments.dataset != "folder"))
    if arguments.if_needed and stage.up_to_date("dataset"):
        return

    audit: Counter[str] = Counter()
    official = {}
    for split in ("train", "test"):
        if arguments.dataset == "synthetic":
            number, sources = draw_synthetic(split, size, arguments.seed)
        elif arguments.dataset == "folder":
            number, sources = read_folder(split, arguments.data_dir, arguments.seed)
        else:
            number, sources = read_oxford_pets(split, arguments.data_dir)
        official[split] = prepare_split(number, sources, size, split, audit)

    images, masks = official["train"]
    order = np.random.default_rng(arguments.seed).permutation(len(images))
    cut = max(1, round(VALIDATION_SHARE * len(images)))
    rows = {"train": np.sort(order[cut:]), "validation": np.sort(order[:cut])}
    arrays = {split: (images[chosen], masks[chosen]) for split, chosen in rows.items()}
    arrays["test"] = official["test"]

    splits, fingerprint = describe(arrays)
    source = {"oxford_iiit_pet": "Oxford-IIIT Pet 4.0.0 (TensorFlow Datasets)", "synthetic": "synthetic animals",
              "folder": str(arguments.data_dir)}[arguments.dataset]  # fmt: skip
    record = stage.record(fingerprint, {"audit": {what: audit[what] for what in AUDIT}})
    about = {"source": source, "synthetic": arguments.dataset == "synthetic", "image_size": size,
             "class_names": pipeline.CLASSES, "splits": splits, "fingerprint": fingerprint, **record}  # fmt: skip
    write_data_set(pipeline.artifact_path(models_dir, "dataset").parent, arrays, about)

    real_run = models_dir.resolve() == pipeline.MODELS_DIR
    picture = (pipeline.ROOT if real_run else models_dir) / "dataset.jpg"
    shown = arrays["train"][0][:6], arrays["train"][1][:6]
    draw_picture(picture, *shown, f"{source}, {size} x {size} pixels")

    for split, facts in splits.items():
        shares = ", ".join(f"{name} {share:.3f}" for name, share in facts["class_shares"].items())
        pipeline.say(f"{split:10} {facts['examples']:5} examples   {shares}")
    pipeline.say("audit: " + "; ".join(f"{audit[what]} {what}" for what in AUDIT))
    pipeline.say(f"wrote {models_dir}/dataset and {picture} in {stage.seconds()} s")


if __name__ == "__main__":
    pipeline.run(main)
