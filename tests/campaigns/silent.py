"""Writes drawn pictures and masks in every way that Pillow can, and compares what is read of them.

    python tests/campaigns/silent.py                      # 500 sets; the exit code counts failures
    python tests/campaigns/silent.py --sets 40 --seed 3   # fewer of them

Each set is one combination of how its masks and photographs are stored (FACTORS). The sample is
drawn by a seed and covers every pair of values that can occur together. The truth is known, so
every pixel that data_preparation.py prepares is compared with it. A combination that keeps all
values and is not ambiguous must be right; others may be refused, or wrong with a note.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import data_preparation
from pipeline.base.console import UserError
from pipeline.data.dataset import SPLITS, load_split
from pipeline.data.decoding import ORIENTATION, TURNS
from pipeline.report import charts, overlays
from tests.helpers.pictures import encoded, png_of_16_bits

PICTURES = 12
BACK = {**TURNS, 6: TURNS[8], 8: TURNS[6]}  # turns an upright picture into the stored one
COLOURS = {0: (0, 0, 0), 1: (200, 30, 40), 2: (20, 60, 220)}

# What the values of classes 0, 1 and 2 are in a mask; IGNORED ones are named as such.
CODES = {
    "0 1 2": (0, 1, 2),
    "1 2 3": (1, 2, 3),
    "0 255": (0, 255, 255),
    "0 128 255": (0, 128, 255),
    "0 1, 255 is no class": (0, 1, 255),
    "0 7 1000": (0, 7, 1000),
    "0 1, -9999 is no class": (0, 1, -9999),
    "0 1, 4e9 is no class": (0, 1, 4_000_000_000),
}
FACTORS: dict[str, tuple[str, ...]] = {
    "mask": (
        *("1", "L", "LA", "P grey", "P colour", "RGB grey", "RGBA grey", "RGB", "RGBA", "I;16"),
        *("I", "F", "RGB of 16 bits", "RGB grey of 16 bits"),
    ),
    "code": tuple(CODES),
    "palette": ("in order", "by frequency", "reversed", "random", "the same permutation"),
    "container": (
        *("png", "tiff", "gif", "bmp", "webp", "tga", "pcx", "ppm", "sgi", "qoi", "im", "dds"),
        *("jpeg", "jpeg2000", "avif", "mpo"),
    ),
    "compression": ("none", "lossless", "lossy"),
    "others": ("stored alike", "half of them plain grey PNG"),
    "photo": (
        *("L", "RGB", "RGBA opaque", "RGBA transparent", "infrared", "P", "CMYK", "F"),
        *("10 bits", "12 bits", "14 bits", "16 bits", "RGB of 12 bits", "RGB of 16 bits"),
    ),
    "photo container": ("png", "tiff", "webp", "jpeg", "ppm"),
    "EXIF of photo": ("none", *map(str, range(1, 9)), "mixed", "mixed with 90 degrees"),
    "EXIF of mask": ("none, as shown", "none, as stored", "own"),
    "shape": ("64x32", "32x32"),
}
Combination = dict[str, str]


# --- drawing ------------------------------------------------------------------------------


def drawn(number: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its mask of classes 0, 1, 2; some masks lack one of them."""
    random = np.random.default_rng(number)
    classes = [1, 2] if number % 3 else [2, 1][: 1 + number % 2]
    mask = np.zeros((height, width), np.uint8)
    for index in classes:
        high, wide = (int(random.integers(side // 4, side * 3 // 4)) for side in (height, width))
        y, x = int(random.integers(height - high)), int(random.integers(width - wide))
        mask[y : y + high, x : x + wide] = index
    y, x = np.mgrid[:height, :width]
    photo = np.stack([60 + mask * 70, 20 + y * 3, 20 + x * 2], -1)
    return photo.astype(np.uint8), mask


def as_stored(values: np.ndarray, turn: int) -> np.ndarray:
    """An upright array as it lies in a file with an EXIF orientation."""
    if turn not in TURNS:
        return values
    steps = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(steps[turn](values))


def exif_of(turn: int) -> dict[str, bytes]:
    if not turn:
        return {}
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return {"exif": exif.tobytes()}


# --- what can be written ------------------------------------------------------------------

INDEXED = ("1", "P grey", "P colour")
GREY = ("L", "LA", "P grey", "RGB grey", "RGBA grey")
HOLDS = {  # container: Pillow modes that it keeps
    "png": {"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "deep"},
    "tiff": {"1", "L", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"},
    "gif": {"P", "L"},
    "bmp": {"1", "L", "P", "RGB"},
    "webp": {"RGB", "RGBA"},
    "tga": {"1", "L", "LA", "P", "RGB", "RGBA"},
    "pcx": {"1", "L", "P", "RGB"},
    "ppm": {"1", "L", "RGB", "I;16"},
    "sgi": {"L", "RGB", "RGBA"},
    "qoi": {"RGB", "RGBA"},
    "im": {"1", "L", "LA", "P", "RGB", "I;16", "I", "F"},
    "dds": {"L", "LA", "RGB", "RGBA"},
    "jpeg": {"L", "RGB", "CMYK"},
    "mpo": {"L", "RGB"},
    "jpeg2000": {"L", "LA", "RGB", "RGBA", "I;16"},
    "avif": {"L", "RGB", "RGBA"},
}
SUFFIXES = {"jpeg2000": "jp2"}
WITH_EXIF = {"png", "tiff", "webp", "jpeg", "avif", "mpo"}
LOSSY = {"jpeg", "mpo", "jpeg2000", "avif"}
COMPRESSIONS = {  # container: by compression, what is passed to `save`
    "png": {"none": {"compress_level": 0}, "lossless": {"optimize": True}},
    "tiff": {
        "none": {},
        "lossless": {"compression": "tiff_lzw"},
        "lossy": {"compression": "jpeg", "quality": 60},
    },
    "webp": {"lossless": {"lossless": True, "exact": True}, "lossy": {"quality": 60}},
    "tga": {"none": {}, "lossless": {"compression": "tga_rle"}},
    "dds": {"none": {}, "lossy": {"pixel_format": "DXT1"}},
    "gif": {"none": {"optimize": False}, "lossless": {"optimize": True}},
    **{form: {"lossless": {}} for form in ("pcx", "qoi")},
    **{form: {"none": {}} for form in ("bmp", "ppm", "sgi", "im")},
    **{form: {"lossy": {"quality": 60}} for form in ("jpeg", "mpo", "avif")},
    "jpeg2000": {"lossless": {}, "lossy": {"irreversible": True, "quality_layers": [30]}},
}
PHOTO_MODES = {
    **{"L": "L", "RGB": "RGB", "RGBA opaque": "RGBA", "RGBA transparent": "RGBA", "P": "P"},
    **{"infrared": "RGBA", "CMYK": "CMYK", "F": "F", "RGB of 12 bits": "deep"},
    **{"RGB of 16 bits": "deep"},
    **{f"{bits} bits": "I;16" for bits in (10, 12, 14, 16)},
}
MASK_MODES = {
    **{name: name for name in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F")},
    **{"P grey": "P", "P colour": "P", "RGB grey": "RGB", "RGBA grey": "RGBA"},
    **{"RGB of 16 bits": "deep", "RGB grey of 16 bits": "deep"},
}


def possible(given: Combination) -> bool:
    """Whether values of some factors can occur together, as far as they are given."""
    mask, code, form = given.get("mask"), given.get("code"), given.get("container")
    values = CODES[code] if code else None
    if mask and values:
        if mask in ("RGB", "RGBA", "RGB of 16 bits", "P colour") and code != "0 1 2":
            return False  # the colours are the code
        if mask == "1" and code != "0 255":
            return False
        most = {"I;16": 65535, "RGB grey of 16 bits": 65535, "I": 2**31 - 1, "F": 2**40}
        least = {"I": -(2**31), "F": -(2**40)}
        if max(values) > most.get(mask, 255) or min(values) < least.get(mask, 0):
            return False
    if given.get("palette", "in order") != "in order" and mask and not mask.startswith("P"):
        return False
    if form and mask and MASK_MODES[mask] not in HOLDS[form]:
        return False
    compression = given.get("compression")
    if form and compression and compression not in COMPRESSIONS[form]:
        return False
    if form == "tga" and compression == "lossless" and mask == "1":
        return False
    if form == "tiff" and compression == "lossy" and mask and MASK_MODES[mask] not in ("L", "RGB"):
        return False
    if (
        form == "dds"
        and compression == "lossy"
        and mask
        and MASK_MODES[mask] not in ("RGB", "RGBA")
    ):
        return False
    if given.get("EXIF of mask") == "own" and form and form not in WITH_EXIF:
        return False
    if mask == "RGB grey" and form == "gif":
        return False
    others = given.get("others", "stored alike")
    if others != "stored alike" and mask in ("RGB", "RGBA", "RGB of 16 bits", "P colour"):
        return False
    if others != "stored alike" and values and (max(values) > 255 or min(values) < 0):
        return False
    photo, photo_form = given.get("photo"), given.get("photo container")
    if photo and photo_form and PHOTO_MODES[photo] not in HOLDS[photo_form]:
        return False
    turn = given.get("EXIF of photo")
    return not (photo_form == "ppm" and turn not in (None, "none"))


def sample(number: int, random: np.random.Generator) -> list[Combination]:
    """At least `number` combinations that together hold every possible pair of values."""
    names = list(FACTORS)
    wanted = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in FACTORS[a]
        for y in FACTORS[b]
        if possible({a: x, b: y})
    }
    combinations: list[Combination] = []
    unreachable = 0
    while wanted or len(combinations) < number:
        given: Combination = {}
        if wanted:
            pairs = sorted(wanted)
            given = dict(pairs[int(random.integers(len(pairs)))])
        complete = completed(given, names, wanted, random)
        if complete is None:  # a pair that no complete combination holds
            wanted.discard(tuple(sorted(given.items(), key=lambda item: names.index(item[0]))))
            unreachable += 1
            continue
        combinations.append(complete)
        wanted -= set(itertools.combinations(complete.items(), 2))
    return combinations


def completed(
    given: Combination, names: list[str], wanted: set, random: np.random.Generator
) -> Combination | None:
    """A possible combination with some values given that holds many wanted pairs; None without."""
    for _ in range(40):
        chosen = dict(given)
        for name in random.permutation([name for name in names if name not in given]):
            values = [v for v in FACTORS[name] if possible({**chosen, name: v})]
            if not values:
                break
            counts = [
                sum(
                    (pair in wanted) or (pair[::-1] in wanted)
                    for pair in (((name, v), item) for item in chosen.items())
                )
                for v in values
            ]
            best = [v for v, count in zip(values, counts) if count == max(counts)]
            chosen[str(name)] = best[int(random.integers(len(best)))]
        else:
            return {name: chosen[name] for name in names}
    return None


# --- writing one set ----------------------------------------------------------------------


def palette_order(how: str, values: np.ndarray, present: list[int], number: int) -> list[int]:
    """The values in the order in which the palette of a mask lists them."""
    if how == "by frequency":
        counts = {value: int((values == value).sum()) for value in present}
        return sorted((v for v in present if counts[v]), key=lambda value: -counts[value])
    if how == "reversed":
        return present[::-1]
    if how == "random":
        return np.random.default_rng(number).permutation(present).tolist()
    if how == "the same permutation":
        return present[1:] + present[:1]
    return present


def mask_picture(truth: np.ndarray, given: Combination, number: int) -> Image.Image | np.ndarray:
    """A mask of classes 0, 1, 2 in the mode and with the values of a combination."""
    mode, code = given["mask"], CODES[given["code"]]
    values = np.array(code)[truth]
    if mode in ("RGB", "RGBA", "RGB of 16 bits"):
        colours = np.array([COLOURS[k] for k in range(3)], np.uint8)[truth]
        if mode == "RGB of 16 bits":
            return colours.astype(np.uint16) * 257
        return Image.fromarray(colours).convert(mode)
    if mode == "P colour" or mode == "P grey":
        present = [0, 1, 2] if mode == "P colour" else sorted(set(code))
        source = truth if mode == "P colour" else values
        order = palette_order(given["palette"], source, present, number)
        indices = np.zeros(truth.shape, np.uint8)
        for index, value in enumerate(order):
            indices[source == value] = index
        picture = Image.frombytes("P", truth.shape[::-1], indices.tobytes())
        entries = [COLOURS[v] if mode == "P colour" else (v, v, v) for v in order]
        picture.putpalette([part for entry in entries for part in entry])
        return picture
    if mode == "1":
        return Image.fromarray(values > 0)
    if mode == "F":
        return Image.fromarray(values.astype(np.float32))
    if mode == "I":
        return Image.fromarray(values.astype(np.int32))
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16))
    if mode == "RGB grey of 16 bits":
        return np.repeat(values.astype(np.uint16)[..., None], 3, -1)
    return Image.fromarray(values.astype(np.uint8)).convert(mode.split()[0])


def photo_picture(
    photo: np.ndarray, given: Combination
) -> tuple[Image.Image | np.ndarray, np.ndarray]:
    """A photograph in the mode of a combination, and the 8-bit RGB that it shows."""
    mode = given["photo"]
    grey = np.asarray(Image.fromarray(photo).convert("L"))
    shown = np.repeat(grey[..., None], 3, -1)
    if mode.endswith("bits"):
        bits = int(mode.split()[-2])
        source = photo if mode.startswith("RGB") else grey
        deep = (source.astype(np.uint32) * (2**bits - 1) + 254) // 255  # as bright as 8 bits
        deep = deep.astype(np.uint16)
        return (deep, photo) if mode.startswith("RGB") else (Image.fromarray(deep), shown)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255), shown
    picture = Image.fromarray(photo)
    if mode.startswith("RGBA") or mode == "infrared":
        alpha = np.full(grey.shape, 255, np.uint8)
        if mode == "RGBA transparent":
            alpha[:8] = 0
            photo = photo.copy()
            photo[:8] = 255
        if mode == "infrared":
            alpha = np.clip(255 - photo[..., 1], 1, 254)
        picture.putalpha(Image.fromarray(alpha))
        return picture, photo
    if mode == "P":
        picture = picture.quantize(64)
        return picture, np.asarray(picture.convert("RGB"))
    if mode == "L":
        return Image.fromarray(grey), shown
    return picture.convert(mode), photo


def written(picture: Image.Image | np.ndarray, form: str, turn: int, options: Any) -> bytes:
    """The content of a file."""
    exif = exif_of(turn) if form in WITH_EXIF else {}
    if isinstance(picture, np.ndarray):
        return png_of_16_bits(picture, exif.get("exif", b""))
    return encoded(picture, form, **exif, **options)


def turned(picture: Image.Image | np.ndarray, turn: int) -> Image.Image | np.ndarray:
    """An upright picture as it lies in a file with an EXIF orientation."""
    if isinstance(picture, np.ndarray):
        return as_stored(picture, turn)
    return picture.transpose(BACK[turn]) if turn in TURNS else picture


def write_set(folder: Path, given: Combination, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Writes the pictures of one combination; returns what each of them shows, and its classes."""
    width, height = map(int, given["shape"].split("x"))
    truths = []
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for k in range(PICTURES):
        photo, truth = drawn(PICTURES * seed + k, width, height)
        how = given["EXIF of photo"]
        turn = {"none": 0, "mixed": 1 + k % 4, "mixed with 90 degrees": 1 + k % 8}.get(how)
        turn = int(how) if turn is None else turn
        picture, shown = photo_picture(photo, given)
        form = given["photo container"]
        options = (
            {"quality": 98, "subsampling": 0}
            if form == "jpeg"
            else {"lossless": True}
            if form == "webp"
            else {}
        )
        if form == "webp":
            options["exact"] = True
        content = written(turned(picture, turn), form, turn, options)
        (folder / f"images/p{k:02}.{form}").write_bytes(content)

        plain = given["others"] != "stored alike" and k % 2 == 1
        mask = mask_picture(truth, given, k)
        form = given["container"]
        options = COMPRESSIONS[form][given["compression"]]
        if plain:
            mask = Image.fromarray(np.array(CODES[given["code"]])[truth].astype(np.uint8))
            form, options = "png", {}
        if given["EXIF of mask"] != "none, as shown":
            mask = turned(mask, turn)
        own = turn if given["EXIF of mask"] == "own" else 0
        suffix = SUFFIXES.get(form, form)
        (folder / f"masks/p{k:02}.{suffix}").write_bytes(written(mask, form, own, options))
        truths.append((shown, truth))
    return truths


def meant_by_colour(given: Combination) -> bool:
    """Whether only the colours of the masks say which class a pixel is.

    An optimised GIF has only the palette entries that it needs, so that an index means one colour
    in a mask with all classes and another one in a mask that lacks a class.
    """
    if given["mask"] != "P colour":
        return given["mask"] in ("RGB", "RGBA", "RGB of 16 bits")
    repacked = given["container"] == "gif" and given["compression"] == "lossless"
    return repacked or given["palette"] not in ("in order", "the same permutation")


def flags_of(given: Combination) -> list[str]:
    """What somebody who knows the masks says about them."""
    if meant_by_colour(given):
        return ["--label-mapping", ",".join(f"{r},{g},{b}:{k}" for k, (r, g, b) in COLOURS.items())]
    if given["mask"] == "P colour":
        return []
    code, name = CODES[given["code"]], given["code"]
    if name in ("0 1 2", "1 2 3"):
        return []
    if "no class" in name:
        return ["--ignore-index", str(code[2])]
    return ["--label-mapping", ",".join(f"{v}:{k}" for k, v in enumerate(dict.fromkeys(code)))]


def expected_classes(truth: np.ndarray, given: Combination) -> np.ndarray:
    """The prepared mask of a combination."""
    permuted = given["palette"] == "the same permutation" and not meant_by_colour(given)
    if given["mask"] == "P colour" and permuted:
        return np.array([2, 0, 1], np.uint8)[truth]  # the indices are the classes
    if "no class" in given["code"]:
        return np.array([0, 1, 255], np.uint8)[truth]
    return np.array([0, 1, 1], np.uint8)[truth] if given["code"] == "0 255" else truth


# --- one trial ----------------------------------------------------------------------------

MAY_BE_REFUSED = {  # part of a message: whether a combination gives reason for it
    "is stored as": lambda given: is_lossy(given),
    "nothing tells which of them is meant": lambda given: given["others"] != "stored alike",
}


def is_lossy(given: Combination) -> bool:
    return given["container"] in LOSSY or given["compression"] == "lossy"


def ambiguous_orientation(given: Combination) -> bool:
    """Whether nothing in the set tells what masks were drawn on, and that was not as shown."""
    if given["EXIF of mask"] != "none, as stored" or given["EXIF of photo"] in ("none", "1"):
        return False
    turn = given["EXIF of photo"]
    sideways = turn in ("5", "6", "7", "8") or turn == "mixed with 90 degrees"
    return not (sideways and given["shape"] == "64x32")


def try_one(folder: Path, given: Combination, seed: int) -> tuple[str, str]:
    """How one combination ends, and what was said: right, refused, noted, or a failure.

    "silent": wrong without a word. "refused without reason", "noted without reason": a combination
    that is not ambiguous.
    """
    shutil.rmtree(folder, ignore_errors=True)
    truths = write_set(folder / "set", given, seed)
    out = io.StringIO()
    command = ["--models-dir", folder / "models", "--data", folder / "set"]
    command += ["--image-size", given["shape"], *flags_of(given)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            data_preparation.main([str(part) for part in command])
        except UserError as error:
            reasons = [part for part, applies in MAY_BE_REFUSED.items() if applies(given)]
            fair = any(part in str(error) for part in reasons)
            return ("refused" if fair else "refused without reason"), str(error)
    wrong = compare(folder / "models", truths, given)
    said = " | ".join(line for line in out.getvalue().splitlines() if "note:" in line)
    if is_lossy(given):
        return "silent", f"lossy, and read; {wrong}"
    if not wrong:
        return "right", said
    if ambiguous_orientation(given) and "nothing tells" in said:
        return "noted", said
    return "silent", f"{wrong}; said: {said}"


def compare(models_dir: Path, truths: list, given: Combination) -> str:
    """What differs between the prepared arrays and the truth; "" if nothing does."""
    tolerance = 40 if given["photo container"] == "jpeg" else 1
    tolerance += 2 if given["photo"] == "CMYK" else 0
    listing = next((models_dir / "dataset").glob("examples-*.csv")).read_text("utf-8")
    rows = [line.split(",") for line in listing.splitlines()[1:]]
    seen = 0
    for split in SPLITS:
        images, masks = load_split(models_dir, split)
        names = [row[2] for row in rows if row[0] == split]
        for name, image, mask in zip(names, images, masks):
            shown, truth = truths[int(Path(name).stem[1:])]
            difference = np.abs(image.astype(int) - shown)
            if difference.max() > tolerance or difference.mean() > max(1, tolerance / 8):
                return f"{name}: photo differs by up to {difference.max()}"
            if (mask != expected_classes(truth, given)).any():
                return f"{name}: {(mask != expected_classes(truth, given)).mean():.0%} of the mask"
            seen += 1
    return "" if seen == len(truths) else f"{seen} of {len(truths)} pictures"


FAILURES = ("silent", "refused without reason", "crash")


def run(number: int, seed: int, folder: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Tries a sample; returns how often each end was seen, and every combination with its end."""
    charts.save = lambda _, path: path.touch()
    overlays.examples = lambda *_: None
    ends: Counter[str] = Counter()
    rows = []
    for k, given in enumerate(sample(number, np.random.default_rng(seed))[:number]):
        try:
            end, said = try_one(folder / "trial", given, seed * 1000 + k)
        except Exception as error:
            end, said = "crash", f"{type(error).__name__}: {error}"
        ends[end] += 1
        rows.append({"end": end, "said": said, **given})
        if end in FAILURES:
            print(f"{end}: {said}\n    {given}", flush=True)
    return ends, rows


def main() -> int:
    """Runs the campaign; the exit code says whether a combination failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets",
        type=int,
        default=500,
        help="combinations; with fewer than about 320, not all pairs",
    )
    parser.add_argument("--seed", type=int, default=33)
    parser.add_argument("--write", type=Path, help="a JSON of every combination and its end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ends, rows = run(arguments.sets, arguments.seed, Path(folder))
    print(json.dumps(dict(ends)))
    if arguments.write:
        arguments.write.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(ends[end] for end in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
