"""Photos of the report: the worst first, then an even sample, each with every prediction."""

import argparse
import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.base.artifacts import MODELS
from pipeline.base.console import UserError
from pipeline.data.dataset import load_classes, load_split
from pipeline.report import gallery
from pipeline.report.overlays import overlay


def opened(cell):
    """The pixels of a cell's picture."""
    kind, content = cell["picture"].split(";base64,")
    assert kind == "data:image/webp"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (cell["width"], cell["height"])
        return np.asarray(picture.convert("RGB"))


def counts(shared):
    """Pixel counts of pictures with 20 pixels of each class in ground truth and prediction."""
    whole = np.full_like(shared, 20)
    return np.stack([shared, whole, whole], axis=1)


def test_worst_photos_come_first():
    shared = np.full((10, 3), 18)
    shared[3] = 9
    chosen = gallery.chosen_photos(counts(shared), 2)
    assert next(iter(chosen)) == 3
    assert len(chosen) == 4
    assert gallery.chosen_photos(counts(shared)[:1], 2).keys() == {0}


def test_ranks_name_the_position_of_a_photo():
    shared = np.repeat(20 - np.arange(10)[:, None], 3, axis=1)  # row 9 is the worst
    chosen = gallery.chosen_photos(counts(shared), 3)
    assert list(chosen) == [9, 8, 7, 6, 3, 0]
    names = ["worst 1", "worst 2", "worst 3", "better than 30%", "better than 60%", "best"]
    assert list(chosen.values()) == names


def test_pictures_of_a_cell_are_small_and_one_below_the_other():
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (400, 200, 3), np.uint8) for _ in range(2)]
    cell = gallery.stacked(pictures, "a cat", "0.700")
    assert (cell["width"], cell["height"]) == (80, 320)
    assert opened(cell).shape == (320, 80, 3)
    assert (cell["text"], cell["score"]) == ("a cat", "0.700")


def test_grid_shows_the_prediction_of_every_model(evaluated_run, numbers):
    grid = gallery.photo_grid(evaluated_run, numbers)
    assert grid["head"] == ["test photo", "photo, ground truth", *MODELS]
    assert len(grid["rows"]) == len(load_split(evaluated_run, "test")[0])  # 8, fewer than 2 x 6
    images, masks = (part[:] for part in load_split(evaluated_run, "test"))
    classes = load_classes(evaluated_run)
    for row in grid["rows"]:
        image, mask, (truth, *cells) = images[row["number"]], masks[row["number"]], row["cells"]
        assert len(cells) == len(MODELS)
        expected = np.concatenate(
            [
                np.asarray(Image.fromarray(each).resize((160, 160), Image.Resampling.BICUBIC))
                for each in (image, overlay(image, mask, classes))
            ]
        )
        assert np.abs(opened(truth).astype(int) - expected).mean() < 12  # webp is not exact
        assert all(0 < float(cell["score"]) <= 1 for cell in cells)
    scores = [float(row["cells"][1 + MODELS.index("int8")]["score"]) for row in grid["rows"]]
    assert scores == sorted(scores)


@pytest.mark.parametrize("models", [MODELS[:-1], MODELS])
def test_damaged_counts_are_refused_with_the_command_that_makes_them(tmp_path, models):
    """A missing file, one that lacks a model, and one whose arrays have another shape."""
    words = r"counts_per_image\.npz is missing or damaged; make it anew with: .*python .*evaluation"
    with pytest.raises(UserError, match=words):
        gallery.photo_grid(tmp_path, {})
    shape = (2, 3, 3) if models != MODELS else (3, 3)
    arrays = {name: np.zeros(shape, np.int32) for name in models}
    np.savez_compressed(tmp_path / gallery.COUNTS_FILE, **arrays)
    with pytest.raises(UserError, match=words):
        gallery.photo_grid(tmp_path, {})


def test_photos_with_a_file_are_called_by_it_and_others_by_number(
    evaluated_run, numbers, monkeypatch
):
    monkeypatch.setattr(gallery, "names_of", lambda *_: {3: "images/p3.jpg"})
    blank = argparse.Namespace(class_maps=lambda _: np.zeros((8, 32, 32), np.uint8))
    monkeypatch.setattr(gallery, "open_model", lambda _: blank)
    rows = {row["number"]: row for row in gallery.photo_grid(evaluated_run, numbers)["rows"]}
    assert rows[3]["called"] == "images/p3.jpg" and rows[2]["called"] == "number 2"
    assert all("test photo images/p3.jpg" in cell["text"] for cell in rows[3]["cells"])
    assert all("test photo number 2" in cell["text"] for cell in rows[2]["cells"])


def test_synthetic_pictures_are_called_so(evaluated_run, numbers):
    numbers["dataset"]["synthetic"] = True
    assert gallery.photo_grid(evaluated_run, numbers)["what"] == "synthetic test picture"
