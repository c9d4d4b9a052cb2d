"""The contract inside a .tflite file is true, can be read back, and changes no output.

MediaPipe reads it in tests/interop/test_mediapipe.py.
"""

import json
import shutil
import subprocess
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.checks import op_profile
from pipeline.data.classes import PET_COLOURS
from pipeline.inference import contract, litert, tflite_files
from pipeline.inference.models import open_model
from pipeline.quantization.convert import convert
from pipeline.variants import VARIANTS
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import toy_network

FILES = [*VARIANTS, "int8 input"]


@pytest.fixture(scope="module")
def plain():
    """A toy network in every variant, and in int8 with an int8 input, without a contract."""
    model, calibration = toy_network()
    files = {variant: convert(model, variant, calibration) for variant in VARIANTS}
    return {**files, "int8 input": convert(model, "int8", calibration, "int8")}


@pytest.fixture(scope="module")
def images():
    """Two images in which every brightness occurs."""
    random = np.random.default_rng(1)
    values = np.resize(np.arange(256, dtype=np.uint8), 2 * SIZE * SIZE * 3)
    return random.permutation(values).reshape(2, SIZE, SIZE, 3)


def repacked(content, change):
    """A .tflite file whose tables `change` edited, packed by flatbuffers' own builder."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# --- content -----------------------------------------------------------------------------


def test_contract_says_how_deep_photos_become_8_bits_only_if_training_had_such(plain):
    without = contract.describe(plain["int8"], CLASSES)
    assert "photos" not in without["input"]
    rules = {"white": 4095, "alpha": False}
    assert contract.describe(plain["int8"], CLASSES, rules)["input"].pop("photos") == rules
    same = contract.add_contract(plain["int8"], CLASSES, {})
    assert same == contract.add_contract(plain["int8"], CLASSES)
    assert contract.add_contract(plain["int8"], CLASSES, rules) != same


@pytest.mark.parametrize(
    ("fit", "text"),
    [
        ("stretch", f"resize it to {SIZE} x {SIZE} pixels (width x height), whatever its aspect"),
        ("pad", "with its aspect ratio kept, put it in the middle, and fill the two bars with the"),
        ("crop", "cut out its middle with the aspect ratio of"),
    ],
)
def test_contract_says_how_a_photo_becomes_the_input(plain, fit, text):
    told = contract.describe(plain["int8"], CLASSES, {"white": 4095, "alpha": False}, fit)["input"]
    picture = told["picture"]
    assert (picture["fit"], picture["resampling"], picture["fill"]) == (fit, "bilinear", 0)
    assert text in picture["meaning"] and "4095" in picture["meaning"]
    assert "leave out a fourth band" in picture["meaning"]
    plainer = contract.describe(plain["int8"], CLASSES, None, fit)["input"]["picture"]["meaning"]
    assert "lay transparent pixels over white" in plainer and "65535" in plainer


def test_contract_of_which_nobody_said_the_fit_does_not_say_it(plain):
    assert "picture" not in contract.describe(plain["int8"], CLASSES)["input"]


def test_contract_is_that_of_the_data_set(finished_run, plain):
    """quantization.py writes it; the fit and the colours are those that were prepared."""
    told = contract.read(artifact_path(finished_run, "int8"))
    assert told["input"]["picture"]["fit"] == read_record(finished_run, "dataset")["fit"]
    assert told["output"]["colours"] == [list(colour) for colour in PET_COLOURS]
    again = contract.add_contract(plain["int8"], **contract.of_data_set(finished_run))
    assert contract.add_contract(again, **contract.of_data_set(finished_run)) == again


@pytest.mark.parametrize("name", FILES)
def test_contract_alone_is_enough_to_feed_and_read_a_file(plain, images, name):
    """Logits computed from the contract's fields alone equal those of the face."""
    description = contract.describe(plain[name], CLASSES)
    image, output = description["input"], description["output"]
    interpreter = Interpreter(model_content=plain[name])
    interpreter.allocate_tensors()
    for tensor, details in (
        (image, interpreter.get_input_details()[0]),
        (output, interpreter.get_output_details()[0]),
    ):
        assert tensor["name"] == details["name"]
        assert tensor["shape"] == details["shape"].tolist()
        assert np.dtype(tensor["type"]) == details["dtype"]
        scale, zero_point = details["quantization"]  # both 0 for a floating-point tensor
        assert (tensor["scale"] is None) == (scale == 0)
        assert np.float32(tensor["scale"] or 0) == np.float32(scale)
        assert (tensor["zero_point"] or 0) == zero_point

    real = (images - np.float32(image["mean"])) / np.float32(image["std"])
    low, high = image["range"]
    assert (real.min(), real.max()) == pytest.approx((low, high))
    values = real
    if image["scale"] is not None:
        values = np.round(real / image["scale"] + image["zero_point"])
    values = values.astype(image["type"])
    assert image["raw_pixels"] == bool((values == images).all())
    logits = []
    for value in values:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value[None])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    real = np.stack(logits)
    if output["scale"] is not None:
        real = (real - np.float32(output["zero_point"])) * np.float32(output["scale"])
    np.testing.assert_allclose(real, open_model(plain[name]).logits(images), rtol=1e-6)
    assert [output["classes"][k] for k in range(len(CLASSES))] == list(CLASSES)


