"""The handover folder works without the rest of this project."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.data.image_reader import open_photograph
from pipeline.data.photographs import rules_from
from pipeline.deploy import handover
from pipeline.evaluation.memory_plan import plan
from tests.helpers.pictures import png_of_16_bits, stored_as
from tests.helpers.runs import CLASSES, run_script

FILES = {
    *("int8_quantized_model.tflite", "contract.json", "labels.txt", "picture.rgb"),
    *("picture.logits", "model.h", "model.cc", "run_on_device.py"),
    *("pipeline/data/decoding.py", "pipeline/data/photographs.py", "SHA256SUMS"),
    *("pipeline/data/marked_pictures.py", "pipeline/data/fitting.py"),
    *("pipeline/data/class_maps.py", "pipeline/data/classes.py"),
}


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "handover"
    handover.write_folder(finished_run, folder)
    return folder


def files_in(folder):
    """Paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_folder_has_the_model_and_all_listed_files(folder, finished_run):
    assert files_in(folder) == FILES
    model = artifact_path(finished_run, "int8").read_bytes()
    assert (folder / "int8_quantized_model.tflite").read_bytes() == model
    assert (folder / "labels.txt").read_text().split() == list(CLASSES)


def run_on_device(folder, *photos, options=(), **environment):
    """Runs it in another folder, with a Python that cannot import the project."""
    return subprocess.run(
        [sys.executable, "-I", *options, str(folder / "run_on_device.py"), *map(str, photos)],
        env=os.environ | environment,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_program_checks_the_test_picture_and_predicts_on_photos(folder, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((50, 70, 3), 120, np.uint8)).save(photo)
    done = run_on_device(folder, photo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK\n") and re.search(r"\d+\.\d\d ms per image", done.stdout)
    assert "pet, background, border" in done.stdout
    drawn = tmp_path / "photo.png.classes.png"
    assert f"wrote {drawn}" in done.stdout
    with Image.open(drawn) as classes:
        assert classes.size == (70, 50) and set(np.unique(classes)) <= {0, 1, 2}
    assert run_on_device(folder, photo).returncode == 0, "its own picture is replaced"
    shutil.copy(photo, drawn)
    done = run_on_device(folder, photo)
    assert done.returncode == 1 and "was not written by this program and stays" in done.stderr
    assert drawn.read_bytes() == photo.read_bytes()


def test_photo_that_cannot_be_read_is_one_line_and_the_others_are_drawn(folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    done = run_on_device(folder, tmp_path / "broken.jpg", tmp_path / "good.png")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{tmp_path / 'broken.jpg'} cannot be read (" in done.stderr
    assert {path.name for path in tmp_path.glob("*.classes.png")} == {"good.png.classes.png"}


def test_deep_photo_for_a_model_of_8_bit_pictures_is_noted(folder, tmp_path):
    for name, kind in (("deep", np.uint16), ("float", np.float32), ("plain", np.uint8)):
        Image.fromarray(np.ones((40, 40), kind)).save(tmp_path / f"{name}.tif")
    said = run_on_device(
        folder, *(tmp_path / f"{k}.tif" for k in ("deep", "float", "plain"))
    ).stdout
    notes = [line for line in said.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and "deep.tif is deeper than 8 bits" in notes[0]
    assert notes[0].endswith("65535 is taken for white")
    assert "float.tif" in notes[1] and notes[1].endswith("; 1 is taken for white")


def test_program_refuses_a_fit_that_it_does_not_know(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    contract = json.loads((copy / "contract.json").read_text(encoding="utf-8"))
    contract["input"]["picture"]["fit"] = "tile"
    (copy / "contract.json").write_text(json.dumps(contract), encoding="utf-8")
    done = run_on_device(copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert "asks for pictures with fit 'tile', and stretch, pad, crop are known" in done.stderr


@pytest.mark.parametrize("kind", ["12 bits", "12-bit colour", "transparent", "infrared", "turned"])
def test_program_reads_photos_as_training_did(folder, tmp_path, kind):
    copy = shutil.copytree(folder, tmp_path / "copy")
    contract = json.loads((copy / "contract.json").read_text(encoding="utf-8"))
    rules = {"white": 4095, "alpha": kind != "infrared"}
    contract["input"]["photos"] = rules
    (copy / "contract.json").write_text(json.dumps(contract), encoding="utf-8")
    plain = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    photo = tmp_path / "photo.png"
    if kind == "12 bits":
        plain[:] = plain[..., :1]
        Image.fromarray(plain[..., 0].astype(np.uint16) * 16).save(photo)
    elif kind == "12-bit colour":
        photo.write_bytes(png_of_16_bits(plain.astype(np.uint16) * 16))
    elif kind == "turned":
        photo.write_bytes(stored_as(Image.fromarray(plain), 7))
    else:
        picture = Image.fromarray(plain)
        alpha = (
            np.full((32, 32), 99, np.uint8) if kind == "infrared" else plain[..., 0] // 128 * 255
        )
        picture.putalpha(Image.fromarray(alpha))
        picture.save(photo)
    expected = open_photograph(photo, "photo", rules_from(rules))
    expected.save(tmp_path / "plain.png")
    done = run_on_device(copy, photo, tmp_path / "plain.png")
    assert done.returncode == 0, done.stderr
    maps = [np.asarray(Image.open(tmp_path / f"{n}.png.classes.png")) for n in ("photo", "plain")]
    np.testing.assert_array_equal(*maps)
    assert np.abs(np.asarray(expected).astype(int) - plain).max() <= 1 or kind == "transparent"


def test_program_reports_other_output(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    logits = np.fromfile(copy / "picture.logits", np.int8)
    (-logits).tofile(copy / "picture.logits")
    done = run_on_device(copy)
    assert done.returncode == 1 and re.search(r"\d+ of 1024 pixels differ", done.stdout)


def test_program_escapes_class_names_that_the_terminal_cannot_show(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    contract = json.loads((copy / "contract.json").read_text(encoding="utf-8"))
    contract["output"]["classes"][0] = "街"
    text = json.dumps(contract, ensure_ascii=False)
    (copy / "contract.json").write_text(text, encoding="utf-8")
    done = run_on_device(copy, options=("-X", "utf8=0"), LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert "classes: \\u8857, background, border" in done.stdout


PROGRAM = r"""
#include <stdio.h>
#include "model.h"
int main(void) {
  static const char *names[] = MODEL_CLASS_NAMES;
  printf("%zu %d %d %d ", kModelSize, MODEL_HEIGHT, MODEL_WIDTH, MODEL_CHANNELS);
  printf("%.9g %d ", (double)MODEL_INPUT_SCALE, MODEL_INPUT_ZERO_POINT);
  printf("%d %s %d %s ", MODEL_CLASSES, names[0], MODEL_ACTIVATION_BYTES, MODEL_FIT);
  printf("%lu\n", (unsigned long)((size_t)kModel % 16));
  FILE *out = fopen("copy.bin", "wb");
  fwrite(kModel, 1, kModelSize, out);
  fclose(out);
  return 0;
}
"""


@pytest.mark.parametrize("compiler", ["gcc -std=c11 -xc", "g++ -std=c++17 -xc++"])
@pytest.mark.slow
def test_c_source_compiles_without_warnings_and_holds_the_file(folder, tmp_path, compiler):
    program, *flags = compiler.split()
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    (tmp_path / "main.c").write_text(PROGRAM)
    sources = [str(tmp_path / "main.c"), str(folder / "model.cc")]
    command = [program, "-Wall", "-Wextra", "-Werror", f"-I{folder}", *flags, *sources]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    output = subprocess.run(
        [tmp_path / "a"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    content = (folder / "int8_quantized_model.tflite").read_bytes()
    activation_bytes = plan(content).activation_bytes
    expected = f"{len(content)} 32 32 3 0.00392156886 0 3 pet {activation_bytes} stretch 0\n"
    assert output.stdout == expected
    assert (tmp_path / "copy.bin").read_bytes() == content


@pytest.mark.slow
def test_export_of_a_finished_run_converts_nothing(run_copy, tmp_path):
    before = artifact_path(run_copy, "int8").stat().st_mtime_ns
    arguments = ("--calibration-images", "20", "--if-needed", "--export", tmp_path / "out")
    done = run_script("quantization.py", "--models-dir", run_copy, *arguments)
    assert done.returncode == 0, done.stderr
    assert "up to date, nothing to do" in done.stdout
    assert files_in(tmp_path / "out") == FILES
    assert artifact_path(run_copy, "int8").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "contract.json").read_text())["input"]["raw_pixels"]


def test_missing_int8_file_is_an_error_with_the_command(tmp_path):
    with pytest.raises(UserError, match=r"is missing; make it with: .*python quantization\.py"):
        handover.write_folder(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
