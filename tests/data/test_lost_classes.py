"""Classes that resizing takes out of pictures are counted, named, and the size that keeps them."""

import numpy as np
import pytest

from pipeline.report import data_warnings
from tests.helpers.drawn_sets import prepare, save


def write_specks(folder, number=30, sides=(3,), size=(256, 192)):
    """Pictures with a square of class 1 of a third of the width, and a speck of class 2.

    The speck's side in pixels is one of `sides`, in turn.
    """
    width, height = size
    random = np.random.default_rng(7)
    for k in range(number):
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2, : width // 3] = 1
        y, x = random.integers(height // 2, height - 20), random.integers(width // 2, width - 20)
        side = sides[k % len(sides)]
        mask[y : y + side, x : x + side] = 2
        image = np.stack([mask * 100 + k, mask * 0 + 20, mask * 50], -1).astype(np.uint8)
        save(folder / f"images/p{k:02}.png", image)
        save(folder / f"masks/p{k:02}.png", mask)
    return folder


def warnings_of(text):
    return [line for line in text.splitlines() if line.startswith("Warning: resizing")]


def test_pictures_of_a_class_are_counted_before_and_after(tmp_path, capsys):
    result = prepare(tmp_path / "models", write_specks(tmp_path / "set"), "--names", "a,b,speck")
    held, kept = (
        sum(facts[key]["speck"] for facts in result.record["splits"].values())
        for key in ("class_pictures_before", "class_pictures")
    )
    truth = sum((mask == 2).any() for mask in result.all_masks)
    assert (held, kept) == (30, truth) and 0 < truth < 15
    out = capsys.readouterr().out
    assert f"before and after resizing to 32 x 32 pixels: speck 30 -> {truth}" in out
    (warning,) = warnings_of(out)
    assert f"leaves speck in {truth} of 30 pictures" in warning
    assert result.record["lost_classes"]["classes"]["speck"]["pictures"] == [30, truth]


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_named_size_keeps_the_class(fit, tmp_path, capsys):
    folder = write_specks(tmp_path / "set")
    flags = "--names", "a,b,speck", "--fit", fit
    (warning,) = warnings_of(prepare_and_read(tmp_path, folder, capsys, *flags))
    remedy = warning.partition("to keep them: ")[2].split()
    assert remedy[0] == "--image-size" and int(remedy[1]) <= 128
    assert warnings_of(prepare_and_read(tmp_path, folder, capsys, *flags, *remedy)) == []


def prepare_and_read(tmp_path, folder, capsys, *flags):
    capsys.readouterr()
    prepare(tmp_path / "models", folder, *flags)
    return capsys.readouterr().out


def test_class_that_crop_cuts_off_is_kept_by_pad(tmp_path, capsys):
    """What lies at the sides of a wide picture is in no size of it."""
    for k in range(12):
        mask = np.zeros((64, 256), np.uint8)
        mask[:, 220:] = 1
        save(tmp_path / f"set/masks/p{k:02}.png", mask)
        save(tmp_path / f"set/images/p{k:02}.png", np.stack([mask * 99 + 9 * k] * 3, -1))
    out = prepare_and_read(tmp_path, tmp_path / "set", capsys, "--fit", "crop", "--skip-bad", "0.1")
    (warning,) = warnings_of(out)
    assert "class 1 in 0 of 12 pictures" in warning
    assert warning.endswith("to keep them: --fit pad")


def test_regular_lines_that_lose_their_share_are_named(tmp_path, capsys):
    """Every picture keeps the class, with a fraction of its pixels."""
    for k in range(12):
        mask = np.zeros((128, 128), np.uint8)
        mask[:, 3::4] = 1  # in between the columns that are read, of 128 to 32 pixels
        mask[:8, :8] = 1
        save(tmp_path / f"set/masks/p{k:02}.png", mask)
        save(tmp_path / f"set/images/p{k:02}.png", np.stack([mask * 99 + 9 * k] * 3, -1))
    out = prepare_and_read(tmp_path, tmp_path / "set", capsys, "--names", "a,b")
    (warning,) = warnings_of(out)
    assert "b with 0.39% of the pixels instead of 25" in warning
    assert "before and after" not in out


def test_nothing_is_said_where_nothing_is_lost(tmp_path, capsys):
    folder = write_specks(tmp_path / "set", sides=(20,))
    out = prepare_and_read(tmp_path, folder, capsys, "--image-size", "64")
    assert "before and after" not in out and warnings_of(out) == []


def test_few_lost_pictures_are_counted_without_a_warning(tmp_path, capsys):
    """One speck of thirty."""
    folder = write_specks(tmp_path / "set", sides=(1, *(20,) * 29))
    out = prepare_and_read(tmp_path, folder, capsys)
    assert "class 2 30 -> 29" in out and warnings_of(out) == []


def test_many_classes_are_shortened():
    lost = {f"c{k}": {"pictures": [9, 1], "share": [0.1, 0.1]} for k in range(8)}
    text = data_warnings.on_lost_classes({"classes": lost, "remedy": ""}, [64, 32])
    assert "64 x 32 pixels leaves c0 in 1 of 9 pictures" in text
    assert "c4 in 1 of 9 pictures and 3 more classes." in text
    assert text.endswith("no larger size keeps them")
