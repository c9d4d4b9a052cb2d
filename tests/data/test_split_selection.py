"""Splits: kept from the data set or cut; faults, absent classes, few pictures."""

from collections import Counter

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.data import dataset_writer
from pipeline.data.audit import Findings
from pipeline.data.classes import IGNORED, make_classes
from pipeline.data.dataset import SPLITS
from pipeline.data.label_mapping import Meaning
from pipeline.data.sample_source import SIZES, UNPAIRED, UNREADABLE, Fault
from pipeline.data.split_rules import ranked
from pipeline.data.split_selection import LEFT_OUT, cut, refuse
from tests.helpers.drawn_sets import prepare, save, stripes, write_set

VALUES = (0, 1)
VOID = (255,)
MEANING = Meaning(make_classes(["a", "b"]), {0: 0, 1: 1, 255: IGNORED}, frozenset())


def chosen(seed=7, **values):
    """Number of examples per split, by split of the data set, and the result of `cut`."""
    names = [f"p{k}.png" for k in range(len(values["train"]))]
    codes = cut(Findings(mask_values=values), ranked(seed, names), MEANING)
    names = [*SPLITS, "left out"]
    count = {
        split: Counter(names[3 if code == LEFT_OUT else code] for code in part)
        for split, part in codes.items()
    }
    return count, codes


def test_data_without_splits_is_cut_in_three():
    count, codes = chosen(train=[VALUES] * 40)
    assert count == {"train": {"train": 29, "validation": 3, "test": 8}}
    assert (chosen(train=[VALUES] * 40)[1]["train"] == codes["train"]).all()
    assert (chosen(8, train=[VALUES] * 40)[1]["train"] != codes["train"]).any()


def test_splits_of_the_data_set_are_kept():
    assert chosen(train=[VALUES] * 20, validation=[VALUES] * 5, test=[VALUES] * 7)[0] == {
        "train": {"train": 20},
        "validation": {"validation": 5},
        "test": {"test": 7},
    }


def test_validation_split_is_not_used_as_test_split():
    count = chosen(train=[VALUES] * 20, validation=[VALUES] * 5)[0]
    assert count == {"train": {"train": 16, "test": 4}, "validation": {"validation": 5}}


def test_missing_validation_split_is_cut_from_training():
    count = chosen(train=[VALUES] * 20, test=[VALUES] * 5)[0]
    assert count == {"train": {"train": 18, "validation": 2}, "test": {"test": 5}}


def test_missing_splits_are_cut_of_pictures_with_labels():
    """Whose masks are ignored altogether, they stay in training; those of given splits stay."""
    count, codes = chosen(train=[VALUES, VOID] * 20)
    assert count["train"] == {"train": 34, "validation": 2, "test": 4}
    assert (codes["train"][1::2] == SPLITS.index("train")).all()
    count = chosen(train=[VALUES] * 20, validation=[VOID, VALUES], test=[VALUES] * 5)[0]
    assert count["validation"] == {"validation": 2}


def test_split_without_a_labelled_pixel_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"only 28 pictures .* none with labelled pixels for val"):
        chosen(train=[VALUES] * 20, validation=[VOID] * 3, test=[VALUES] * 5)
    folder = write_set(tmp_path / "set", 20, 3)
    for k in range(20):
        if k != 4:
            save(folder / f"masks/p{k:02}.png", np.full_like(stripes(k, 3)[1], 255))
    with pytest.raises(UserError, match=r"only 20 pictures .* none with labelled"):
        prepare(tmp_path / "m", folder, "--ignore-index", "255")
    assert not (tmp_path / "m/dataset/dataset.json").exists()


def test_ignored_masks_are_noted_and_not_validated_on(tmp_path, capsys):
    folder = write_set(tmp_path / "set", 40, 2)
    for k in range(1, 40, 2):
        save(folder / f"masks/p{k:02}.png", np.full_like(stripes(k, 2)[1], 255))
    done = prepare(tmp_path / "m", folder, "--ignore-index", "255")
    noted = "note: every pixel of 20 masks is ignored, such as the mask of images/p01.png: nothing"
    assert noted in capsys.readouterr().out
    splits = done.record["splits"]
    assert splits["validation"]["ignored_share"] == splits["test"]["ignored_share"] == 0
    assert splits["train"]["examples"] == 34


def test_faulty_examples_are_in_no_split():
    held = [VALUES if k % 4 else None for k in range(40)]
    count, codes = chosen(train=held)
    assert count["train"] == {"train": 22, "validation": 2, "test": 6, "left out": 10}
    assert (codes["train"][::4] == LEFT_OUT).all()


