"""The contract inside a .tflite file: true, read back by several readers, and free of side effects.

What MediaPipe makes of it: test_mediapipe.py.
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
from flatbuffers import number_types

from pipeline.base.console import UserError
from pipeline.checks import op_profile
from pipeline.inference import contract, litert, tflite_files
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
    """A .tflite file after `change` of its tables, by flatbuffers' own packing."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# --- what it says -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_contract_alone_is_enough_to_feed_and_read_a_file(plain, images, name):
    """By nothing but the contract, as a stranger would, against the project's own way."""
    told = contract.describe(plain[name], CLASSES)
    taken, given = told["input"], told["output"]
    interpreter = Interpreter(model_content=plain[name])
    interpreter.allocate_tensors()
    for about, details in (
        (taken, interpreter.get_input_details()[0]),
        (given, interpreter.get_output_details()[0]),
    ):
        assert about["name"] == details["name"]
        assert about["shape"] == details["shape"].tolist()
        assert np.dtype(about["type"]) == details["dtype"]
        scale, zero_point = details["quantization"]  # 0 and 0 where there is none
        assert (about["scale"] is None) == (scale == 0)
        assert np.float32(about["scale"] or 0) == np.float32(scale)
        assert (about["zero_point"] or 0) == zero_point

    real = (images - np.float32(taken["mean"])) / np.float32(taken["std"])
    low, high = taken["range"]
    assert (real.min(), real.max()) == pytest.approx((low, high))
    values = real
    if taken["scale"] is not None:
        values = np.round(real / taken["scale"] + taken["zero_point"])
    values = values.astype(taken["type"])
    assert taken["raw_pixels"] == bool((values == images).all())
    logits = []
    for image in values:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    real = np.stack(logits)
    if given["scale"] is not None:
        real = (real - np.float32(given["zero_point"])) * np.float32(given["scale"])
    np.testing.assert_allclose(real, litert.logits_of(plain[name], images), rtol=1e-6)
    assert [given["classes"][k] for k in range(len(CLASSES))] == list(CLASSES)


def test_file_whose_pixels_mean_something_else_says_so(plain):
    """A uint8 input of scale 1/128 and zero point 127: -127/128 is black and 1 white."""

    def change(model):
        slot = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].quantization
        slot.scale, slot.zeroPoint = [1 / 128], [127]

    taken = contract.describe(repacked(plain["int8"], change), CLASSES)["input"]
    assert (taken["mean"], taken["std"]) == (127, 128)
    assert taken["range"] == pytest.approx([-127 / 128, 1])
    assert taken["raw_pixels"]


def test_class_names_must_be_as_many_as_the_file_knows_and_one_line_each(plain):
    with pytest.raises(UserError, match=r"tells 3 classes apart, 2 are named \(cat, dog\)"):
        contract.sign(plain["int8"], ("cat", "dog"))
    with pytest.raises(UserError, match=r"'sky\\nabove' is not one line"):
        contract.sign(plain["int8"], ("cat", "dog", "sky\nabove"))


# --- read back ----------------------------------------------------------------------------


