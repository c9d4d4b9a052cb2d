"""A folder of pictures counts by its content: what reruns data preparation, and what does not."""

import numpy as np
import pytest
from PIL import Image

import data_preparation
from pipeline.base import artifacts


@pytest.fixture
def photos(tmp_path):
    """A folder of ten pictures with masks, and what draws one more of a given seed."""
    folder = tmp_path / "photos"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)

    def draw(name, seed):
        random = np.random.default_rng(seed)
        image = random.integers(0, 256, (40, 40, 3), np.uint8)
        mask = random.integers(1, 4, (40, 40)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")

    for number in range(10):
        draw(f"p{number}", number)
    draw.folder = folder
    return draw


@pytest.mark.parametrize("change", ["none", "time", "added", "gone", "redrawn", "mask"])
def test_folder_counts_by_its_content(tmp_path, photos, capsys, change):
    where = ["--models-dir", str(tmp_path / "models"), "--data-dir", str(photos.folder)]

    def prepare():
        flags = ["--dataset", "folder", "--image-size", "32", "--if-needed"]
        data_preparation.main([*where, *flags])
        return capsys.readouterr().out

    assert "wrote" in prepare()
    first = artifacts.read_record(tmp_path / "models", "dataset")["splits"]["train"]["examples"]
    if change == "time":
        for path in photos.folder.rglob("*.png"):
            path.touch()
    elif change == "added":
        for number in range(20, 30):
            photos(f"p{number}", number)
    elif change == "gone":
        photos("p99", 99)
        prepare()
        for kind in ("images", "masks"):
            (photos.folder / kind / "p99.png").unlink()
    elif change == "redrawn":
        photos("p3", 33)
    elif change == "mask":
        mask = photos.folder / "masks" / "p4.png"
        Image.fromarray(np.full((40, 40), 2, np.uint8)).save(mask)
    said = prepare()
    if change in ("none", "time"):
        assert said == "data_preparation.py: up to date, nothing to do\n"
    else:
        assert f"runs, because content of {photos.folder} changed" in said
    if change == "added":
        about = artifacts.read_record(tmp_path / "models", "dataset")
        assert about["splits"]["train"]["examples"] > first
