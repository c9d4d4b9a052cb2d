"""TFLite metadata, read back by field numbers as other readers of the format do it."""

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types

from pipeline.inference.contract import add_contract
from pipeline.quantization.convert import convert
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import toy_network


class Fields:
    """A table of any flatbuffer; fields are addressed by their number in the schema, from 0.

    Uses the flatbuffers library only, none of this project's code.
    """

    def __init__(self, content, position=None):
        self.content = content
        if position is None:
            position = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
        self.table = flatbuffers.table.Table(content, position)

    def position(self, number):
        offset = self.table.Offset(4 + 2 * number)
        assert offset, f"field {number} is not there"
        return self.table.Pos + offset

    def number(self, number, kind):
        return self.table.Get(kind, self.position(number))

    def text(self, number):
        return self.table.String(self.position(number)).decode()

    def inner(self, number):
        return Fields(self.content, self.table.Indirect(self.position(number)))

    def only(self, number):
        """The one table of a vector of tables."""
        assert self.table.VectorLen(self.position(number) - self.table.Pos) == 1
        start = self.table.Vector(self.position(number) - self.table.Pos)
        return Fields(self.content, self.table.Indirect(start))

    def vector(self, number, kind):
        return self.table.GetVectorAsNumpy(kind, self.position(number) - self.table.Pos).tolist()


@pytest.mark.parametrize(
    ("variant", "input_type", "values"),
    [("float32", "uint8", (0, 1)), ("int8", "uint8", (0, 255)), ("int8", "int8", (-128, 127))],
)
def test_metadata_has_the_field_numbers_of_the_schema(variant, input_type, values):
    """Numbers of fields and enumeration members copied by hand from metadata_schema.fbs."""
    network, calibration = toy_network()
    content = convert(network, variant, calibration, input_type)
    model = schema.ModelT.InitFromPackedBuf(add_contract(content, CLASSES, fit="pad"), 0)
    (entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    metadata = model.buffers[entry.buffer].data.tobytes()
    assert metadata[4:8] == b"M001"
    root = Fields(metadata)
    assert root.text(0) == "segmentation, 3 classes"
    assert root.text(7) == "1.5.0"  # the parser version that custom metadata needs
    graph = root.only(3)
    image, logits = graph.only(2), graph.only(3)
    assert image.inner(3).number(0, number_types.Uint8Flags) == 2  # an image
    pixels = image.inner(3).inner(1)
    assert pixels.number(0, number_types.Int8Flags) == 1  # RGB
    assert "fill the two bars" in image.text(1) and "8-bit pixel goes in" in image.text(1)
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
    assert labels.number(2, number_types.Int8Flags) == 2  # labels along a tensor axis
    assert "argmax" in logits.text(1)
