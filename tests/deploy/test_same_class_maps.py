"""One rule, two readers: the handed-over program writes the class maps of `evaluation.py --image`.

For kinds of pictures and each fit. The program runs on its own, once for each fit.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.data.dataset import load_split
from pipeline.data.fitting import FITS
from pipeline.deploy import handover
from pipeline.inference import contract
from pipeline.prediction import predict
from tests.helpers.pictures import encoded, png_of_16_bits, stored_as
from tests.helpers.runs import CLASSES
from tests.helpers.small_runs import copy_run

SIZE = (90, 60)
FORMS = ("png", "jpeg")
PHOTOS = {"white": 4095}  # as in a data set with 12 bits
COLOURS = np.array([[1, 2, 3], [40, 50, 60], [255, 0, 9]])


def animal(finished_run, size=SIZE, mode="RGB"):
    """A drawn animal, of which the small network finds every class."""
    drawn = Image.fromarray(load_split(finished_run, "test")[0][1])
    return drawn.resize(size, Image.Resampling.BICUBIC).convert(mode)


def kinds(finished_run):
    """Photographs by file name, as the content of files."""
    plain = animal(finished_run)
    grey = np.asarray(plain.convert("L"))
    turned = {f"exif{k}.{form}": stored_as(plain, k, form) for k in range(1, 9) for form in FORMS}
    alpha = np.full_like(grey, 200)
    alpha[:, :40] = 0
    see_through = plain.copy()
    see_through.putalpha(Image.fromarray(alpha))
    deep = np.asarray(plain).astype(np.uint16) * 16
    palette = plain.quantize(20)
    sizes = {"panorama": (400, 21), "tower": (13, 300), "tiny": (3, 2), "pixel": (1, 1)}
    sizes |= {"row": (77, 1), "column": (1, 77), "odd": (61, 43), "large": (431, 613)}
    sized = {
        f"{name}.png": encoded(animal(finished_run, size), "png") for name, size in sizes.items()
    }
    return {
        **turned,
        **sized,
        "rgb.jpg": encoded(plain, quality=90),
        "rgb.png": encoded(plain.transpose(Image.Transpose.ROTATE_180), "png"),  # beside rgb.jpg
        "grey.jpg": encoded(plain.convert("L")),
        "grey12in16.png": encoded(Image.fromarray(grey.astype(np.uint16) * 16), "png"),
        "grey16.png": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "png"),
        "grey12in16.tif": encoded(Image.fromarray(grey.astype(np.uint16) * 16), "tiff"),
        "rgb12in16.png": png_of_16_bits(deep),
        "float.tif": encoded(Image.fromarray(grey.astype(np.float32) / 255), "tiff"),
        "palette.png": encoded(palette, "png"),
        "palette_see_through.png": encoded(palette, "png", transparency=3),
        "palette.gif": encoded(palette, "gif"),
        "rgba.png": encoded(see_through, "png"),
        "la.png": encoded(see_through.convert("LA"), "png"),
        "cmyk.jpg": encoded(plain.convert("CMYK")),
        "black_white.png": encoded(plain.convert("1"), "png"),
        "big.bmp": encoded(plain, "bmp"),
        "rgb.webp": encoded(plain, "webp", lossless=True),
    }


def set_fit(folder, fit):
    """Changes the contract of a handover folder, in the model file and beside it."""
    path = folder / "int8_quantized_model.tflite"
    terms = {"classes": CLASSES, "photos": PHOTOS, "fit": fit, "colours": COLOURS.tolist()}
    path.write_bytes(contract.add_contract(path.read_bytes(), **terms))
    text = json.dumps({"file": path.name, **contract.read(path)})
    (folder / "contract.json").write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def drawn(finished_run, tmp_path_factory):
    """For each fit, what both readers wrote: {fit: {name: (map, map)}}, pictures with palette."""
    top = tmp_path_factory.mktemp("readers")
    handover.write_folder(finished_run, top / "handover")
    contents, maps = kinds(finished_run), {}
    for fit in FITS:
        model, photos = set_fit(top / "handover", fit), {}
        for reader in ("package", "program"):
            (top / fit / reader).mkdir(parents=True)
            photos[reader] = [top / fit / reader / name for name in contents]
            for path, content in zip(photos[reader], contents.values()):
                path.write_bytes(content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predict, "draw_legend", lambda *_: None)  # slow, and another test's
            predict.write_overlays(photos["package"], model)
        command = [sys.executable, "-I", top / "handover" / "run_on_device.py", *photos["program"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("OK\n") and done.stdout.count("wrote ") == len(contents)
        pairs = zip(*(map(class_map, photos[reader]) for reader in ("package", "program")))
        maps[fit] = dict(zip(contents, pairs))
    return maps


def class_map(photo):
    """Indices, mode and the first colours of the palette of the class map beside a photograph."""
    with Image.open(f"{photo}.classes.png") as picture:
        return np.asarray(picture), picture.mode, picture.getpalette()


@pytest.mark.parametrize("fit", FITS)
def test_both_readers_write_the_same_class_maps(drawn, fit):
    for name, (package, program) in drawn[fit].items():
        np.testing.assert_array_equal(package[0], program[0], err_msg=f"{name}, {fit}")
        assert package[1:] == program[1:] and package[1] == "P"
        assert package[2][:9] == COLOURS.ravel().tolist(), "as the contract says"


def test_pictures_and_fits_are_told_apart(drawn):
    """The equality above is worth something: maps hold all classes, and each fit has its own."""
    plain = {fit: maps["rgb.jpg"][0][0] for fit, maps in drawn.items()}
    assert all(set(np.unique(indices)) == {0, 1, 2} for indices in plain.values())
    assert plain["stretch"].shape == plain["pad"].shape == SIZE[::-1]
    assert plain["crop"].shape == (60, 60)
    middle = plain["stretch"][:, 15:75], plain["pad"][:, 15:75], plain["crop"]
    shares = [(a != b).mean() for a, b in zip(middle, (*middle[1:], middle[0]))]
    assert min(shares) > 0.02
    for maps in drawn.values():
        np.testing.assert_array_equal(maps["exif1.png"][0][0], maps["exif6.png"][0][0])
        assert (maps["rgba.png"][0][0] != maps["exif1.png"][0][0]).mean() > 0.02
        assert (maps["grey16.png"][0][0] != maps["grey12in16.png"][0][0]).mean() > 0.02
        np.testing.assert_array_equal(maps["grey12in16.tif"][0][0], maps["grey12in16.png"][0][0])


def test_folder_is_exported_with_the_fit_of_the_data_set(finished_run, tmp_path):
    """Also from a file of an earlier version, whose contract said nothing of it."""
    run = copy_run(finished_run, tmp_path / "models")
    read_record(run, "dataset").rewrite(fit="pad")
    assert contract.read(artifact_path(run, "int8"))["input"]["picture"]["fit"] == "stretch"
    handover.write_folder(run, tmp_path / "out")
    for told in (
        json.loads((tmp_path / "out" / "contract.json").read_text(encoding="utf-8")),
        contract.read(tmp_path / "out" / "int8_quantized_model.tflite"),
    ):
        assert told["input"]["picture"]["fit"] == "pad"
    header = (tmp_path / "out" / "model.h").read_text(encoding="utf-8")
    assert '#define MODEL_FIT "pad"' in header and "fill the two bars" in header.replace(
        "\n// ", " "
    )