def test_mean_std_and_range_follow_the_input_s_quantisation(plain):
    """uint8 input, scale 1/128, zero point 127: pixel 0 means -127/128, pixel 255 means 1."""

    def change(model):
        quantisation = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].quantization
        quantisation.scale, quantisation.zeroPoint = [1 / 128], [127]

    image = contract.describe(repacked(plain["int8"], change), CLASSES)["input"]
    assert (image["mean"], image["std"]) == (127, 128)
    assert image["range"] == pytest.approx([-127 / 128, 1])
    assert image["raw_pixels"]


def test_class_names_must_match_the_number_of_logits_and_be_one_line_each(plain):
    with pytest.raises(UserError, match=r"tells 3 classes apart, 2 are named \(cat, dog\)"):
        contract.add_contract(plain["int8"], ("cat", "dog"))
    with pytest.raises(UserError, match=r"'sky\\nabove' is not one line"):
        contract.add_contract(plain["int8"], ("cat", "dog", "sky\nabove"))


# --- reading -------------------------------------------------------------------------------


def test_contract_is_read_back_by_python_and_by_unzip(plain, tmp_path):
    """With a class name outside ASCII: both readers must decode it as UTF-8."""
    classes = ("Schäferhund", "background", "border")
    path = tmp_path / "model.tflite"
    path.write_bytes(contract.add_contract(plain["int8"], classes))
    description = contract.describe(plain["int8"], classes)
    assert contract.read(path) == description
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("contract.json")) == description
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    command = ["unzip", "-p", path, "labels.txt"]
    labels = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert labels.stdout == "Schäferhund\nbackground\nborder\n"
    result = subprocess.run(["unzip", "-t", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout  # 1 if it warned of bytes before the archive


def test_file_without_a_contract_is_refused_with_the_command_that_makes_it(plain, tmp_path):
    path = tmp_path / "int8_quantized_model.tflite"
    with pytest.raises(UserError, match=r"is missing; make it with: .*python .*quantization\.py"):
        contract.read(path)
    complete = contract.add_contract(plain["int8"], CLASSES)
    encrypted = bytearray(complete)
    for record in (b"PK\1\2", b"PK\3\4"):  # flag 1 of the last entry, contract.json
        encrypted[complete.rindex(record) + (8 if record == b"PK\1\2" else 6)] |= 1
    for content in (
        plain["int8"],
        b"",
        complete[:-40],
        complete.replace(b'"zero_point"', b'"nonsense!!"'),  # fails its CRC
        bytes(encrypted),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"no contract inside; make it with: .*python .*\.py"):
            contract.read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "[1]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "input": [], "output": {}}',
        '{"format": 1, "input": {}, "output": {"classes": 3}}',
    ],
)
def test_zip_whose_contract_is_something_else_is_refused(tmp_path, text):
    path = tmp_path / "model.tflite"
    path.write_bytes(contract.with_zip(b"TFL3", {"contract.json": text}))
    with pytest.raises(UserError, match="no contract inside; name another file"):
        contract.read(path)