def test_too_few_examples_or_an_empty_split_are_refused():
    with pytest.raises(UserError, match=r"only 9 pictures with masks .* at least 10 are needed"):
        chosen(train=[VALUES] * 9)
    with pytest.raises(UserError, match=r"only 12 pictures with masks .* none for test"):
        chosen(train=[VALUES] * 12, test=[None] * 12)
    with pytest.raises(UserError, match=r"only 0 pictures .* none for train"):
        chosen(train=[])


def test_faults_above_the_allowed_share_are_listed_by_kind():
    faults = [
        Fault(SIZES, "s"),
        Fault(UNREADABLE, "u"),
        Fault(UNPAIRED, "p; do"),
        Fault(SIZES, "t"),
    ]
    refuse(faults, 100, 0.04)
    with pytest.raises(UserError) as caught:
        refuse(faults, 100, 0.03)
    assert str(caught.value) == (
        "p; do; also image and mask of different shape (2): s; also unreadable (1): u; "
        "to skip faulty examples: --skip-bad 0.04"
    )
    with pytest.raises(
        UserError, match=r"^p; do; also image.* \(2\): s; also unreadable \(1\): u$"
    ):
        refuse(faults, 4, 0.5)
    refuse([], 100, 0)


# --- a class that training does not contain -----------------------------------------------


def write_rare(folder, rare):
    """A folder with two classes, and a third one in a single picture of the split `rare`."""
    for split in ("train", "val", "test"):
        part = {"image": f"images/{split}/p{{}}.png", "mask": f"masks/{split}/p{{}}.png"}
        write_set(folder, 6, classes=2, **part)
    if rare:
        save(folder / f"masks/{rare}/p0.png", stripes(0, 3)[1])
    return folder


def test_class_without_a_training_picture_is_refused_unless_allowed(tmp_path):
    folder = write_rare(tmp_path / "set", "val")
    expected = r"holds the class 'c'; pictures of other splits do \(1 of validation\); move some"
    flags = ("--names", "a,b,c")
    with pytest.raises(UserError, match=expected):
        prepare(tmp_path / "models", folder, *flags)
    assert not list((tmp_path / "models").rglob("*.npy"))
    prepared = prepare(tmp_path / "models", folder, *flags, "--skip-bad", "0.01")
    assert prepared.classes.names == ("a", "b", "c")
    assert prepared.record["splits"]["train"]["class_pictures"]["c"] == 0


def test_message_on_a_class_in_no_mask_says_how_to_drop_it(tmp_path):
    folder = write_rare(tmp_path / "set", None)
    flags = ("--names", "a,b,c,d")
    expected = r"the class 'c' \(nor 1 more class\); name only classes that the masks hold: --n"
    with pytest.raises(UserError, match=expected):
        prepare(tmp_path / "models", folder, *flags)


def test_message_on_values_from_one_without_the_last_class_has_the_mapping(tmp_path):
    """Trimaps without a border: 1 and 2 could be the first two classes or the last two."""
    write_set(tmp_path / "set", 12, classes=2)
    for k in range(12):
        save(tmp_path / f"set/masks/p{k:02}.png", stripes(k, 2)[1] + 1)
    flags = ("--names", "pet,background,border")
    remedy = "--names pet,background --label-mapping 1:0,2:1"
    with pytest.raises(UserError, match=f"if mask values start at 1: {remedy};"):
        prepare(tmp_path / "models", tmp_path / "set", *flags)
    assert prepare(tmp_path / "m", tmp_path / "set", *remedy.split()).classes.names == (
        *("pet", "background"),
    )
    unnamed = prepare(tmp_path / "models", tmp_path / "set")
    assert unnamed.classes.names == ("class 1", "class 2"), "without names there are two classes"
    assert set(np.unique(unnamed.all_masks)) == {0, 1}


def test_photograph_found_damaged_while_decoding_counts_as_a_fault(tmp_path, monkeypatch):
    # Small shards, so that some arrays are written before the damaged photograph is decoded.
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 1)
    write_set(tmp_path / "set", 12)
    path = tmp_path / "set/images/p03.png"
    path.write_bytes(path.read_bytes()[:-30])
    old = prepare(tmp_path / "models", write_set(tmp_path / "other", 12, classes=2))
    with pytest.raises(UserError, match=r"images/p03\.png .*repair or remove it.*--skip-bad 0\.09"):
        prepare(tmp_path / "models", tmp_path / "set")
    kept = {path.name for path in (tmp_path / "models" / "dataset").glob("*.npy")}
    assert kept == {name for shards in old.record["files"].values() for name, _ in shards}
    prepared = prepare(tmp_path / "models", tmp_path / "set", "--skip-bad", "0.1")
    assert sum(prepared.counts.values()) == 11
    assert len(prepared.left_out) == 1 and "images/p03.png" in prepared.left_out[0]
    assert prepared.record["metrics"]["audit"]["left_out"][UNREADABLE] == 1
