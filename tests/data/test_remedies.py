"""What a message says to do is done, on the data that brought the message: then it works."""

import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from tests.helpers.drawn_sets import add_noise, prepare, save, stripes, write_set

FLAG = re.compile(r"--[a-z-]+ (?:'[^']*'|[^\s;]+)(?: --[a-z-]+ (?:'[^']*'|[^\s;]+))*")


def refused(tmp_path, data, *flags):
    """The message on a data set."""
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "refused", data, *flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flags_in(message, start=""):
    """The first flags in a message, behind some words of it."""
    found = FLAG.search(message, message.index(start))
    assert found, message
    return shlex.split(found[0])


def test_masks_of_0_and_255(tmp_path):
    folder = write_set(tmp_path / "set", 12, classes=2)
    for path in (folder / "masks").iterdir():
        save(path, np.asarray(Image.open(path)) * 255)
    done = prepare(tmp_path / "m", folder, *flags_in(refused(tmp_path, folder)))
    assert len(done.classes) == 2 and set(np.unique(done.all_masks)) == {0, 1}


def test_masks_in_colours(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    colours = np.array([(0, 0, 0), (255, 0, 0), (9, 200, 7)], np.uint8)
    for path in (folder / "masks").iterdir():
        save(path, colours[np.asarray(Image.open(path))])
    done = prepare(tmp_path / "m", folder, *flags_in(refused(tmp_path, folder)))
    assert len(done.classes) == 3


@pytest.mark.parametrize("values", [(0, 2, 3), (0, 1, 255), (3, 5, 9)])
def test_values_with_gaps(values, tmp_path):
    folder = write_set(tmp_path / "set", 12)
    for path in (folder / "masks").iterdir():
        save(path, np.array(values, np.uint8)[np.asarray(Image.open(path))])
    message = refused(tmp_path, folder)
    for start in ("--label-mapping", "--ignore-index"):
        if start in message:
            prepare(tmp_path / start, folder, *flags_in(message, start))


def test_names_of_classes_that_no_mask_holds(tmp_path):
    """The names alone would leave the last value without a class."""
    folder = write_set(tmp_path / "set", 12)
    for path in (folder / "masks").iterdir():
        save(path, np.array([0, 1, 3], np.uint8)[np.asarray(Image.open(path))])
    message = refused(tmp_path, folder, "--names", "a,b,c,d")
    done = prepare(tmp_path / "m", folder, *flags_in(message))
    assert done.classes.names == ("a", "b", "d") and set(np.unique(done.all_masks)) == {0, 1, 2}


def test_class_that_only_another_split_of_the_data_set_holds(tmp_path):
    """No seed moves a picture out of a split that has a folder."""
    folder = tmp_path / "set"
    for split, number in (("train", 12), ("val", 4)):
        write_set(
            folder, number, image=f"images/{split}/p{{:02}}.png", mask=f"masks/{split}/p{{:02}}.png"
        )
    for k in (0, 1):
        path = folder / f"masks/val/p{k:02}.png"
        mask = np.array(Image.open(path))
        mask[:9, :9] = 3
        save(path, mask)
    message = refused(tmp_path, folder)
    assert (
        "pictures of other splits do (2 of validation); move some of them to the train" in message
    )
    for kind in ("images", "masks"):
        shutil.move(folder / kind / "val/p00.png", folder / kind / "train/moved.png")
    assert len(prepare(tmp_path / "m", folder).classes) == 4


def test_class_that_the_cut_left_to_another_split(tmp_path):
    """Two pictures hold it, and both are in validation or test with this seed."""
    folder = write_set(tmp_path / "set", 12)
    whole = prepare(tmp_path / "whole", folder)
    listing = next((tmp_path / "whole/dataset").glob("examples-*.csv")).read_text().splitlines()
    others = [line.rpartition("/")[2] for line in listing if line.startswith(("val", "test"))]
    assert whole.counts["train"] == 9 and len(others) == 3
    for name in others[:2]:
        mask = np.array(Image.open(folder / "masks" / name))
        mask[:9, :9] = 3
        save(folder / "masks" / name, mask)
    message = refused(tmp_path, folder)
    seed = flags_in(message, "cut the splits anew")
    assert seed[0] == "--seed" and len(prepare(tmp_path / "m", folder, *seed).classes) == 4


def test_names_that_differ_by_what_follows_are_paired(tmp_path):
    """Said was: has no mask of the same name; draw it."""
    folder = write_set(tmp_path / "set", 12, mask="masks/p{:02}_manual1.png")
    assert prepare(tmp_path / "m", folder).counts["train"] == 9


def test_two_endings_that_fit_are_told_apart_by_the_flag(tmp_path):
    folder = write_set(tmp_path / "set", 12, mask="masks/p{:02}_mask.png")
    for k in range(12):
        save(folder / f"masks/p{k:02}_label.png", stripes(k, 2)[1])
    message = refused(tmp_path, folder)
    assert "with _label and with _mask in their names" in message
    for suffix, number in (("_mask", 3), ("_label", 2)):
        flags = flags_in(message, f"--mask-suffix {suffix}")
        done = prepare(tmp_path / suffix, folder, *flags)
        assert len(done.classes) == number
        assert sum("masks/" in line for line in done.left_out) == 12


def test_mask_of_another_name_is_renamed(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    (folder / "masks/p03.png").rename(folder / "masks/p03_new.png")
    message = refused(tmp_path, folder)
    assert f"but {folder}/masks/p03_new.png is there; rename that" in message
    (folder / "masks/p03_new.png").rename(folder / "masks/p03.png")
    prepare(tmp_path / "m", folder)


def test_masks_in_transparency_need_no_mapping(tmp_path):
    """Said was: --label-mapping 255:0, of masks that are white wherever they are not seen."""
    folder = write_set(tmp_path / "set", 12, classes=2)
    for path in (folder / "masks").iterdir():
        white = Image.new("RGB", (40, 32), "white")
        white.putalpha(Image.fromarray(np.asarray(Image.open(path)) * np.uint8(255)))
        save(path, white)
    assert set(np.unique(prepare(tmp_path / "m", folder).all_masks)) == {0, 1}


def test_array_with_a_layer_for_each_class_that_overlap(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    for path in list((folder / "masks").iterdir()):
        mask = np.asarray(Image.open(path))
        layers = (mask[..., None] >= np.arange(3)) * 2
        np.save(path.with_suffix(".npy"), layers)
        path.unlink()
    assert "numpy.save('OUT.npy', a.argmax(-1))" in refused(tmp_path, folder)
    for path in (folder / "masks").iterdir():
        np.save(path, np.load(path)[..., ::-1].argmax(-1))
    assert len(prepare(tmp_path / "m", folder).classes) == 3


def test_skipping_what_is_faulty(tmp_path):
    folder = write_set(tmp_path / "set", 20)
    (folder / "masks/p03.png").write_bytes(b"no picture")
    flags = flags_in(refused(tmp_path, folder), "--skip-bad")
    assert len(prepare(tmp_path / "m", folder, *flags).left_out) == 1


def test_folder_without_folders_that_are_known(tmp_path):
    folder = write_set(tmp_path / "set", 12, image="a b/p{:02}.png", mask="drawn/p{:02}.png")
    add_noise(folder / "a b")
    flags = flags_in(refused(tmp_path, folder))
    assert flags == ["--images", f"{folder}/a b", "--masks", f"{folder}/drawn"]
    done = prepare(tmp_path / "m", None, *flags)
    assert done.counts["train"] == 9


def test_pictures_without_a_mask(tmp_path):
    folder = write_set(tmp_path / "set", 20)
    (folder / "masks/p03.png").unlink()
    message = refused(tmp_path, folder)
    for start in ("--missing-mask", "--skip-bad"):
        flags = flags_in(message, start)
        number = sum(prepare(tmp_path / start, folder, *flags).counts.values())
        assert number == 19 + (start == "--missing-mask")
