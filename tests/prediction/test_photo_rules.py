"""By which rule a photograph becomes a model's input: the file's own, the data set's, or a note."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import evaluation
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.inference.contract import add_contract, read, with_zip
from pipeline.prediction.photo_models import open_photo_model
from pipeline.prediction.photo_rules import use_of
from tests.helpers.runs import CLASSES

COLOURS = [(9, 8, 7), (60, 50, 40), (0, 255, 1)]


def use(path):
    return use_of(path, open_photo_model(path))


def with_contract(path, target, **terms):
    """A copy of a .tflite file, where no run made it, with another contract."""
    target.write_bytes(add_contract(path.read_bytes(), CLASSES, **terms))
    return target


@pytest.fixture
def photo(tmp_path):
    """A wide photograph."""
    path = tmp_path / "wide.png"
    Image.radial_gradient("L").convert("RGB").resize((90, 30)).save(path)
    return path


def test_file_is_believed_before_the_data_set_beside_it(run_copy):
    """That may have been prepared again since; a note says that the file is stale then."""
    path = artifact_path(run_copy, "int8")
    assert use(path).picture.fit == "stretch"
    read_record(run_copy, "dataset").rewrite(fit="crop")
    assert use(path).picture.fit == "stretch" and use(path).stated
    assert use(artifact_path(run_copy, "original")).picture.fit == "crop", "it has no contract"


def test_file_of_an_earlier_version_obeys_the_data_set_beside_it(run_copy):
    """Its contract does not say the fit; nor do the contracts in models/pretrained/."""
    path = artifact_path(run_copy, "int8")
    path.write_bytes(add_contract(path.read_bytes(), CLASSES))
    record = read_record(run_copy, "int8")
    record.rewrite(sha256=sha256(path))
    read_record(run_copy, "dataset").rewrite(fit="pad")
    assert use(path).picture.fit == "pad" and use(path).stated


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_file_somewhere_else_brings_fit_and_colours_along(finished_run, tmp_path, fit):
    path = artifact_path(finished_run, "int8")
    copy = with_contract(path, tmp_path / "x.tflite", fit=fit, colours=COLOURS)
    assert (use(copy).picture.fit, use(copy).stated) == (fit, True)
    assert use(copy).classes.names == CLASSES and use(copy).classes.colours == tuple(COLOURS)


def test_photo_that_nothing_tells_how_to_fit_is_stretched_with_a_note(
    finished_run, tmp_path, photo, capsys
):
    """Once, and only for photos that a stretch distorts."""
    copy = with_contract(artifact_path(finished_run, "int8"), tmp_path / "x.tflite")
    square = tmp_path / "square.png"
    Image.new("RGB", (50, 50)).save(square)
    other = shutil.copy(photo, tmp_path / "other.png")
    evaluation.main(["--image", *map(str, (square, photo, other)), "--model", str(copy)])
    said = capsys.readouterr().out
    assert said.count("note: ") == 1
    assert f"{copy} does not say how photos of another aspect ratio come to its size" in said
    assert "they are stretched to 32 x 32 pixels" in said
    with_contract(artifact_path(finished_run, "int8"), copy, fit="stretch")
    evaluation.main(["--image", str(photo), "--model", str(copy)])
    evaluation.main(["--image", str(square), "--model", str(with_contract(copy, copy))])
    assert "note: " not in capsys.readouterr().out


def test_colours_of_a_contract_that_are_none_are_replaced(finished_run, tmp_path):
    for bad in ([(1, 2, 3)], [(1, 2)] * 3, [(1, 2, 300)] * 3):
        copy = with_contract(
            artifact_path(finished_run, "int8"), tmp_path / "x.tflite", colours=bad
        )
        assert len(set(use(copy).classes.colours)) == 3
        assert use(copy).classes.palette.dtype == np.uint8


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("picture", {"fit": "tile"}, "pictures with fit 'tile', and stretch, pad, crop are known"),
        ("picture", [], "a rule for pictures that is none"),
        ("photos", "white", "photographs by a rule that is none: 'white'"),
        ("photos", {"white": 0}, "photographs with white 0, which is not 1 to 65535"),
    ],
)
def test_rule_that_is_not_known_is_refused(finished_run, tmp_path, photo, key, value, message):
    path = with_contract(artifact_path(finished_run, "int8"), tmp_path / "x.tflite", fit="pad")
    about = read(path)
    about["input"][key] = value
    plain = path.read_bytes()[: path.read_bytes().index(b"PK\3\4")]
    path.write_bytes(with_zip(plain, {"contract.json": json.dumps(about)}))
    with pytest.raises(UserError, match=f"asks for {message}"):
        evaluation.main(["--image", str(photo), "--model", str(path)])
    assert not list(tmp_path.glob("*.classes.png"))
