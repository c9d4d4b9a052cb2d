"""Mapping of mask values to classes: flags, values without names, names, colours, refusals."""

import argparse

import pytest

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED
from pipeline.data.label_flags import parse_mapping, parse_names, parse_value, with_user
from pipeline.data.label_mapping import Labels, index_of, read_labelmap, settle
from pipeline.data.masks import pack

RED, BLUE, VOID = (255, 0, 0), (0, 0, 255), (224, 224, 192)


def meaning(values, labels=None, padded=False, palette=None):
    first_mask = {value: f"m{value}.png" for value in values}
    return settle(labels or Labels(), first_mask, palette or {}, padded)


# --- the command line ---------------------------------------------------------------------


def test_names_are_read_from_the_command_line_or_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("traffic light\n\n naïve \n", encoding="utf-8")
    assert parse_names("cat, dog,other") == ["cat", "dog", "other"]
    assert parse_names(str(tmp_path / "names.txt")) == ["traffic light", "naïve"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cat", "1 classes, but 2 to 150 are supported"),
        ("a,b,a", "'a' is named twice"),
        (",".join(map(str, range(151))), "151 classes"),
    ],
)
def test_invalid_names_are_refused(text, reason):
    with pytest.raises(argparse.ArgumentTypeError, match=reason):
        parse_names(text)


def test_mapping_of_values_or_colours_to_indices_or_names():
    assert parse_mapping("255:1,0:0") == {"255": 1, "0": 0}
    assert parse_mapping("255:pet, 7:ignore") == {"255": "pet", "7": "ignore"}
    colours = {"255,0,0": 1, "0,0,255": 0}
    assert parse_mapping("255,0,0:1,0,0,255:0") == colours
    assert parse_mapping("255, 0, 0:1, 0,0,255:0") == colours


