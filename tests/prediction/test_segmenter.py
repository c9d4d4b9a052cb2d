"""Segmenter: the same class maps as --image, from paths, arrays and pictures in memory."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.prediction import predict
from pipeline.prediction.segmenter import Segmenter
from tests.helpers.runs import ROOT

SIDEWAYS = 6  # EXIF orientation: turned by 90 degrees


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo of 90 x 60 pixels as it is shown, stored sideways."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 6, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    picture, path = Image.fromarray(pixels), tmp_path_factory.mktemp("photos") / "a photo.jpg"
    exif = picture.getexif()
    exif[0x0112] = SIDEWAYS
    picture.save(path, quality=95, exif=exif)
    return path


@pytest.mark.parametrize("name", ["int8", "float16", "original"])
def test_classes_are_those_of_the_script_and_of_the_probabilities(finished_run, photo, name):
    path = artifact_path(finished_run, name)
    segmenter = Segmenter(path)
    classes = segmenter.classes(photo)
    predict.write_overlays([photo], path)
    with Image.open(predict.target(photo, "classes")) as picture:
        np.testing.assert_array_equal(classes, np.asarray(picture))
    assert classes.shape == (60, 90) and classes.dtype == np.uint8
    assert len(np.unique(classes)) > 1
    probabilities = segmenter.probabilities(str(photo))
    assert probabilities.shape == (60, 90, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=-1) == classes).mean() > 0.999  # but for equal scores
    assert segmenter.names == ("pet", "background", "border") and len(segmenter.colours) == 3


def test_array_and_picture_in_memory_give_what_the_file_gives(finished_run, photo):
    segmenter = Segmenter(artifact_path(finished_run, "int8"))
    expected = segmenter.classes(photo)
    with Image.open(photo) as picture:
        np.testing.assert_array_equal(segmenter.classes(picture), expected)
        shown = np.asarray(picture.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(segmenter.classes(shown), expected)
    cmyk = Image.fromarray(shown).convert("CMYK")
    assert (segmenter.classes(cmyk) == expected).mean() > 0.9


@pytest.mark.parametrize("array", [np.zeros((8, 8)), np.zeros((8, 8, 4), np.uint8)])
def test_array_that_is_no_photo_is_refused(finished_run, array):
    segmenter = Segmenter(artifact_path(finished_run, "int8"))
    with pytest.raises(ValueError, match="is no photo: uint8"):
        segmenter.classes(array)


def test_missing_photo_and_missing_model_are_user_errors(finished_run, tmp_path):
    with pytest.raises(UserError, match=r"none\.jpg is missing"):
        Segmenter(artifact_path(finished_run, "int8")).classes(tmp_path / "none.jpg")
    with pytest.raises(UserError, match="is missing"):
        Segmenter(tmp_path / "none.tflite")


@pytest.mark.slow
def test_program_in_another_folder_uses_the_model_that_comes_with_the_project(photo, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pipeline.prediction.segmenter import Segmenter\n"
        "print(Segmenter(sys.argv[1]).classes(sys.argv[2]).shape)\n"
    )
    model = ROOT / "models" / "pretrained" / "int8_quantized_model.tflite"
    done = subprocess.run(
        [sys.executable, str(program), str(model), str(photo)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "(60, 90)\n"), done.stderr
