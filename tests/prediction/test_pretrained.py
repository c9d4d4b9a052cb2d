"""The model that comes with the project: when it is used, and that it is what its card says."""

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

import data_preparation
import evaluation
from pipeline.base import artifacts, cli
from pipeline.base.artifacts import PRETRAINED_DIR, ROOT, artifact_path, stale_reason
from pipeline.base.files import sha256
from pipeline.base.ownership import LIST, listed
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.contract import read
from pipeline.inference.iou import mean_iou, split_iou
from pipeline.inference.models import open_model
from pipeline.prediction import pretrained
from pipeline.start_check import SCRIPTS
from tests.benchmarks import pretrained as maker

CLASSES = ("pet", "background", "border")
committed = pytest.mark.skipif(not PRETRAINED_DIR.exists(), reason="no model is committed yet")


@pytest.fixture
def checkout(evaluated_run, tmp_path, monkeypatch):
    """An empty models folder with a pretrained model in it; both are the default ones."""
    models = tmp_path / "project" / "models"
    folder = models / "pretrained"
    maker.fill(folder, evaluated_run)
    for module in (artifacts, cli, pretrained):
        monkeypatch.setattr(module, "MODELS_DIR", models)
        monkeypatch.setattr(module, "PRETRAINED_DIR", folder)
    return models


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "cat.png"
    Image.radial_gradient("L").convert("RGB").resize((90, 60)).save(path)
    return path


def classes_drawn(photo):
    with Image.open(f"{photo}.classes.png") as picture:
        return picture.tobytes()


def test_photo_is_segmented_while_nothing_is_trained(checkout, evaluated_run, photo, capsys):
    assert evaluation.main(["--image", str(photo)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("note: nothing is trained in models/ yet; this is models/pretrained/")
    drawn = classes_drawn(photo)
    evaluation.main(["--image", str(photo), "--models-dir", str(evaluated_run)])
    assert classes_drawn(photo) == drawn
    assert "pretrained" not in capsys.readouterr().out


def test_own_model_comes_first(checkout, evaluated_run, photo, capsys):
    shutil.copy(artifact_path(evaluated_run, "int8"), checkout)
    evaluation.main(["--image", str(photo)])
    assert "pretrained" not in capsys.readouterr().out


def test_folder_that_was_named_is_the_one_that_is_used(checkout, photo, tmp_path):
    """Also if it is the default one, and empty."""
    for named in (checkout, tmp_path / "others"):
        with pytest.raises(artifacts.UserError, match=r"int8_quantized_model\.tflite is missing"):
            evaluation.main(["--image", str(photo), "--models-dir", str(named)])


def test_trained_network_has_its_class_names_there(checkout, photo, capsys):
    model = artifact_path(checkout / "pretrained", "original")
    evaluation.main(["--image", str(photo), "--model", str(model)])
    printed = capsys.readouterr().out
    assert re.search("pet|background|border", printed) and "note" not in printed


def test_profile_times_the_file_that_is_there(checkout, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(evaluation.op_profile, "profile", lambda *call: seen.append(call) or "")
    assert evaluation.main(["--profile"]) == 0
    assert seen[0][0] == checkout / "pretrained"


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_stage_writes_into_its_folder(checkout, script, capsys):
    module = __import__(script.removesuffix(".py"))
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        module.main(["--models-dir", str(checkout / "pretrained")])
    assert ended.value.code == 2
    assert "holds the model that comes with the project" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before


def test_changed_file_is_brought_back_by_git(checkout, photo):
    with artifact_path(checkout / "pretrained", "int8").open("ab") as file:
        file.write(b"x")
    with pytest.raises(artifacts.UserError, match=r"was changed .* git checkout -- .*pretrained"):
        evaluation.main(["--image", str(photo)])


# --- the committed files --------------------------------------------------------------------


@committed
def test_committed_files_are_those_of_the_list():
    paths = [path for path in PRETRAINED_DIR.rglob("*") if path.is_file() and path.name != LIST]
    found = {(path.relative_to(PRETRAINED_DIR).as_posix(), sha256(path)) for path in paths}
    assert found == listed(PRETRAINED_DIR)


@committed
def test_every_committed_file_is_in_git():
    """.gitignore leaves out what models/ has otherwise."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout of git")
    path = artifact_path(PRETRAINED_DIR, "original")
    command = ["git", "-C", str(ROOT), "check-ignore", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1, "1: the file is not ignored"


@committed
def test_card_is_written_from_the_records():
    card = (PRETRAINED_DIR / "README.md").read_text(encoding="utf-8")
    assert card == maker.card_of(PRETRAINED_DIR)


@committed
def test_committed_models_load_and_tell_their_classes():
    assert stale_reason(PRETRAINED_DIR, "original") is None
    assert load_classes(PRETRAINED_DIR).names == CLASSES
    assert tuple(read(artifact_path(PRETRAINED_DIR, "int8"))["output"]["classes"]) == CLASSES
    for name in maker.KEPT:
        assert open_model(artifact_path(PRETRAINED_DIR, name)).scores_shape == (128, 128, 3)


@committed
@pytest.mark.slow
def test_committed_models_reach_their_mean_iou_on_the_test_split(
    shared_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared_data))
    data_preparation.main(["--models-dir", str(tmp_path)])
    images, masks = load_split(tmp_path, "test")
    rows = json.loads(artifact_path(PRETRAINED_DIR, "evaluation").read_text(encoding="utf-8"))[
        "models"
    ]
    stated = {row["name"]: row["mean_iou"] for row in rows}
    for name in maker.KEPT:
        model = open_model(artifact_path(PRETRAINED_DIR, name))
        score = mean_iou(split_iou(model, images, masks))
        assert score == pytest.approx(stated[name], abs=5e-4), name
