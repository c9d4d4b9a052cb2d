"""Rules for missing splits: stable for one's own pictures, groups that stay together, hints."""

import json
import shutil
import unicodedata

import numpy as np
import pytest

from pipeline.base.artifacts import record_path
from pipeline.base.console import UserError
from pipeline.data.dataset import load_split
from pipeline.data.split_rules import (
    FRAME,
    groups_of,
    hint_at_sequences,
    name_of,
    nearest,
    permuted,
    ranked,
)
from tests.helpers.drawn_sets import prepare, save, stripes, write_set
from tests.helpers.listing import listed

# --- one's own pictures: by a hash of seed and name -----------------------------------------


def split_of_each(models_dir):
    """By picture, its split, as the list beside the data set has it."""
    return {name: split for split, names in listed(models_dir)[1].items() for name in names}


def moved(before, after):
    """How many pictures of both runs went from one split into another, by pair of splits."""
    pairs = [{before[name], after[name]} for name in before.keys() & after.keys()]
    borders = ({"test", "validation"}, {"validation", "train"}, {"test", "train"})
    return [sum(pair == border for pair in pairs) for border in borders]


def test_added_picture_moves_at_most_one_across_each_border(tmp_path):
    """Also one that sorts before all others."""
    folder = write_set(tmp_path / "set", 60)
    prepare(tmp_path / "models", folder)
    before = split_of_each(tmp_path / "models")
    for name in ("a.png", "p30b.png", "z.png"):
        for kind, pixels in zip(("images", "masks"), stripes(61, 3)):
            save(folder / kind / name, pixels)
        prepare(tmp_path / "models", folder)
        after = split_of_each(tmp_path / "models")
        test_and_validation, validation_and_train, test_and_train = moved(before, after)
        assert test_and_validation <= 1 and validation_and_train <= 1 and test_and_train == 0
        before = after


def test_skipped_bad_mask_moves_at_most_one_across_each_border(tmp_path):
    folder = write_set(tmp_path / "set", 60)
    prepare(tmp_path / "models", folder)
    before = split_of_each(tmp_path / "models")
    (folder / "masks" / "p00.png").write_bytes(b"")
    prepare(tmp_path / "models", folder, "--skip-bad", "0.05")
    test_and_validation, validation_and_train, test_and_train = moved(
        before, split_of_each(tmp_path / "models")
    )
    assert test_and_validation <= 1 and validation_and_train <= 1 and test_and_train == 0


def test_moved_folder_changes_nothing(tmp_path):
    folder = write_set(tmp_path / "set", 30)
    first = prepare(tmp_path / "models", folder)
    (tmp_path / "elsewhere").mkdir()
    other = shutil.move(folder, tmp_path / "elsewhere" / "pictures")
    again = prepare(tmp_path / "other", other)
    assert again.record["listing"] == first.record["listing"]
    assert again.record["fingerprint"] == first.record["fingerprint"]


def splits_of(names, seed=7):
    """The test, the validation and the training pictures that the rule makes of names."""
    choose = ranked(seed, names)
    rows = np.arange(len(names))
    test = choose(rows, "test")
    validation = choose(rows[~test], "validation")
    parts = rows[test], rows[~test][validation], rows[~test][~validation]
    return [{names[row] for row in part} for part in parts]


