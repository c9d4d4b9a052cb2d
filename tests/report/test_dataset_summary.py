"""What is printed of a finished data set: notes on few pictures."""

from pipeline.data.dataset import SPLITS
from pipeline.report.dataset_summary import FEW, few_pictures_note
from tests.helpers.drawn_sets import prepare, write_set


def facts(examples, **pictures):
    return {"examples": examples, "class_pictures": pictures}


def test_note_lists_splits_and_classes_with_few_pictures():
    splits = {
        "train": facts(50, road=50, car=FEW, sky=4),
        "validation": facts(FEW - 1, road=2, car=1, sky=0),
        "test": facts(FEW, road=FEW, car=3, sky=6),
    }
    note = few_pictures_note(splits)
    assert "\n" not in note and note.startswith(f"note: fewer than {FEW} pictures")
    # The rarest class first; classes of a split that is itself too small are not listed.
    assert note.endswith(": validation (9), car (in 3 of test), sky (in 4 of train, 6 of test)")


def test_no_note_if_there_are_enough_pictures():
    enough = facts(FEW, road=FEW, car=FEW)
    assert few_pictures_note(dict.fromkeys(SPLITS, enough)) == ""


def test_note_lists_the_rarest_classes_only():
    rare = {f"c{k}": k for k in range(FEW)}
    note = few_pictures_note({"train": facts(50, **rare), "test": facts(50, c0=50)})
    assert note.endswith("c4 (in 4 of train), 5 more classes") and "c5" not in note


def test_script_prints_the_note_on_few_pictures(tmp_path, capsys):
    """40 pictures: 29 for training, 3 for validation, 8 for test."""
    prepare(tmp_path / "models", write_set(tmp_path / "set", 40))
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(notes) == 1 and notes[0].endswith("validation (3), test (8)")