def test_any_whole_number_is_a_value():
    huge = int(float("-3.4028234663852886e+38"))
    assert parse_mapping("-9999:ignore,0:0,1.0:1") == {"-9999": "ignore", "0": 0, "1": 1}
    assert parse_mapping("-3.4028234663852886e+38:ignore,4294967295:1") == {
        **{str(huge): "ignore", "4294967295": 1}
    }
    assert [parse_value(text) for text in ("-1", "255", "-9999.0", "1e3")] == [-1, 255, -9999, 1000]
    for text in ("0.5", "nan", "inf"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a whole number"):
            parse_value(text)


def test_negative_value_is_never_taken_for_the_last_class():
    names = ("a", "b", "c")
    result = meaning([-1, 0, 1, 2], Labels(names))
    assert result.unknown == {-1} and -1 not in result.table
    ignored = with_user(Labels(names), None, -1, None)
    assert meaning([-1, 0, 1, 2], ignored).table == {-1: IGNORED, 0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("name", ["two\nlines", "a\u2028b", "", "\ud800", "\x1b[31mred"])
def test_name_that_labels_txt_cannot_hold_is_refused(name):
    with pytest.raises(UserError, match="is not one line of text; rename it"):
        meaning([0, 1], Labels(("sky", name)))


@pytest.mark.parametrize("text", ["", "255", "255=1", "1,2:3", "255:1;0:0", "a:1", "255:1,,0:0"])
def test_message_on_an_invalid_mapping_shows_the_syntax(text):
    with pytest.raises(argparse.ArgumentTypeError, match="VALUE:CLASS, as in 255:1,0:0"):
        parse_mapping(text)


def test_mapping_with_values_and_colours_is_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="mixes values and colours"):
        parse_mapping("255:1,0,0,255:0")


def test_target_is_an_index_a_name_or_ignore():
    names = ("cat", "dog")
    assert [index_of(to, names) for to in (0, "dog", "ignore", "ignore_label", 255)] == [
        *(0, 1, IGNORED, IGNORED, IGNORED)
    ]
    with pytest.raises(UserError, match=r"unknown class 'bird'; use 0\.\.1, cat, dog, or ignore"):
        index_of("bird", names)
    with pytest.raises(UserError, match=r"unknown class 2; use 0\.\.1"):
        index_of(2, names)


def test_flags_override_the_labels_of_the_data_set():
    source = Labels(("a", "b", "c"), (RED, BLUE, VOID), {1: 0, 2: 1, 3: 2})
    same = with_user(source, ["a", "b", "c"], None, None)
    assert same == source
    changed = with_user(source, ["cat", "dog", "fox"], 3, {"9": "fox"})
    assert changed.names == ("cat", "dog", "fox") and changed.colours is None
    assert changed.mapping == {1: 0, 2: 1, 3: IGNORED, 9: 2}
    by_colour = with_user(source, None, None, {"255,0,0": 0, "0,0,255": "ignore"})
    assert by_colour.by_colour and by_colour.mapping == {pack(RED): 0, pack(BLUE): IGNORED}
    with pytest.raises(UserError, match=r"0,256,0 is no colour; its parts are 0\.\.255"):
        with_user(source, None, None, {"0,256,0": 1})
    with pytest.raises(UserError, match="--label-mapping R,G,B:ignore"):
        with_user(source, None, 255, {"255,0,0": 0})


# --- values without names -----------------------------------------------------------------


def test_values_from_zero_are_class_indices():
    result = meaning([0, 1, 2])
    assert result.classes.names == ("class 0", "class 1", "class 2")
    assert result.table == {0: 0, 1: 1, 2: 2} and not result.unknown and not result.classes.ignored
    assert len(meaning(range(150)).classes) == 150


def test_values_from_one_are_shifted_to_class_indices():
    """Like the trimaps of Oxford-IIIT Pet, and ADE20K with 0 ignored."""
    result = meaning([1, 2, 3])
    assert result.classes.names == ("class 1", "class 2", "class 3")
    assert result.table == {1: 0, 2: 1, 3: 2}
    reduced = meaning(range(151), Labels(mapping={0: IGNORED}))
    assert len(reduced.classes) == 150 and reduced.table[150] == 149 and reduced.classes.ignored


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 255], r"m255\.png holds the value 255.*: --label-mapping 255:1$"),
        ([0, 128, 255], r"m128\.png.*: --label-mapping 128:1,255:2, or --ignore-index 255 if"),
        ([0, 1, 255], r"m255\.png.*: --ignore-index 255 if that is not a class$"),
        ([1, 2, 255], r".*: --ignore-index 255 if that is not a class$"),
        ([0, 2, 5], r"m2\.png holds the value 2; .* 0, 2, 5; .*--label-mapping 2:1,5:2$"),
        ([2, 3], r"m2\.png.*--label-mapping 2:0,3:1$"),
        ([-9999, 0, 1], r"m-9999\.png.*: --ignore-index -9999 if that is not a class$"),
        ([-1, 0, 1, 2**32], r".*: --label-mapping -1:ignore,4294967296:ignore$"),
        ([-1, 0, 128, 255], r".*: --label-mapping 128:1,255:2,-1:ignore, or --ignore-index 255 if"),
        (range(151), r"m150|151 values"),
        (range(0, 256, 5), r"\(52 values\), like photographs or masks once saved as JPEG"),
        ([0], r"only the value 0 \(m0\.png\), but at least 2 classes are needed"),
        ([], r"no value \(no mask\)"),
    ],
)
def test_message_on_invalid_values_has_file_value_and_remedy(values, message):
    with pytest.raises(UserError, match=message) as caught:
        meaning(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[0, 255], [0, 128, 255], [0, 2, 5], [2, 3]])
def test_mapping_in_the_message_works(values):
    with pytest.raises(UserError) as caught:
        meaning(values)
    suggested = str(caught.value).partition("--label-mapping ")[2].split(", or")[0]
    result = meaning(values, with_user(Labels(), None, None, parse_mapping(suggested)))
    assert [result.table[value] for value in values] == list(range(len(values)))


@pytest.mark.parametrize("values", [[0, 1], [1, 2, 3]])
def test_mapping_of_other_values_is_refused_with_one_that_works(values):
    """As 0:0,255:1 for palettes whose indices are 0 and 1. The remedy was empty."""
    with pytest.raises(UserError, match="leave it out, or: ") as caught:
        meaning(values, Labels(mapping={0: 0, 255: 1}))
    assert len(meaning(values).classes) == len(values), "without it, it works"
    suggested = str(caught.value).partition("or: --label-mapping ")[2]
    result = meaning(values, with_user(Labels(), None, None, parse_mapping(suggested)))
    assert [result.table[value] for value in values] == list(range(len(values)))


def test_too_many_classes_are_refused():
    with pytest.raises(UserError, match="the masks: 151 classes, but 2 to 150 are supported"):
        meaning(range(1, 152))