@pytest.mark.parametrize("number", [10, 11, 97, 1000])
def test_one_more_or_less_moves_one_whatever_it_is_called(number):
    """By the old rule, one added picture that sorts first left 57 of 200 test pictures in test."""
    names = [f"images/p{k:04}.png" for k in range(number)]
    before = splits_of(names)
    assert [len(part) for part in before[:2]] == [
        round(0.2 * number),
        max(1, round(0.1 * (number - round(0.2 * number)))),
    ]
    changes = [[f"images/{name}.png", *names] for name in ("a", "zz", *range(40))]
    changes += [names[:k] + names[k + 1 :] for k in range(0, number, max(1, number // 40))]
    for changed in changes:
        after = splits_of(changed)
        kept = set(names) & set(changed)
        for old, new in zip(before[:2], after[:2]):  # the borders of test, and of both together
            assert len((old - new) & kept) + len((new - old) & kept) <= 2
        assert len((before[0] ^ after[0]) & kept) <= 1
        both = (before[0] | before[1]) ^ (after[0] | after[1])
        assert len(both & kept) <= 1
        assert not (before[0] & after[2] or before[2] & after[0])


def test_splits_depend_on_seed_and_name_and_not_on_the_order():
    names = [f"p{k}.png" for k in range(100)]
    assert splits_of(names) == splits_of(names[::-1])
    assert splits_of(names)[0] != splits_of(names, seed=8)[0]
    accent = [name_of(unicodedata.normalize(form, "größe.png")) for form in ("NFC", "NFD")]
    assert accent[0] == accent[1], "macOS stores accents as characters of their own"


def test_record_says_where_each_split_comes_from(tmp_path, capsys):
    folder = write_set(tmp_path / "set", 30)
    record = prepare(tmp_path / "models", folder).record
    rule = "by a hash of --seed 7 and name"
    assert record["split_rules"] == {"test": rule, "validation": rule}
    assert f"cut from the training pictures, {rule}: test and validation\n" in (
        capsys.readouterr().out
    )
    names = sorted(path.stem for path in (folder / "images").iterdir())
    for split, part in (("train", names[:24]), ("test", names[24:])):
        (folder / f"{split}.txt").write_text("\n".join(part), encoding="utf-8")
    record = prepare(tmp_path / "models", folder).record
    assert record["split_rules"] == {"test": "of the data set", "validation": rule}


def test_data_set_of_the_old_rule_stays_valid(tmp_path, capsys):
    """Nothing is cut anew until its user runs data preparation again."""
    folder, models_dir = write_set(tmp_path / "set", 30), tmp_path / "models"
    prepare(models_dir, folder)
    path = record_path(models_dir, "dataset")
    record = json.loads(path.read_text(encoding="utf-8"))
    for key in ("seal", "split_rules"):
        del record[key]
    del record["settings"]["group"]
    path.write_text(json.dumps(record), encoding="utf-8")
    assert len(load_split(models_dir, "test")[0]) == 6
    capsys.readouterr()
    prepare(models_dir, folder, "--if-needed")
    assert "up to date, nothing to do" in capsys.readouterr().out


# --- splits that must stay: of the pets and of the drawn animals ------------------------------


def test_permutation_is_the_one_of_the_published_figures():
    chosen = permuted(7)(np.arange(50), "validation")
    assert np.flatnonzero(chosen).tolist() == [10, 20, 24, 45, 46]
    assert permuted(8)(np.arange(50), "validation").tolist() != chosen.tolist()
    assert permuted(7)(np.arange(3), "validation").sum() == 1, "never empty"


def test_drawn_animals_have_the_permutation(small_data):
    record = json.loads(record_path(small_data, "dataset").read_text(encoding="utf-8"))
    rule = "by a permutation that --seed 7 draws"
    assert record["split_rules"] == {"test": "of the data set", "validation": rule}


# --- groups ---------------------------------------------------------------------------------


def write_patients(folder, patients=10, pictures=4):
    """Pictures called p03_1.png, of several patients."""
    for patient in range(patients):
        name = f"p{patient:02}_{{}}.png"
        write_set(folder, pictures, 3, f"images/{name}", f"masks/{name}")
    return folder


def test_pictures_of_a_group_stay_in_one_split(tmp_path, capsys):
    folder = write_patients(tmp_path / "set")
    prepared = prepare(tmp_path / "models", folder, "--group", r"p(\d+)_")
    splits = split_of_each(tmp_path / "models")
    for patient in range(10):
        assert len({split for name, split in splits.items() if f"p{patient:02}_" in name}) == 1
    assert prepared.counts == {"train": 28, "validation": 4, "test": 8}
    rule = r"by a hash of --seed 7 and --group 'p(\d+)_'"
    assert prepared.record["split_rules"]["test"] == rule and rule in capsys.readouterr().out
    assert prepared.record["settings"]["group"] == r"p(\d+)_"


def test_groups_are_what_the_parentheses_match():
    names = ["images/a1/x.png", "images/a2/y.png", "images/a1/z.png"]
    assert groups_of(names, r"a(\d)") == ["1", "2", "1"]
    assert groups_of(names, r"a\d") == ["a1", "a2", "a1"]
    assert groups_of(names, r"(a)(\d)") == ["a/1", "a/2", "a/1"]
    assert groups_of(names, r"a(1)|a(2)") == ["1/", "/2", "1/"]


def test_name_without_the_pattern_is_a_group_of_its_own_and_said(capsys):
    assert groups_of(["a1.png", "b.png", "a2.png", "c.png"], r"a(\d)") == [
        "1",
        "b.png",
        "2",
        "c.png",
    ]
    (note,) = capsys.readouterr().out.splitlines()
    assert note == (
        r"note: --group 'a(\d)' matches 2 of 4 names; each of the others is a group of its own, "
        "such as b.png"
    )


@pytest.mark.parametrize(
    ("sizes", "wanted", "expected"),
    [
        ([1] * 10, 2, [0, 1]),
        ([8] * 5, 8, [0]),
        ([8] * 5, 3, [0]),  # the smallest, although it is larger than the split
        ([50, 5, 5, 5, 35], 20, [1, 2, 3]),  # a group larger than the split stays in training
        ([9, 5, 9], 10, [0]),
        ([7, 5, 9], 10, [0, 1]),
        ([90, 40], 13, [1]),
    ],
)
def test_groups_come_as_near_to_the_share_as_their_order_allows(sizes, wanted, expected):
    assert np.flatnonzero(nearest(np.array(sizes), wanted)).tolist() == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "p(",
            r"--group 'p\(' is not a regular expression \(missing \), unterminated .*; correct it$",
        ),
        (
            r"patient(\d+)",
            r"matches none of the 40 names \(such as images/p00_0\.png\); correct it$",
        ),
        (
            "p",
            r"leaves one group, 'p' with 40 pictures, to cut the test split from; use a pattern "
            r"with more and smaller groups, or name the splits: images/train, images/val, imag",
        ),
    ],
)
def test_pattern_that_cannot_cut_is_one_line(tmp_path, pattern, message):
    folder = write_patients(tmp_path / "set")
    with pytest.raises(UserError, match=message) as caught:
        prepare(tmp_path / "models", folder, "--group", pattern)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "models").rglob("*.npy"))


