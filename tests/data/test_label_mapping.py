"""Which class each value is: what users say, what values say by themselves, what is refused."""

import argparse

import pytest

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED
from pipeline.data.label_mapping import (
    Labels,
    index_of,
    parse_mapping,
    parse_names,
    read_labelmap,
    settle,
    with_user,
)
from pipeline.data.masks import pack

RED, BLUE, VOID = (255, 0, 0), (0, 0, 255), (224, 224, 192)


def meaning(values, labels=None, padded=False, palette=None):
    found = {value: f"m{value}.png" for value in values}
    return settle(labels or Labels(), found, palette or {}, padded)


# --- the command line ---------------------------------------------------------------------


def test_names_come_from_the_line_or_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("traffic light\n\n naïve \n", encoding="utf-8")
    assert parse_names("cat, dog,other") == ["cat", "dog", "other"]
    assert parse_names(str(tmp_path / "names.txt")) == ["traffic light", "naïve"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cat", "1 classes, and 2 to 150 are possible"),
        ("a,b,a", "'a' is named twice"),
        (",".join(map(str, range(151))), "151 classes"),
    ],
)
def test_names_that_are_no_classes_are_refused(text, reason):
    with pytest.raises(argparse.ArgumentTypeError, match=reason):
        parse_names(text)


def test_mapping_takes_values_and_colours_numbers_and_names():
    assert parse_mapping("255:1,0:0") == {"255": 1, "0": 0}
    assert parse_mapping("255:pet, 7:ignore") == {"255": "pet", "7": "ignore"}
    colours = {"255,0,0": 1, "0,0,255": 0}
    assert parse_mapping("255,0,0:1,0,0,255:0") == colours
    assert parse_mapping("255, 0, 0:1, 0,0,255:0") == colours


@pytest.mark.parametrize("text", ["", "255", "255=1", "1,2:3", "255:1;0:0", "a:1", "255:1,,0:0"])
def test_text_that_is_no_mapping_is_told_how_to_write_one(text):
    with pytest.raises(argparse.ArgumentTypeError, match="VALUE:CLASS, as in 255:1,0:0"):
        parse_mapping(text)


def test_values_and_colours_are_not_mixed():
    with pytest.raises(argparse.ArgumentTypeError, match="mixes values and colours"):
        parse_mapping("255:1,0,0,255:0")


def test_targets_are_numbers_names_or_nothing():
    names = ("cat", "dog")
    assert [index_of(to, names) for to in (0, "dog", "ignore", "ignore_label", 255)] == [
        *(0, 1, IGNORED, IGNORED, IGNORED)
    ]
    with pytest.raises(UserError, match=r"a class 'bird'; the classes are 0\.\.1, cat, dog, or ig"):
        index_of("bird", names)
    with pytest.raises(UserError, match="a class 2; the classes are"):
        index_of(2, names)


def test_user_is_heard_over_the_source():
    source = Labels(("a", "b", "c"), (RED, BLUE, VOID), {1: 0, 2: 1, 3: 2})
    same = with_user(source, ["a", "b", "c"], None, None)
    assert same == source
    heard = with_user(source, ["cat", "dog", "fox"], 3, {"9": "fox"})
    assert heard.names == ("cat", "dog", "fox") and heard.colours is None
    assert heard.mapping == {1: 0, 2: 1, 3: IGNORED, 9: 2}
    coloured = with_user(source, None, None, {"255,0,0": 0, "0,0,255": "ignore"})
    assert coloured.by_colour and coloured.mapping == {pack(RED): 0, pack(BLUE): IGNORED}
    for mapping, fault in (({"70000": 1}, "no mask holds 70000"), ({"0,256,0": 1}, "0,256,0")):
        with pytest.raises(UserError, match=fault):
            with_user(source, None, None, mapping)
    with pytest.raises(UserError, match="--label-mapping R,G,B:ignore"):
        with_user(source, None, 255, {"255,0,0": 0})


# --- values without names -----------------------------------------------------------------


def test_numbers_from_zero_are_classes():
    found = meaning([0, 1, 2])
    assert found.classes.names == ("class 0", "class 1", "class 2")
    assert found.table == {0: 0, 1: 1, 2: 2} and not found.unknown and not found.classes.ignored
    assert len(meaning(range(150)).classes) == 150


def test_numbers_from_one_are_classes_too():
    """The trimaps of Oxford-IIIT Pet, and ADE20K where 0 is left out."""
    found = meaning([1, 2, 3])
    assert found.classes.names == ("class 1", "class 2", "class 3")
    assert found.table == {1: 0, 2: 1, 3: 2}
    reduced = meaning(range(151), Labels(mapping={0: IGNORED}))
    assert len(reduced.classes) == 150 and reduced.table[150] == 149 and reduced.classes.ignored


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0, 255], r"m255\.png holds the value 255.*: --label-mapping 255:1$"),
        ([0, 128, 255], r"m128\.png.*: --label-mapping 128:1,255:2, or --ignore-index 255 if"),
        ([0, 1, 255], r"m255\.png.*: --ignore-index 255 if that is no class$"),
        ([1, 2, 255], r".*: --ignore-index 255 if that is no class$"),
        ([0, 2, 5], r"m2\.png holds the value 2, .* 0, 2, 5: .*--label-mapping 2:1,5:2$"),
        ([2, 3], r"m2\.png.*--label-mapping 2:0,3:1$"),
        (range(151), r"m150|151 values"),
        (range(0, 256, 5), r"\(52 values\): that is a photograph, or was saved as JPEG once"),
        ([0], r"the one value 0 \(m0\.png\), and 2 classes are the fewest"),
        ([], r"no value \(no mask\)"),
    ],
)
def test_values_that_are_no_classes_get_one_line_with_file_value_and_remedy(values, says):
    with pytest.raises(UserError, match=says) as caught:
        meaning(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[0, 255], [0, 128, 255], [0, 2, 5], [2, 3]])
