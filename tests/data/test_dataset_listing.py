"""The list of file names of the prepared examples, in the order of the arrays."""

import csv
import io

import numpy as np
import pytest

from pipeline.base import artifacts
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.data.dataset import names_of
from pipeline.data.dataset_writer import write_list
from tests.helpers.drawn_sets import prepare, save, stripes, write_set
from tests.helpers.listing import listed


def test_list_has_the_file_of_every_row_in_every_split(tmp_path):
    """The green of a picture of `stripes` is 7 times its number."""
    prepared = prepare(tmp_path / "models", write_set(tmp_path / "set", 30))
    path, names = listed(tmp_path / "models")
    assert {split: len(files) for split, files in names.items()} == prepared.counts
    for split, images in prepared.images.items():
        numbers = images[:, 0, 0, 1] // 7
        assert names[split] == [f"images/p{number:02}.png" for number in numbers]
    assert list(names) == ["train", "validation", "test"], "one split after the other"
    assert prepared.record["listing"] == [path.name, sha256(path)]
    chosen = names_of(tmp_path / "models", "test", [4, 1, 99])
    assert chosen == {1: names["test"][1], 4: names["test"][4]}


def test_skipped_examples_do_not_shift_the_list(tmp_path):
    folder = write_set(tmp_path / "set", 20)
    for number in (2, 7):
        (folder / f"masks/p{number:02}.png").unlink()
    (folder / "images/p04.png").write_bytes((folder / "images/p04.png").read_bytes()[:-40])
    prepared = prepare(tmp_path / "models", folder, "--skip-bad", "0.5")
    _, names = listed(tmp_path / "models")
    assert sum(prepared.counts.values()) == 17
    for split, images in prepared.images.items():
        numbers = images[:, 0, 0, 1] // 7
        assert names[split] == [f"images/p{number:02}.png" for number in numbers]


def test_renamed_file_changes_the_list_but_not_the_fingerprint(tmp_path):
    folder, models_dir = tmp_path / "set", tmp_path / "models"
    for split in ("train", "val", "test"):
        part = {"image": f"images/{split}/p{{:02}}.png", "mask": f"masks/{split}/p{{:02}}.png"}
        write_set(folder, 12, **part)
    first = prepare(models_dir, folder)
    before, names = listed(models_dir)
    for kind in ("images", "masks"):
        (folder / kind / "val/p11.png").rename(folder / kind / "val/p12 a,b.png")
    again = prepare(models_dir, folder, "--if-needed")
    after, others = listed(models_dir)  # there is only one list
    assert again.record["fingerprint"] == first.record["fingerprint"] and before != after
    changed = {name for names in others.values() for name in names} - {
        name for files in names.values() for name in files
    }
    assert changed == {"images/val/p12 a,b.png"}


def test_changed_or_missing_list_is_refused(tmp_path, small_data):
    assert names_of(small_data, "test", range(8)) == {}, "synthetic pictures have no file"
    assert not list((small_data / "dataset").glob("examples-*"))
    models_dir = tmp_path / "models"
    prepare(models_dir, write_set(tmp_path / "set", 12))
    path, _ = listed(models_dir)
    path.write_text(path.read_text().replace("p0", "p1"))
    with pytest.raises(UserError, match=r"was changed after .* with: .*python .*data_preparation"):
        names_of(models_dir, "test", [0])
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        names_of(models_dir, "test", [0])


def test_unusual_file_names_survive_the_csv(tmp_path):
    names = ["a b.png", 'the "best", one.jpg', "zwei\nzeilen.png", "größe.webp", "=1+1.png", ""]
    train = [b"not \xff utf-8.png".decode("utf-8", "surrogateescape")]
    name, digest = write_list(tmp_path, {"train": train, "validation": [], "test": names})
    assert digest == sha256(tmp_path / name)
    rows = list(csv.reader(io.StringIO((tmp_path / name).read_bytes().decode("utf-8"))))
    assert rows[0] == ["split", "number", "picture"]
    assert rows[1] == ["train", "0", "not ? utf-8.png"]
    assert [row[2] for row in rows[2:]] == names


def test_failed_run_keeps_the_old_list_and_leaves_no_new_one(tmp_path, monkeypatch):

    folder, models_dir = write_set(tmp_path / "set", 12), tmp_path / "models"
    prepare(models_dir, folder)
    before, names = listed(models_dir)
    save(folder / "images/q.png", stripes(12, 3)[0])
    save(folder / "masks/q.png", stripes(12, 3)[1])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "write_record", full)
        with pytest.raises(OSError, match="No space"):
            prepare(models_dir, folder)
    assert listed(models_dir) == (before, names)
    assert np.unique(names["test"]).size == len(names["test"])
