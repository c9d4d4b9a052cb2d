"""Photos in folders: all of them and nothing else are drawn, and a table says what is in them."""

import csv
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluation
from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.base.files import MARK
from pipeline.data.classes import make_classes
from pipeline.prediction import area_table, legends, photo_drawing, predict
from pipeline.prediction.photo_models import PhotoModel

SIDE = 16
DRAWN = ("overlay", "classes")


def by_brightness(image):
    """Scores whose largest is the class of a pixel: dark, medium, bright."""
    grey = image.mean(axis=-1, keepdims=True, dtype=np.float32)
    return -np.abs(grey - np.array([0, 127, 255], np.float32))


@pytest.fixture
def model(monkeypatch, tmp_path_factory):
    """A model file that is never opened, and a network in its place; may be told to fail."""
    network = PhotoModel((SIDE, SIDE), 3, ("dark", "medium", "bright"), False, True, by_brightness)
    monkeypatch.setattr(predict, "open_photo_model", lambda _: network)
    return tmp_path_factory.mktemp("model") / "model.tflite"


def add_photo(path, seed=0, size=(24, 20)):
    """Writes a photo of random grey patches, as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).choice(np.array([0, 127, 255], np.uint8), (7, 8))
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).convert("RGB").save(path)
    return path


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def outputs(*photos):
    return {f"{photo}.{kind}.png" for photo in photos for kind in DRAWN}


ALL = {"photos.legend.png", "photos.classes.csv"}


def table_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def class_map(photo):
    with Image.open(f"{photo}.classes.png") as picture:
        return np.asarray(picture)


# --- what is drawn --------------------------------------------------------------------------


def test_class_maps_of_a_folder_are_those_of_its_photos_alone(finished_run, tmp_path):
    """With a network of a real file, several photos at a time."""
    file = artifact_path(finished_run, "int8")
    for k in range(6):
        for folder in ("together", "alone"):
            add_photo(tmp_path / folder / f"{k}.jpg", k, (40 + 7 * k, 33))
    assert evaluation.main(["--image", str(tmp_path / "together"), "--model", str(file)]) == 0
    for k in range(6):
        evaluation.main(["--image", str(tmp_path / "alone" / f"{k}.jpg"), "--model", str(file)])
        maps = [class_map(tmp_path / folder / f"{k}.jpg") for folder in ("together", "alone")]
        np.testing.assert_array_equal(*maps)
        assert len(np.unique(maps[0])) > 1
        rows = table_of(tmp_path / "alone" / f"{k}.jpg.classes.csv")
        both = table_of(tmp_path / "together" / "photos.classes.csv")
        there = str(tmp_path / "together" / f"{k}.jpg")
        same = [{**row, "photo": there} for row in rows]
        assert [row for row in both if row["photo"] == there] == same


def flooded(classes, k):
    """Sizes of the regions of a class, by a flood over 8 neighbours."""
    left, sizes = {(int(y), int(x)) for y, x in zip(*np.nonzero(classes == k))}, []
    while left:
        pending, size = [left.pop()], 0
        while pending:
            y, x = pending.pop()
            size += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            pending += near
        sizes.append(size)
    return sizes


def test_table_has_the_areas_and_regions_of_each_class_in_each_photo(model, tmp_path, monkeypatch):
    monkeypatch.setattr(area_table, "LARGER", 0.01)
    monkeypatch.setattr(area_table, "BAND", 7)
    photos = [add_photo(tmp_path / f"{k}, it.png", k, (31, 29 + k)) for k in range(3)]
    Image.new("RGB", (10, 10), "white").save(tmp_path / "white.png")
    photos.append(tmp_path / "white.png")
    assert predict.write_overlays([tmp_path], model) == 0
    rows = table_of(tmp_path / "photos.classes.csv")
    pairs = [(row["photo"], row["class"]) for row in rows]
    assert pairs == [(str(photo), str(k)) for photo in photos for k in range(3)]
    several = 0
    for row in rows:
        classes = class_map(row["photo"])
        sizes = flooded(classes, int(row["class"]))
        assert row["name"] == ("dark", "medium", "bright")[int(row["class"])]
        assert int(row["pixels"]) == sum(sizes)
        assert float(row["share"]) == pytest.approx(sum(sizes) / classes.size, abs=1e-6)
        assert int(row["regions"]) == len(sizes)
        assert int(row["larger_regions"]) == sum(size >= 0.01 * classes.size for size in sizes)
        several += int(row["larger_regions"]) < int(row["regions"])
    assert several, "the two columns differ somewhere"


def test_pixels_that_touch_at_a_corner_are_one_region():
    picture = Image.fromarray(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], np.uint8))
    counted = area_table.areas(picture, 3)
    assert counted.regions.tolist() == [1, 1, 0] and counted.pixels.tolist() == [7, 2, 0]
    last = area_table.areas(Image.fromarray(np.array([[254, 3, 254]], np.uint8)), 255)
    assert (last.regions[254], last.regions[3], last.regions.sum()) == (2, 1, 3), "of 255 classes"


def test_legend_of_several_photos_has_the_classes_that_one_of_them_shows():
    """Also a class of one photo among a thousand; of which share, the table says."""
    shares = np.zeros((1000, 3))
    shares[:, 2], shares[7] = 1, (0.4, 0.0005, 0.5995)
    figure = legends.legend_figure(make_classes(("rare", "speck", "sky")), shares)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["rare (0)", "sky (2)"]


# --- which files are photos -----------------------------------------------------------------


def test_folder_means_its_pictures_and_those_of_its_sub_folders(model, tmp_path, capsys):
    for name in ("b.png", "A.JPG", "deep/er/c.webp"):
        add_photo(tmp_path / name)
    for name in ("notes.txt", "deep/data.json", ".hidden.png", ".thumbs/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture", encoding="utf-8")
    before = files_below(tmp_path)
    assert predict.write_overlays([tmp_path], model) == 0
    assert files_below(tmp_path) - before == outputs("b.png", "A.JPG", "deep/er/c.webp") | ALL
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("skipped")]
    assert line == (
        f"skipped, because they are no pictures: {tmp_path}/notes.txt, {tmp_path}/deep/data.json"
    )
    assert lines[-1] == line


@pytest.mark.parametrize("inside", [None, "drawn"])
def test_own_files_are_never_read_again(model, tmp_path, capsys, inside):
    """Whatever their names are; also in --out inside the folder."""
    out = tmp_path / inside if inside else None
    for name in ("a.png", "b.jpg"):
        add_photo(tmp_path / name)
    predict.write_overlays([tmp_path], model, out)
    first = files_below(tmp_path)
    table = table_of((out or tmp_path) / "photos.classes.csv")
    overlay = (out or tmp_path) / "a.png.overlay.png"
    (tmp_path / "renamed.png").write_bytes(overlay.read_bytes())
    capsys.readouterr()
    assert predict.write_overlays([tmp_path], model, out) == 0
    assert files_below(tmp_path) == first | {"renamed.png"}
    assert table_of((out or tmp_path) / "photos.classes.csv") == table
    assert "skipped" not in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"no photo in .* \(files that evaluation.py wrote and does"
    ):
        predict.write_overlays([overlay], model)
    assert files_below(tmp_path) == first | {"renamed.png"}


def test_picture_of_the_user_that_is_named_like_an_output_is_a_photo(model, tmp_path):
    add_photo(tmp_path / "mine.overlay.png")
    predict.write_overlays([tmp_path], model)
    assert files_below(tmp_path) >= outputs("mine.overlay.png")


def test_patterns_stand_for_what_the_shell_would_make_of_them(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("p/a.jpg", "p/b.png", "p/q/c.jpg", "p/[1].jpg"):
        add_photo(tmp_path / name)
    Path("p/notes.txt").write_text("no picture", encoding="utf-8")
    Path("p/photo").write_bytes(Path("p/b.png").read_bytes())  # by what is in it
    for pattern, expected in (
        ("p/*.jpg", ("a.jpg", "[1].jpg")),
        ("p/[ab].*", ("a.jpg", "b.png")),
        ("p/**/*.jpg", ("a.jpg", "c.jpg", "[1].jpg")),
        ("p/[1].jpg", ("[1].jpg",)),
        ("p/*", ("a.jpg", "b.png", "q/c.jpg", "c.jpg", "photo", "[1].jpg")),
    ):
        out = tmp_path / f"out{abs(hash(pattern))}"
        assert evaluation.parse(["--image", pattern]).image == [Path(pattern)]
        predict.write_overlays([Path(pattern)], model, out)
        drawn = {name for name in files_below(out) if name.endswith(".overlay.png")}
        assert drawn == outputs(*expected) & drawn and len(drawn) == len(
            set(expected) - {"q/c.jpg"}
        )
        skipped = "skipped, because they are no pictures: p/notes.txt" in capsys.readouterr().out
        assert skipped == (pattern == "p/*")
    for wrong in ("p/*.gif", "x/**"):
        with pytest.raises(UserError, match="no file fits the pattern"):
            predict.write_overlays([Path("p/a.jpg"), Path(wrong)], model)
    with pytest.raises(UserError, match=r"p/c\.jpg is missing"):
        predict.write_overlays([Path("p/a.jpg"), Path("p/c.jpg")], model)
    assert not list(tmp_path.glob("p/*overlay*"))


def test_photo_that_is_named_twice_is_drawn_once(model, tmp_path):
    photo = add_photo(tmp_path / "a.png")
    predict.write_overlays([photo, tmp_path, tmp_path / "*.png"], model, tmp_path / "out")
    assert files_below(tmp_path / "out") == {
        *(*outputs("a.png"), "a.png.legend.png", "a.png.classes.csv"),
    }


# --- where it is written --------------------------------------------------------------------


def test_photos_of_one_name_do_not_overwrite_each_other(model, tmp_path):
    for k, name in enumerate(("day1/cat.png", "day2/Cat.png", "day2/dog.png", "day2/x/cat.png")):
        add_photo(tmp_path / name, k)
    first, second, dog = (
        tmp_path / name for name in ("day1/cat.png", "day2/Cat.png", "day2/dog.png")
    )
    out = tmp_path / "new" / "out"
    predict.write_overlays([first, dog], model, out)
    assert files_below(out) == outputs("cat.png", "dog.png") | ALL, "all are told apart"
    predict.write_overlays([tmp_path / "day2"], model, tmp_path / "one")
    assert files_below(tmp_path / "one") == outputs("Cat.png", "dog.png", "x/cat.png") | ALL
    predict.write_overlays([first, second], model, tmp_path / "two")
    assert files_below(tmp_path / "two") == outputs("day1/cat.png", "day2/Cat.png") | ALL
    folders = [tmp_path / "day1", tmp_path / "day2"]
    predict.write_overlays(folders, model, tmp_path / "three")
    names = ("day1/cat.png", "day2/Cat.png", "day2/dog.png", "day2/x/cat.png")
    assert files_below(tmp_path / "three") == outputs(*names) | ALL
    predict.write_overlays([first], model, tmp_path / "four")
    np.testing.assert_array_equal(
        class_map(tmp_path / "three" / "day1" / "cat.png"), class_map(tmp_path / "four" / "cat.png")
    )


def test_out_that_is_a_file_is_refused(model, tmp_path):
    photo, file = add_photo(tmp_path / "a.png"), tmp_path / "out"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=f"--out {file} is a file; name a folder"):
        predict.write_overlays([photo], model, file)
    assert files_below(tmp_path) == {"a.png", "out"} and file.read_text() == "mine"


def test_many_files_of_the_user_in_the_way_are_named_with_another_remedy(model, tmp_path):
    for k in range(30):
        photo = add_photo(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.png.classes.png").write_bytes(photo.read_bytes())
    before = files_below(tmp_path)
    photos = [tmp_path / f"{k}.png" for k in range(30)]
    with pytest.raises(UserError, match=r"and 10 more: not written .* another folder: --out DIR"):
        predict.write_overlays(photos, model)
    assert files_below(tmp_path) == before
    assert predict.write_overlays(photos, model, tmp_path / "out") == 0


# --- faults in the middle, and many photos --------------------------------------------------


def test_photo_that_cannot_be_read_is_named_and_ends_no_other(model, tmp_path, capsys):
    for k in range(5):
        add_photo(tmp_path / f"{k}.jpg", k, (64, 48))
    whole = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.jpg").write_text("no picture", encoding="utf-8")
    out = tmp_path / "out"
    words = ["--image", str(tmp_path), "--model", str(model), "--out", str(out)]
    assert evaluation.main(words) == 1
    assert files_below(tmp_path) == {f"{k}.jpg" for k in range(5)} | {
        f"out/{name}" for name in outputs("0.jpg", "1.jpg", "4.jpg") | ALL
    }
    output = capsys.readouterr().out.splitlines()
    failed = [line for line in output if line.startswith("FAILED: ")]
    assert len(failed) == 2 and output[-2:] == failed
    assert "2.jpg cannot be read (image file is truncated" in failed[0] and "3.jpg" in failed[1]
    drawn = {row["photo"] for row in table_of(out / "photos.classes.csv")}
    assert drawn == {str(tmp_path / f"{k}.jpg") for k in (0, 1, 4)}


def test_interrupt_leaves_whole_photos_and_nothing_else(model, tmp_path, monkeypatch):
    calls = []

    def interrupted(image):
        calls.append(image)
        if len(calls) == 6:  # the first one warms the network up
            raise KeyboardInterrupt
        return by_brightness(image)

    network = PhotoModel((SIDE, SIDE), 3, None, False, True, interrupted)
    monkeypatch.setattr(predict, "open_photo_model", lambda _: network)
    photos = [add_photo(tmp_path / f"{k:02}.png", k) for k in range(40)]
    with pytest.raises(KeyboardInterrupt):
        predict.write_overlays([tmp_path], model)
    written = files_below(tmp_path) - {photo.name for photo in photos}
    drawn = {name.split(".png")[0] + ".png" for name in written}
    assert written == outputs(*drawn), "both pictures of each, no half ones, no table"
    assert 4 <= len(drawn) < 20, "those that were not begun never were"
    for photo in drawn:
        for kind in DRAWN:
            with Image.open(tmp_path / f"{photo}.{kind}.png") as picture:
                picture.load()


def test_what_a_killed_run_left_is_removed(model, tmp_path):
    photo, left = add_photo(tmp_path / "a.png"), f".a.png.overlay{MARK}4194305.png"
    for name in (left, ".mine.png"):
        (tmp_path / name).write_bytes(b"half")
    predict.write_overlays([photo], model)
    hidden = {name for name in files_below(tmp_path) if name.startswith(".")}
    assert hidden == {".mine.png"}


def test_few_photos_are_in_memory_and_one_at_a_time_if_they_are_large(model, tmp_path, monkeypatch):
    photos = [add_photo(tmp_path / f"{k}.png", k) for k in range(12)]
    plain, lock, running, most = photo_drawing.open_photograph, threading.Lock(), [], []

    def opened(*arguments):
        with lock:
            running.append(1)
            most.append(len(running))
        return plain(*arguments)

    def counted(*arguments):  # the last step of a photo
        time.sleep(0.01)
        with lock:
            running.pop()
        return area_table.areas(*arguments)

    monkeypatch.setattr(photo_drawing, "open_photograph", opened)
    monkeypatch.setattr(photo_drawing, "areas", counted)
    monkeypatch.setattr(photo_drawing, "cores", lambda: 64)
    predict.write_overlays(photos, model)
    assert 1 < max(most) <= photo_drawing.AT_ONCE
    most.clear()
    monkeypatch.setattr(photo_drawing, "LARGE", 24 * 20 - 1)
    predict.write_overlays(photos, model)
    assert max(most) == 1 and len(most) == 12


def test_many_photos_have_no_lines_of_their_own(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "SECONDS_PER_LINE", 0.0)
    for k in range(predict.MOST_LINES + 1):
        add_photo(tmp_path / f"{k}.png", k)
    predict.write_overlays([tmp_path], model)
    output = capsys.readouterr().out
    assert "wrote " not in output and "10 of 11 photos, " in output and " a second, " in output
    assert "11 of 11 photos in " in output
    predict.write_overlays([tmp_path / f"{k}.png" for k in range(3)], model)
    output = capsys.readouterr().out
    assert output.count("wrote ") == 3 and "2 of 3 photos" not in output
