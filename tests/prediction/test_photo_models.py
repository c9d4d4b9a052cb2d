"""Model files of others: used by what they say and are, or refused; never wrong in silence."""

import json
import os
import shlex
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

import evaluation
from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.inference import contract
from pipeline.inference.litert import set_image
from pipeline.prediction import photo_models
from pipeline.prediction.input_values import input_values
from pipeline.prediction.photo_models import chosen_output, open_photo_model
from pipeline.prediction.tflite_description import Description, describe
from tests.helpers.toy_networks import saved_as

SIDE, STREET = 32, ("road", "car", "sky")


def street(path, kind="scores", names=STREET, mean=127.5, std=127.5):
    """A file for pixels of -1..1: car where red is above the middle, sky where green is, else road.

    Args:
        kind: "scores", "map" (argmax, for pixels of 0..1, without metadata), "two" outputs.
    """
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 0, 1] = kernel[0, 0, 1, 2] = 1
    weights = [kernel, np.array([0.05, 0, 0], np.float32)]
    image = keras.Input((SIDE, SIDE, 3), batch_size=1, name="image")
    network = keras.Model(image, layers.Conv2D(3, 1, weights=weights, name="logits")(image))
    if kind == "map":
        classes = tf.argmax(network(2 * image - 1), -1, output_type=tf.int32)
        network = keras.Model(image, tf.expand_dims(classes, -1))
    elif kind == "two":
        scores = network(image)
        network = keras.Model(image, [scores, 2 * scores])
    content = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    if kind == "scores":
        describe_file = contract.describe

        def described(*arguments):
            about = describe_file(*arguments)
            about["input"].update(mean=mean, std=std)
            return about

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contract, "describe", described)
            content = contract.add_contract(content, names)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind of `street`."""
    folder = tmp_path_factory.mktemp("street")
    return {kind: street(folder / f"{kind}.tflite", kind) for kind in ("scores", "map", "two")}


@pytest.fixture
def photo(tmp_path):
    """A photograph, and the classes of its pixels."""
    pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
    pixels[:14, :14], pixels[18:, 18:] = (220, 60, 50), (60, 200, 70)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    truth = np.zeros((SIDE, SIDE), int)
    truth[:14, :14], truth[18:, 18:] = 1, 2
    return tmp_path / "photo.png", truth


def drawn(photo):
    return np.asarray(Image.open(f"{photo}.classes.png"))


@pytest.mark.parametrize("kind", ["scores", "map"])
def test_file_of_others_is_used_as_it_says(files, photo, capsys, kind):
    """Its pixels went in as 0..1 ("car 77 %"); a map of classes was "class 0 100.0%"."""
    path, truth = photo
    evaluation.main(["--image", str(path), "--model", str(files[kind])])
    np.testing.assert_array_equal(drawn(path), truth)
    names = STREET if kind == "scores" else ("class 0", "class 1", "class 2")
    said = capsys.readouterr().out
    for index in range(3):
        assert f"{names[index]} {(truth == index).mean():.1%}" in said
    assert ("note: " in said) == (kind == "map"), "that pixels are divided by 255 is an assumption"


def test_names_in_a_file_of_others_come_before_those_of_the_folder(files, run_copy, photo, capsys):
    path, _ = photo
    copy = run_copy / "street.tflite"
    copy.write_bytes(files["scores"].read_bytes())
    evaluation.main(["--image", str(path), "--model", str(copy)])
    assert "road 6" in capsys.readouterr().out


def test_two_outputs_that_may_both_be_scores_are_refused(files):
    with pytest.raises(UserError, match=r"has 2 outputs .* nothing tells which one"):
        open_photo_model(files["two"])


def test_file_of_ours_takes_what_set_image_gives_it(finished_run):
    """Pixels go in as when the file was checked and measured."""
    random = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for name in ("int8", "float32", "float16", "dynamic"):
        path = artifact_path(finished_run, name)
        interpreter = photo_models.open_interpreter(path)
        image = interpreter.get_input_details()[0]
        set_image(interpreter, random)
        values, _ = input_values(path, image, describe(path))
        expected = interpreter.get_tensor(image["index"])[0]
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values[random, np.arange(3)], expected)


def tensor(kind, scale=0.0, zero_point=0, shape=(1, SIDE, SIDE, 3)):
    """What LiteRT says of a tensor."""
    about = {"dtype": np.dtype(kind), "quantization": (scale, zero_point), "shape": list(shape)}
    return about | {"name": "x", "index": 0}


IMAGENET = Description((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TEXT = Description((127.5,), (127.5,))


@pytest.mark.parametrize(
    ("image", "description", "black", "white"),
    [
        (tensor("uint8", 1 / 255, 0), Description(), 0, 255),
        (tensor("int8", 1 / 255, -128), Description(), -128, 127),
        (tensor("uint8", 1 / 127.5, 128), Description(), 0, 255),
        (tensor("int8", 2 / 255, 0), TEXT, -128, 127),
        (tensor("uint8", 1 / 127.5, 128), Description((0.0,), (1.0,)), 0, 255),
        (tensor("uint8"), Description(), 0, 255),
        (tensor("float32"), TEXT, -1, 1),
        (tensor("float32"), Description((0.0,), (1.0,)), 0, 255),
        (tensor("float32"), IMAGENET, (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.64)),
        (tensor("int8", 0.02, -14), IMAGENET, (-120, -116, -104), (98, 107, 118)),
    ],
)
def test_pixels_become_the_values_that_the_file_asks_for(image, description, black, white):
    values, _ = input_values("file", image, description)
    np.testing.assert_allclose(values[0], np.broadcast_to(black, 3), atol=1e-3)
    np.testing.assert_allclose(values[255], np.broadcast_to(white, 3), atol=1e-3)
    assert values.dtype == image["dtype"]


@pytest.mark.parametrize(
    ("image", "description", "message"),
    [
        (tensor("int8", 0.02, -14), Description(), r"of -2\.28 to 2\.82, is not that of pixels"),
        (tensor("uint8", 1 / 255, 0), TEXT, "values of -1 to 1, and its quantised input cannot"),
        (tensor("float32"), Description((1.0,), (0.0,)), "not those of three colours"),
        (tensor("float32"), Description((1.0, 2.0), (1.0, 1.0)), "not those of three colours"),
        (tensor("int16", 1, 0), Description(), "takes input of type int16"),
        (tensor("int8", float("nan"), 0), Description(), "is not that of pixels"),
        (tensor("int8", float("nan"), 0), TEXT, "quantised input cannot"),
    ],
)
def test_input_that_no_pixel_fits_is_refused(image, description, message):
    with pytest.raises(UserError, match=message):
        input_values("file", image, description)


@pytest.mark.parametrize("suffix", [".h5", ".tflite"])
def test_model_for_images_of_any_size_is_refused(tmp_path, suffix):
    """LiteRT takes images of 1 x 1 pixel then, and photographs would be shrunk to that."""
    image = keras.Input((None, None, 3))
    network = keras.Model(image, layers.Conv2D(3, 1)(image))
    with pytest.raises(UserError, match="takes images of any size"):
        open_photo_model(saved_as(network, tmp_path / f"model{suffix}"))


def test_output_with_the_classes_is_found():
    size = (SIDE, SIDE, 3)
    scores, edges = tensor("float32", shape=(1, SIDE, SIDE, 21)), tensor("float32", shape=(1, 9))
    classes = tensor("int64", shape=(1, SIDE, SIDE))
    assert chosen_output("file", size, [edges, scores, classes]) is scores
    assert chosen_output("file", size, [edges, classes]) is classes
    with pytest.raises(UserError, match="nothing tells"):
        chosen_output("file", size, [edges, edges])


@pytest.mark.parametrize("fault", ["one class", "large list", "large contract", "lists differ"])
def test_names_that_do_not_fit_are_refused_and_large_ones_not_read(files, tmp_path, fault):
    content = files["scores"].read_bytes()
    plain = content[: content.index(b"PK\3\4")]
    about = contract.read(files["scores"])
    names = {"one class": 1, "lists differ": 2}.get(fault, 3)
    about["output"]["classes"] = list(STREET[:names])
    labels = "\n".join(STREET[: 1 if fault == "one class" else 3])
    text = json.dumps(about)
    if fault == "large list":
        labels = " " * (2 << 20)
    if fault == "large contract":
        text += " " * (2 << 20)
    path = tmp_path / "file.tflite"
    path.write_bytes(contract.with_zip(plain, {"labels.txt": labels, "contract.json": text}))
    if fault == "large contract":
        with pytest.raises(UserError, match="has no contract inside"):
            contract.read(path)
        assert open_photo_model(path).names == STREET
        return
    with pytest.raises(UserError, match=r"names|list of classes, labels\.txt, has"):
        open_photo_model(path)


# --- kinds of files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best.H5", "best"])
def test_h5_file_is_read_whatever_its_suffix(finished_run, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(artifact_path(finished_run, "original").read_bytes())
    assert open_photo_model(path).number == 3


def test_tflite_file_is_read_whatever_its_suffix(files, tmp_path):
    path = tmp_path / "street.h5"
    path.write_bytes(files["scores"].read_bytes())
    assert open_photo_model(path).names == STREET


@pytest.mark.parametrize("kind", ["keras", "saved model", "folder", "weights", "hdf5", "zip"])
def test_other_kind_is_named_with_what_converts_it(tmp_path, kind):
    path = tmp_path / "a model's.keras"
    if kind in ("keras", "zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json" if kind == "keras" else "model.h5", "{}")
    elif kind in ("saved model", "folder"):
        path.mkdir()
        if kind == "saved model":
            (path / "saved_model.pb").touch()
    else:
        with h5py.File(path, "w") as file:
            if kind == "weights":
                file.attrs["layer_names"] = ["a"]
    words = {"keras": "of Keras 3", "saved model": "SavedModel", "folder": "is a folder"}
    words |= {"weights": "weights of a network only", "hdf5": "without a network", "zip": "unpack"}
    with pytest.raises(UserError, match=words[kind]) as refused:
        open_photo_model(path)
    if kind in ("keras", "saved model"):
        command = str(refused.value).partition("with: ")[2]
        _, flag, code = shlex.split(command)
        assert flag == "-c" and repr(str(path)) in code
        compile(code, "command", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["keras", "saved model"])
def test_command_in_the_message_converts_the_file(tmp_path, kind):
    path = tmp_path / ("model.keras" if kind == "keras" else "saved")
    save = "save" if kind == "keras" else "export"
    program = (
        "import keras, sys; image = keras.Input((32, 32, 3)); keras.Model(image, "
        f"keras.layers.Conv2D(3, 1)(image)).{save}(sys.argv[1])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", program, path], check=True, env=environment)
    with pytest.raises(UserError) as refused:
        open_photo_model(path)
    command = str(refused.value).partition("with: ")[2]
    subprocess.run(command, shell=True, check=True, env=environment)
    assert open_photo_model(path.with_suffix(".tflite")).number == 3
