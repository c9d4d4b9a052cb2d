"""Pictures that stand in two splits are found, whatever was done to the copy; others are not."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data.formats.synthetic import drawn_animals
from pipeline.data.image_reader import open_photograph
from pipeline.data.same_pictures import Hashes, record
from tests.helpers.drawn_sets import prepare, save


def scene(number, size=(120, 90)):
    """A photograph-like picture of smooth colours and some fine detail, uint8."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    noise = random.normal(0, 6, (size[1], size[0], 3))
    return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return Image.open(buffer).convert("RGB")


def prepared(pixels):
    return np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))


COPIES = {
    "as it is": lambda picture: picture,
    "JPEG": lambda picture: encoded(picture, "jpeg", quality=40),
    "WebP": lambda picture: encoded(picture, "webp", quality=40),
    "half the size": lambda picture: picture.resize((60, 45), Image.Resampling.LANCZOS),
    "three times the size": lambda picture: picture.resize((360, 270), Image.Resampling.BICUBIC),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned by 90 degrees": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "turned by 270 degrees": lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
    "less contrast, brighter": lambda picture: picture.point(lambda value: value * 0.7 + 60),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "mirrored, smaller, JPEG": lambda picture: encoded(
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((80, 60)), "jpeg", quality=60
    ),
}


def same_in(**pictures):
    """What `record` finds, of prepared pictures by split; numbers name them."""
    hashes = Hashes()
    for split, images in pictures.items():
        for image in images:
            hashes.add(split, image)
    return record(hashes, pictures, None)


@pytest.mark.parametrize("copy", COPIES)
def test_copy_in_another_split_is_same_in(copy):
    train = [prepared(scene(k)) for k in range(30)]
    test = [prepared(scene(k)) for k in range(100, 110)]
    test[4] = prepared(np.asarray(COPIES[copy](Image.fromarray(scene(17)))))
    same = same_in(train=train, validation=[prepared(scene(50))], test=test)
    assert same == {"counts": {"test in train": 1}, "pairs": [["test", "4", "train", "17"]]}


def test_earlier_split_counts_and_copies_inside_one_come_last():
    one, two, three = (prepared(scene(k)) for k in range(3))
    same = same_in(train=[one, two, two], validation=[three, one], test=[one, three])
    assert same["counts"] == {
        "train in train": 1,
        "validation in train": 1,
        "test in train": 1,
        "test in validation": 1,
    }
    assert same["pairs"] == [
        ["validation", "1", "train", "0"],
        ["test", "0", "train", "0"],
        ["test", "1", "validation", "0"],
        ["train", "2", "train", "1"],
    ]


def test_frames_in_which_something_moved_are_not_the_same_picture():
    first, second = scene(1), scene(1)
    first[40:60, 20:32] = second[40:60, 30:42] = 250
    assert same_in(train=[prepared(first)], test=[prepared(second)])["counts"] == {}


def test_flat_pictures_are_not_compared():
    """Black slices of a scan and empty frames show nothing that could be learned."""
    black = np.zeros((64, 64, 3), np.uint8)
    assert same_in(train=[black, black], test=[black + 3])["counts"] == {}


def test_other_colours_are_another_picture():
    picture = prepared(scene(3))
    assert same_in(train=[picture], test=[picture[..., ::-1].copy()])["counts"] == {}


def test_drawn_animals_are_all_different():
    collection = drawn_animals(3, (64, 64), 7)
    samples = collection.splits["train"].read()
    images = [
        np.asarray(open_photograph(sample.image.fetch(), sample.id))
        for sample, _ in zip(samples, range(60))
    ]
    assert same_in(train=images[:40], test=images[40:])["counts"] == {}


def test_script_names_the_pairs_and_what_keeps_them_apart(tmp_path, capsys):
    """Five of five test pictures were training pictures, and nothing was said."""
    mask = np.arange(120 * 90).reshape(90, 120) % 2
    for k in range(20):
        save(tmp_path / f"set/images/train/t{k:02}.png", scene(k))
        save(tmp_path / f"set/masks/train/t{k:02}.png", mask.astype(np.uint8))
    for split, first in (("val", 100), ("test", 5)):
        for k in range(3):
            save(tmp_path / f"set/images/{split}/x{k}.jpg", scene(first + k), quality=80)
            save(tmp_path / f"set/masks/{split}/x{k}.png", mask.astype(np.uint8))
    result = prepare(tmp_path / "models", tmp_path / "set")
    assert result.record["same_pictures"]["counts"] == {"test in train": 3}
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "Warning" in line)
    assert "3 of test also in train, such as images/test/x0.jpg (test) and " in line
    assert "images/train/t05.png (train)" in line
    assert line.endswith("or say it beside the figure")