def test_two_groups_are_too_few_for_three_splits(tmp_path):
    folder = write_patients(tmp_path / "set", patients=2, pictures=10)
    with pytest.raises(
        UserError, match=r"leaves one group, '0[01]' with 10 .* the validation spli"
    ):
        prepare(tmp_path / "models", folder, "--group", r"p(\d+)")


def test_group_without_effect_is_refused(tmp_path):
    for split in ("train", "val", "test"):
        part = {"image": f"images/{split}/p{{}}.png", "mask": f"masks/{split}/p{{}}.png"}
        write_set(tmp_path / "set", 6, **part)
    with pytest.raises(UserError, match=r"^--group does nothing: .*set has all splits; leave it o"):
        prepare(tmp_path / "models", tmp_path / "set", "--group", "p")


# --- frames of sequences ---------------------------------------------------------------------


def numbered(*starts, number=20, step=1):
    return [f"{start}{step * k:04}.png" for start in starts for k in range(number)]


@pytest.mark.parametrize(
    "names",
    [
        numbered("images/seq1_", "images/seq2_", "images/seq3_"),
        numbered("images/0001TP_", "images/Seq05VD_f", "images/0016E5_", step=30),
        numbered("images/walk/", "images/run/", "images/jump/"),
        [name.replace(".png", "_rgb.jp2") for name in numbered("a", "b", "c")],
    ],
)
def test_names_like_frames_are_noted_with_a_pattern_that_keeps_them_together(names):
    hint = hint_at_sequences(names)
    assert "\n" not in hint and f"names like {names[0]} look like frames" in hint
    assert hint.endswith(f"to keep each in one split: --group '{FRAME}'")
    assert len(set(groups_of(names, FRAME))) == len(names) / 20


def test_one_sequence_cannot_be_kept_together():
    hint = hint_at_sequences(numbered("images/frame_"))
    assert hint.endswith("name the splits yourself: images/train, images/val, images/test")


@pytest.mark.parametrize(
    "names",
    [
        numbered("images/p"),  # as good as any names
        numbered("images/IMG_"),
        [f"images/{word}{k}.png" for k, word in enumerate(["road", "sky", "car", "sea"] * 5)][:9],
        ["images/a.png", "images/b.png"],
        [f"images/{7919 * k * k % 65536:04x}f.png" for k in range(50)],
        [],
    ],
)
def test_other_names_are_not_noted(names):
    assert hint_at_sequences(names) == ""


def test_note_is_printed_unless_there_is_a_group(tmp_path, capsys):
    folder = tmp_path / "set"
    for scene in ("walk", "run", "jump"):
        write_set(folder, 10, 3, f"images/{scene}_{{:03}}.png", f"masks/{scene}_{{:03}}.png")
    prepare(tmp_path / "models", folder)
    assert "look like frames of the same sequence" in capsys.readouterr().out
    prepare(tmp_path / "models", folder, "--group", FRAME)
    assert "look like frames" not in capsys.readouterr().out
    assert len({split for split in split_of_each(tmp_path / "models").values()}) == 3
