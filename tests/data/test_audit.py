"""Audit of masks: the table of values, the classes, and one line with a remedy per fault."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data import audit
from pipeline.data.formats.folder_layout import read_folder
from pipeline.data.formats.registry import with_flags
from pipeline.data.sample_source import LOSSY, PALETTE, SIZES, UNREADABLE, VALUES
from tests.helpers.drawn_sets import prepare, save, stripes, trimap, with_palette, write_set


def audit_folder(folder, **flags):
    """Audits a folder; returns collection, findings and meaning."""
    defaults = {"names": None, "ignore_index": None, "mapping": None}
    collection = with_flags(read_folder(folder), **defaults | flags)
    findings = audit.scan(collection)
    return collection, findings, audit.judge(collection, findings, False)


# --- the table ----------------------------------------------------------------------------


def test_table_has_pixel_share_and_picture_count_of_every_value(tmp_path):
    for k in range(12):
        mask = np.full((10, 10), 2, np.uint8)
        mask[: k % 4] = 1  # 0, 10, 20 or 30 pixels
        mask[9] = 255
        save(tmp_path / f"images/p{k}.png", stripes(k, 2, 10, 10)[0])
        save(tmp_path / f"masks/p{k}.png", mask)
    collection, findings, meaning = audit_folder(tmp_path, ignore_index=255)
    rows = [line.split() for line in audit.table(collection.labels, findings, meaning)]
    assert rows[0] == ["value", "class", "share", "of", "pixels", "pictures"]
    assert rows[1] == ["1", "class", "1", "0.1500", "9"]
    assert rows[2] == ["2", "class", "2", "0.7500", "12"]
    assert rows[3] == ["255", "no", "class:", "ignored", "0.1000", "12"]
    record = audit.record(findings, meaning)
    assert record["values"]["1"] == {"class": 0, "pixels": 180, "pictures": 9}
    assert record["values"]["255"]["class"] is None
    assert not any(record["left_out"].values())


def test_table_is_printed_if_values_are_refused(tmp_path, capsys):
    write_set(tmp_path / "set", classes=2)
    for path in (tmp_path / "set" / "masks").iterdir():
        save(path, np.asarray(Image.open(path)) * 255)
    with pytest.raises(UserError, match=r"p00\.png holds the value 255.*--label-mapping 255:1"):
        prepare(tmp_path / "models", tmp_path / "set")
    assert re.search(r"255  \? +0\.5000 +12\n", capsys.readouterr().out)


# --- values, from two classes to 150 ------------------------------------------------------


@pytest.mark.parametrize("number", [2, 6, 150])
def test_classes_come_from_the_values_in_the_masks(tmp_path, number):
    for k in range(12):
        mask = np.arange(number, dtype=np.uint8)[None].repeat(4, 0)
        save(tmp_path / f"images/p{k}.png", np.zeros((4, number, 3), np.uint8))
        save(tmp_path / f"masks/p{k}.png", mask)
    meaning = audit_folder(tmp_path)[2]
    assert len(meaning.classes) == number and not meaning.classes.ignored
    assert len(set(meaning.classes.colours)) == number


def test_masks_of_0_and_255_need_one_mapping_flag(tmp_path):
    write_set(tmp_path / "set", 12, classes=2)
    expected = prepare(tmp_path / "indices", tmp_path / "set")
    for path in (tmp_path / "set" / "masks").iterdir():
        save(path, np.asarray(Image.open(path)) * 255)
    flags = ("--label-mapping", "255:thing", "--names", "rest,thing")
    prepared = prepare(tmp_path / "models", tmp_path / "set", *flags)
    assert prepared.classes.names == ("rest", "thing")
    np.testing.assert_array_equal(prepared.all_masks, expected.all_masks)


def test_mapping_in_the_message_on_colour_masks_works(tmp_path):
    colours = np.array([(250, 250, 0), (0, 0, 90), (7, 99, 200)], np.uint8)
    write_set(tmp_path / "set", 12, classes=3)
    expected = prepare(tmp_path / "indices", tmp_path / "set")
    for path in (tmp_path / "set" / "masks").iterdir():
        truth = np.asarray(Image.open(path))
        save(path, colours[truth])
    with pytest.raises(
        UserError, match=r"p00\.png is a colour picture \(3 colours in all"
    ) as caught:
        prepare(tmp_path / "models", tmp_path / "set")
    suggested = str(caught.value).partition("--label-mapping ")[2]
    prepared = prepare(tmp_path / "models", tmp_path / "set", "--label-mapping", suggested)
    assert sorted(prepared.classes.colours) == sorted(map(tuple, colours.tolist()))
    table = {colour: k for k, colour in enumerate(prepared.classes.colours)}
    order = np.array([table[tuple(colour)] for colour in colours.tolist()])
    np.testing.assert_array_equal(prepared.all_masks, order[expected.all_masks])


def test_photographs_instead_of_masks_are_refused(tmp_path):
    write_set(tmp_path, 12)
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    for path in (tmp_path / "masks").iterdir():
        save(path, noise // 50 * 50)
    with pytest.raises(UserError, match="different colours in all masks, as a photograph"):
        audit_folder(tmp_path)


def test_masks_once_saved_as_jpeg_are_refused_unless_classes_are_named(tmp_path):
    """They are PNG files, but hold values that JPEG compression added."""
    for k in range(12):
        drawn = trimap(k)
        save(tmp_path / f"images/p{k}.png", drawn)
        save(tmp_path / f"masks/p{k}.jpg", drawn)
        with Image.open(tmp_path / f"masks/p{k}.jpg") as blurred:
            save(tmp_path / f"masks/p{k}.png", np.asarray(blurred))
        (tmp_path / f"masks/p{k}.jpg").unlink()
    with pytest.raises(UserError, match=r"once saved as JPEG \(\d+% of their .*--names A,B,C"):
        audit_folder(tmp_path)
    values = sorted(
        {int(v) for p in (tmp_path / "masks").iterdir() for v in np.unique(Image.open(p))}
    )
    audit_folder(tmp_path, names=[f"c{value}" for value in range(max(values) + 1)])


# --- faults, one line each ----------------------------------------------------------------


def jpeg_content(folder):
    save(folder / "masks/p03.png", stripes(3, 3)[1], format="JPEG")


def different_shape(folder):
    save(folder / "masks/p03.png", stripes(3, 3, 40, 90)[1])


def unknown_value(folder):
    mask = stripes(3, 3)[1]
    mask[0, 0] = 77
    save(folder / "masks/p03.png", mask)


def contradicting_palette(folder):
    for k in range(12):
        colours = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]
        save(folder / f"masks/p{k:02}.png", with_palette(stripes(k, 3)[1], colours))
    save(folder / "masks/p03.png", with_palette(stripes(3, 3)[1], colours[::-1]))


def damaged_mask(folder):
    path = folder / "masks/p03.png"
    path.write_bytes(path.read_bytes()[:50])


def broken_link(folder):
    (folder / "images/p03.png").unlink()
    (folder / "images/p03.png").symlink_to("gone.png")


def folder_as_image(folder):
    (folder / "images/p03.png").unlink()
    (folder / "images/p03.png").mkdir()


FAULTS = {
    jpeg_content: (LOSSY, r"masks/p03\.png is stored as JPEG, .*; export masks as PNG"),
    different_shape: (
        SIZES,
        r"p03\.png has 40 x 90 pixels, and its image 40 x 32; draw the mask on",
    ),
    unknown_value: (
        VALUES,
        r"p03\.png holds the value 77, .*are 3: a, b, c\).*77:CLASS, or 77:igno",
    ),
    contradicting_palette: (
        PALETTE,
        r"value 0 has the colour 0,200,0 in the palette of .*p03\.png, and 0,0,0 in that of most "
        "other.*--label-mapping 0,0,0:0,200,0,0:1,0,200,0:2",
    ),
    damaged_mask: (UNREADABLE, r"masks/p03\.png .*; repair or remove it"),
    broken_link: (UNREADABLE, r"images/p03\.png is a link to a missing file; repair"),
    folder_as_image: (UNREADABLE, r"images/p03\.png is a folder, not a file; repair or remove it"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_message_is_one_line_with_file_and_remedy(tmp_path, fault):
    kind, message = FAULTS[fault]
    write_set(tmp_path / "set", 12)
    fault(tmp_path / "set")
    arguments = tmp_path / "models", tmp_path / "set", "--names", "a,b,c"
    with pytest.raises(UserError, match=message) as caught:
        prepare(*arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("to skip faulty examples: --skip-bad 0.09")
    assert not list((tmp_path / "models").rglob("*.npy")), "no incomplete data set"
    prepared = prepare(*arguments, "--skip-bad", "0.09")
    assert sum(prepared.counts.values()) == 11
    assert prepared.record["metrics"]["audit"]["left_out"] == {
        **dict.fromkeys(audit.FAULTS, 0),
        kind: 1,
    }
    assert len(prepared.left_out) == 1 and re.search(message, prepared.left_out[0])


def test_mask_size_may_differ_by_scale_or_rounding(tmp_path):
    write_set(tmp_path, 12)
    save(tmp_path / "masks/p03.png", stripes(3, 3, 41, 32)[1])
    save(tmp_path / "masks/p04.png", stripes(4, 3, 20, 16)[1])
    assert not audit_folder(tmp_path)[1].faults


def test_faults_of_each_kind_are_counted(tmp_path):
    write_set(tmp_path / "set", 12)
    for number in (3, 5, 8):
        (tmp_path / f"set/images/p{number:02}.png").unlink()
    (tmp_path / "set/masks/p01.png").write_bytes(b"")
    expected = (
        r"p03\.png has no image.* \(3 such faults\); also unreadable \(1\): .*p01\.png .*"
        r"--skip-bad 0\.34$"
    )
    with pytest.raises(UserError, match=expected):
        prepare(tmp_path / "models", tmp_path / "set")