def test_contract_is_read_back_by_python_and_by_unzip(plain, tmp_path):
    """A name that ASCII lacks, because the file must say in which code it is written."""
    classes = ("Schäferhund", "background", "border")
    path = tmp_path / "model.tflite"
    path.write_bytes(contract.sign(plain["int8"], classes))
    told = contract.describe(plain["int8"], classes)
    assert contract.read(path) == told
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("contract.json")) == told
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    command = ["unzip", "-p", path, "labels.txt"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout == "Schäferhund\nbackground\nborder\n"
    tested = subprocess.run(["unzip", "-t", path], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout  # 1 if it wondered what comes before the zip


def test_file_without_a_contract_is_named(plain, tmp_path):
    path = tmp_path / "int8_quantized_model.tflite"
    with pytest.raises(UserError, match=r"is missing; make it with: python .*quantization\.py"):
        contract.read(path)
    signed = contract.sign(plain["int8"], CLASSES)
    for content in (
        plain["int8"],
        b"",
        signed[:-40],
        signed.replace(b'"zero_point"', b'"nonsense!!"'),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"no contract inside; make it with: python .*\.py"):
            contract.read(path)


def test_contract_of_another_format_is_refused(plain, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    with monkeypatch.context() as patch:
        patch.setattr(contract, "FORMAT", contract.FORMAT + 1)
        path.write_bytes(contract.sign(plain["int8"], CLASSES))
    with pytest.raises(UserError, match="has a contract of format 2, not 1"):
        contract.read(path)


class Fields:
    """A table of any flatbuffer: its fields by their numbers in the schema, which starts at 0.

    As the format defines them, without the project's code.
    """

    def __init__(self, content, place=None):
        self.content = content
        if place is None:
            place = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
        self.table = flatbuffers.table.Table(content, place)

    def place(self, number):
        offset = self.table.Offset(4 + 2 * number)
        assert offset, f"field {number} is not there"
        return self.table.Pos + offset

    def number(self, number, kind):
        return self.table.Get(kind, self.place(number))

    def text(self, number):
        return self.table.String(self.place(number)).decode()

    def inner(self, number):
        return Fields(self.content, self.table.Indirect(self.place(number)))

    def only(self, number):
        """The one table of a vector of tables."""
        assert self.table.VectorLen(self.place(number) - self.table.Pos) == 1
        start = self.table.Vector(self.place(number) - self.table.Pos)
        return Fields(self.content, self.table.Indirect(start))

    def vector(self, number, kind):
        return self.table.GetVectorAsNumpy(kind, self.place(number) - self.table.Pos).tolist()


@pytest.mark.parametrize(
    ("name", "values"),
    [("float32", (0, 1)), ("int8", (0, 255)), ("int8 input", (-128, 127))],
)
def test_metadata_stands_where_the_schema_says(plain, name, values):
    """Field numbers, and those of enumerations, by hand from metadata_schema.fbs."""
    model = schema.ModelT.InitFromPackedBuf(contract.sign(plain[name], CLASSES), 0)
    (entry,) = (each for each in model.metadata if each.name == b"TFLITE_METADATA")
    content = model.buffers[entry.buffer].data.tobytes()
    assert content[4:8] == b"M001"
    about = Fields(content)
    assert about.text(0) == "segmentation, 3 classes"
    assert about.text(7) == "1.5.0"  # the parser that custom metadata needs
    graph = about.only(3)
    image, logits = graph.only(2), graph.only(3)
    assert image.inner(3).number(0, number_types.Uint8Flags) == 2  # an image
    pixels = image.inner(3).inner(1)
    assert pixels.number(0, number_types.Int8Flags) == 1  # RGB
    size = [pixels.inner(1).number(k, number_types.Uint32Flags) for k in (0, 1)]
    assert size == [SIZE, SIZE]
    unit = image.only(4)
    assert unit.number(0, number_types.Uint8Flags) == 1  # normalisation
    (mean,), (std,) = (unit.inner(1).vector(k, number_types.Float32Flags) for k in (0, 1))
    assert (mean, std) == pytest.approx((0, 255), abs=1e-3)
    (high,), (low,) = (image.inner(5).vector(k, number_types.Float32Flags) for k in (0, 1))
    assert (low, high) == values
    labels = logits.only(6)
    assert labels.text(0) == "labels.txt"
    assert labels.number(2, number_types.Int8Flags) == 2  # they name places along an axis
    assert "argmax" in logits.text(1)


# --- and nothing else ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_signing_changes_no_output_and_is_done_once(plain, images, name):
    signed = contract.sign(plain[name], CLASSES)
    assert contract.sign(signed, CLASSES) == signed
    before, after = (litert.logits_of(content, images) for content in (plain[name], signed))
    assert len(np.unique(after)) > 2
    np.testing.assert_array_equal(after.view(np.int32), before.view(np.int32))


def test_signing_again_with_other_names_leaves_nothing_of_the_old(plain):
    again = contract.sign(contract.sign(plain["int8"], ("cat", "dog", "bird")), CLASSES)
    assert again == contract.sign(plain["int8"], CLASSES)


@pytest.mark.parametrize("name", FILES)
def test_signed_file_stays_compact_and_its_weights_can_be_read_in_place(plain, name):
    signed = contract.sign(plain[name], CLASSES)
    assert len(plain[name]) < len(signed) < len(plain[name]) + 2000
    model = schema.Model.GetRootAs(signed, 0)
    weights = [model.Buffers(k).DataAsNumpy() for k in range(model.BuffersLength())]
    weights = [each for each in weights if isinstance(each, np.ndarray) and each.size >= 16]
    start = np.frombuffer(signed, np.uint8).__array_interface__["data"][0]
    places = [values.__array_interface__["data"][0] - start for values in weights]
    assert len(places) > 10 and all(place % 16 == 0 for place in places)


def test_file_that_was_not_compact_becomes_so(plain):
    loose = repacked(plain["int8"], lambda model: None)
    assert len(loose) > len(plain["int8"]) + 1000
    assert contract.sign(loose, CLASSES) == contract.sign(plain["int8"], CLASSES)


def test_weights_that_lie_behind_the_tables_are_kept(plain, images):
    """Where litert-quantizer puts those of larger networks, and where the zip will be."""
    moved = []

    def move(model, start=16):
        buffers = [buffer for buffer in model.buffers if buffer.data is not None]
        buffer = max(buffers, key=lambda buffer: buffer.data.size)
        moved.append(buffer.data.tobytes())
        buffer.data, buffer.offset, buffer.size = None, start, len(moved[-1])

    start = -(-len(repacked(plain["int8"], move)) // 16) * 16
    tables = repacked(plain["int8"], lambda model: move(model, start))
    content = tables.ljust(start, b"\0") + moved[-1]
    expected = litert.logits_of(plain["int8"], images)
    np.testing.assert_array_equal(litert.logits_of(content, images), expected)
    signed = contract.sign(content, CLASSES)
    np.testing.assert_array_equal(litert.logits_of(signed, images), expected)


@pytest.mark.parametrize("name", FILES)
def test_every_reader_of_this_project_takes_a_signed_file(plain, tmp_path, name):
    paths = tmp_path / "plain.tflite", tmp_path / "signed.tflite"
    paths[0].write_bytes(plain[name])
    paths[1].write_bytes(contract.sign(plain[name], CLASSES))
    before, after = ([found.kind for found in litert.operators(p.read_bytes())] for p in paths)
    assert before == after
    before, after = (tflite_files.tflite_weights(path) for path in paths)
    assert all((one == other).all() for one, other in zip(before, after))
    assert len(before) == len(after) > 0
    before, after = ([row[:2] for row in op_profile.time_operators(path, 0)] for path in paths)
    assert before == after
    litert.open_interpreter(paths[1])