def test_mapped_values_are_classes():
    result = meaning([0, 255], Labels(mapping={255: 1}))
    assert result.classes.names == ("class 0", "class 1") and result.table == {0: 0, 255: 1}
    assert meaning([1, 2], Labels(mapping={2: 0})).table == {1: 1, 2: 0}, (
        "1 and 2 are not shifted then"
    )
    three = meaning([0, 7, 9, 255], Labels(mapping={7: 1, 9: 1, 255: IGNORED}))
    assert three.table == {0: 0, 7: 1, 9: 1, 255: IGNORED} and three.classes.ignored


def test_padding_adds_ignored_pixels():
    assert not meaning([0, 1]).classes.ignored
    assert meaning([0, 1], padded=True).classes.ignored


# --- values with names --------------------------------------------------------------------


def test_names_limit_the_values():
    result = meaning([0, 1, 2, 9], Labels(("cat", "dog", "fox")))
    assert result.table == {0: 0, 1: 1, 2: 2} and result.unknown == {9}
    assert meaning([1, 2, 3], Labels(("cat", "dog", "fox"))).table == {1: 0, 2: 1, 3: 2}
    assert meaning([0, 1], Labels(("cat", "dog", "fox"))).table == {0: 0, 1: 1}
    assert meaning([0, 1, 2, 3], Labels(("cat", "dog", "fox"))).unknown == {3}


def test_zero_is_unknown_if_values_from_one_are_mapped():
    """255 and 0 must not become class 0 without a message."""
    pets = Labels(("pet", "background", "border"), None, {1: 0, 2: 1, 3: 2})
    assert meaning([0, 1, 2, 3, 255], pets).unknown == {0, 255}


def test_values_that_are_ignored_if_they_occur():
    voc = Labels(ignored_if_present=frozenset({255}))
    assert meaning([0, 1, 255], voc).table[255] == IGNORED
    assert not meaning([0, 1], voc).classes.ignored
    mapped = Labels(mapping={255: 1}, ignored_if_present=frozenset({255}))
    assert meaning([0, 255], mapped).table[255] == 1, "a mapping takes precedence"


def test_mapping_to_a_class_without_a_name_is_refused():
    with pytest.raises(UserError, match=r"has a class 5, but there are 2 classes, 0\.\.1"):
        meaning([0, 1], Labels(("cat", "dog"), None, {7: 5}))


# --- colours ------------------------------------------------------------------------------


def test_classes_get_the_colours_of_the_palette():
    assert meaning([0, 1], palette={0: RED, 1: BLUE}).classes.colours == (RED, BLUE)
    assert meaning([1, 2], palette={1: RED, 2: BLUE}).classes.colours == (RED, BLUE)
    for incomplete in ({0: RED}, {0: RED, 1: RED}, {}):
        assert RED not in meaning([0, 1], palette=incomplete).classes.colours


def test_mapped_colours_are_classes():
    labels = with_user(
        Labels(), None, None, parse_mapping("255,0,0:1,0,0,255:0,224,224,192:ignore")
    )
    values = [pack(RED), pack(BLUE), pack(VOID), pack((1, 1, 1))]
    result = meaning(values, labels, palette={v: c for v, c in zip(values, (RED, BLUE, VOID))})
    assert result.classes.names == ("class 0", "class 1") and result.classes.ignored
    assert result.classes.colours == (BLUE, RED)
    assert result.unknown == {pack((1, 1, 1))}
    with pytest.raises(UserError, match="at least 2 are needed"):
        meaning(values, with_user(Labels(), None, None, parse_mapping("255,0,0:0")))


def test_labelmap_of_cvat_gives_names_and_colours(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nsky:0,0,255::\nroad:255,0,0:a,b:\n\n")
    labels = read_labelmap(path, VOID)
    assert labels.names == ("sky", "road") and labels.colours == (BLUE, RED)
    result = meaning([pack(RED), pack(BLUE), pack(VOID)], labels)
    assert result.table == {pack(BLUE): 0, pack(RED): 1, pack(VOID): IGNORED}
    for text, fault in (
        ("sky\n", "NAME:RED,GREEN,BLUE"),
        ("sky:0,0,256::\nroad:1,1,1::", "0..255"),
        ("sky:1,1,1::\nroad:1,1,1::", "two classes have the same colour"),
        ("sky:1,1,1::\nsky:2,1,1::", "'sky' is named twice"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=fault):
            read_labelmap(path, VOID)