def test_error_in_our_own_code_is_no_damaged_file(plain, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(contract.add_contract(plain["int8"], CLASSES))
    monkeypatch.setattr(contract, "is_complete", lambda fields: fields.no_such_attribute)
    with pytest.raises(AttributeError):
        contract.read(path)


def test_contract_of_another_format_is_refused(plain, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    with monkeypatch.context() as patch:
        patch.setattr(contract, "FORMAT", contract.FORMAT + 1)
        path.write_bytes(contract.add_contract(plain["int8"], CLASSES))
    with pytest.raises(UserError, match="has a contract of format 2, not 1"):
        contract.read(path)


# --- no side effects ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_contract_changes_no_output_and_adding_it_again_changes_no_byte(plain, images, name):
    complete = contract.add_contract(plain[name], CLASSES)
    assert contract.add_contract(complete, CLASSES) == complete
    before, after = (open_model(content).logits(images) for content in (plain[name], complete))
    assert len(np.unique(after)) > 2
    np.testing.assert_array_equal(after.view(np.int32), before.view(np.int32))


def test_contract_with_other_names_replaces_the_old_one(plain):
    again = contract.add_contract(
        contract.add_contract(plain["int8"], ("cat", "dog", "bird")), CLASSES
    )
    assert again == contract.add_contract(plain["int8"], CLASSES)


@pytest.mark.parametrize("name", FILES)
def test_file_with_contract_stays_compact_and_its_weights_aligned(plain, name):
    complete = contract.add_contract(plain[name], CLASSES)
    assert len(plain[name]) < len(complete) < len(plain[name]) + 2000
    model = schema.Model.GetRootAs(complete, 0)
    buffers = [model.Buffers(k).DataAsNumpy() for k in range(model.BuffersLength())]
    weights = [data for data in buffers if isinstance(data, np.ndarray) and data.size >= 16]
    start = np.frombuffer(complete, np.uint8).__array_interface__["data"][0]
    offsets = [values.__array_interface__["data"][0] - start for values in weights]
    assert len(offsets) > 10 and all(offset % 16 == 0 for offset in offsets)


def test_file_that_is_not_compact_is_compacted(plain):
    loose = repacked(plain["int8"], lambda model: None)
    assert len(loose) > len(plain["int8"]) + 1000
    assert contract.add_contract(loose, CLASSES) == contract.add_contract(plain["int8"], CLASSES)


def test_weights_that_lie_behind_the_tables_are_kept(plain, images):
    """litert-quantizer puts the weights of larger networks there; the zip must come after them."""
    moved = []

    def move(model, start=16):
        buffers = [buffer for buffer in model.buffers if buffer.data is not None]
        buffer = max(buffers, key=lambda buffer: buffer.data.size)
        moved.append(buffer.data.tobytes())
        buffer.data, buffer.offset, buffer.size = None, start, len(moved[-1])

    start = -(-len(repacked(plain["int8"], move)) // 16) * 16
    tables = repacked(plain["int8"], lambda model: move(model, start))
    content = tables.ljust(start, b"\0") + moved[-1]
    expected = open_model(plain["int8"]).logits(images)
    np.testing.assert_array_equal(open_model(content).logits(images), expected)
    complete = contract.add_contract(content, CLASSES)
    np.testing.assert_array_equal(open_model(complete).logits(images), expected)


@pytest.mark.parametrize("name", FILES)
def test_every_reader_of_this_project_takes_a_file_with_contract(plain, tmp_path, name):
    paths = tmp_path / "plain.tflite", tmp_path / "with_contract.tflite"
    paths[0].write_bytes(plain[name])
    paths[1].write_bytes(contract.add_contract(plain[name], CLASSES))
    before, after = (
        [operator.kind for operator in tflite_files.operators(path.read_bytes())] for path in paths
    )
    assert before == after
    before, after = (tflite_files.tflite_weights(path) for path in paths)
    assert all((old == new).all() for old, new in zip(before, after))
    assert len(before) == len(after) > 0
    before, after = ([row[:2] for row in op_profile.time_operators(path, 0)] for path in paths)
    assert before == after
    litert.open_interpreter(paths[1])