def test_the_mapping_that_is_offered_works(values):
    with pytest.raises(UserError) as caught:
        meaning(values)
    offered = str(caught.value).partition("--label-mapping ")[2].split(", or")[0]
    found = meaning(values, with_user(Labels(), None, None, parse_mapping(offered)))
    assert [found.table[value] for value in values] == list(range(len(values)))


def test_more_classes_than_possible_are_refused():
    with pytest.raises(UserError, match="the masks hold 151 classes, and 2 to 150 are possible"):
        meaning(range(1, 152))


def test_mapping_makes_classes_of_values():
    found = meaning([0, 255], Labels(mapping={255: 1}))
    assert found.classes.names == ("class 0", "class 1") and found.table == {0: 0, 255: 1}
    assert meaning([1, 2], Labels(mapping={2: 0})).table == {1: 1, 2: 0}, "not from one any more"
    three = meaning([0, 7, 9, 255], Labels(mapping={7: 1, 9: 1, 255: IGNORED}))
    assert three.table == {0: 0, 7: 1, 9: 1, 255: IGNORED} and three.classes.ignored


def test_ignored_pixels_come_with_padding_too():
    assert not meaning([0, 1]).classes.ignored
    assert meaning([0, 1], padded=True).classes.ignored


# --- values with names --------------------------------------------------------------------


def test_names_say_how_many_values_there_may_be():
    found = meaning([0, 1, 2, 9], Labels(("cat", "dog", "fox")))
    assert found.table == {0: 0, 1: 1, 2: 2} and found.unknown == {9}
    assert meaning([1, 2, 3], Labels(("cat", "dog", "fox"))).table == {1: 0, 2: 1, 3: 2}
    assert meaning([0, 1], Labels(("cat", "dog", "fox"))).table == {0: 0, 1: 1}
    assert meaning([0, 1, 2, 3], Labels(("cat", "dog", "fox"))).unknown == {3}


def test_zero_beside_mapped_trimaps_is_no_pet():
    """255 and 0 must not become class 0 in silence."""
    pets = Labels(("pet", "background", "border"), None, {1: 0, 2: 1, 3: 2})
    assert meaning([0, 1, 2, 3, 255], pets).unknown == {0, 255}


def test_values_that_are_no_class_if_they_occur():
    voc = Labels(ignored_if_present=frozenset({255}))
    assert meaning([0, 1, 255], voc).table[255] == IGNORED
    assert not meaning([0, 1], voc).classes.ignored
    assert (
        meaning([0, 255], Labels(mapping={255: 1}, ignored_if_present=frozenset({255}))).table[255]
        == 1
    )


def test_class_beyond_the_names_is_refused():
    with pytest.raises(UserError, match="names a class 5; there are 2"):
        meaning([0, 1], Labels(("cat", "dog"), None, {7: 5}))


# --- colours ------------------------------------------------------------------------------


def test_palette_gives_the_classes_its_colours():
    assert meaning([0, 1], palette={0: RED, 1: BLUE}).classes.colours == (RED, BLUE)
    assert meaning([1, 2], palette={1: RED, 2: BLUE}).classes.colours == (RED, BLUE)
    for lacking in ({0: RED}, {0: RED, 1: RED}, {}):
        assert RED not in meaning([0, 1], palette=lacking).classes.colours


def test_colours_are_classes_by_their_mapping():
    labels = with_user(
        Labels(), None, None, parse_mapping("255,0,0:1,0,0,255:0,224,224,192:ignore")
    )
    values = [pack(RED), pack(BLUE), pack(VOID), pack((1, 1, 1))]
    found = meaning(values, labels, palette={v: c for v, c in zip(values, (RED, BLUE, VOID))})
    assert found.classes.names == ("class 0", "class 1") and found.classes.ignored
    assert found.classes.colours == (BLUE, RED)
    assert found.unknown == {pack((1, 1, 1))}
    with pytest.raises(UserError, match="2 are the fewest"):
        meaning(values, with_user(Labels(), None, None, parse_mapping("255,0,0:0")))


def test_labelmap_of_cvat_names_colours(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nsky:0,0,255::\nroad:255,0,0:a,b:\n\n")
    labels = read_labelmap(path, VOID)
    assert labels.names == ("sky", "road") and labels.colours == (BLUE, RED)
    found = meaning([pack(RED), pack(BLUE), pack(VOID)], labels)
    assert found.table == {pack(BLUE): 0, pack(RED): 1, pack(VOID): IGNORED}
    for text, fault in (
        ("sky\n", "NAME:RED,GREEN,BLUE"),
        ("sky:0,0,256::\nroad:1,1,1::", "0..255"),
        ("sky:1,1,1::\nroad:1,1,1::", "two classes have one colour"),
        ("sky:1,1,1::\nsky:2,1,1::", "'sky' is named twice"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=fault):
            read_labelmap(path, VOID)
