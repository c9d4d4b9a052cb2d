"""Text as the tools of all systems write it, wherever names and lists are read."""

import json

import pytest

from pipeline.base.console import UserError
from pipeline.data.formats.ultralytics import read_ultralytics
from pipeline.data.text_files import lines_of, read_text
from pipeline.report.chart_style import class_labels
from tests.helpers.coco_sets import coco, rectangle, write_coco
from tests.helpers.drawn_sets import YAML, prepare, write_set
from tests.helpers.polygon_sets import write_yolo

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
NAMES = ("Himmel", "道路", "🌳 Bäume")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_are_the_same_in_every_encoding(encoding, newline, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes((newline.join(NAMES) + newline).encode(encoding))
    assert tuple(lines_of(path)) == NAMES


def test_bytes_of_another_encoding_stand_for_themselves(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"caf\xe9.png")
    assert read_text(path) == "caf\udce9.png"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_every_file_of_names_is_read_in_every_encoding(encoding, tmp_path):
    folder = write_set(tmp_path / "set", 12)
    names = tmp_path / "names.txt"
    names.write_bytes("\r\n".join(NAMES).encode(encoding))
    (folder / "train.txt").write_bytes("".join(f"p{k:02}\r\n" for k in range(11)).encode(encoding))
    done = prepare(tmp_path / "m", folder, "--names", names)
    assert done.classes.names == NAMES
    assert done.left_out == ["images/p11.png: in no list, skipped"]
    (folder / "train.txt").unlink()
    rows = "\r\n".join(f"{k},{name}" for k, name in enumerate(NAMES))
    (folder / "_classes.csv").write_bytes(f"Pixel Value, Class\r\n{rows}\r\n".encode(encoding))
    assert prepare(tmp_path / "m", folder).classes.names == NAMES


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_data_yaml_and_labels_in_every_encoding(encoding, tmp_path):
    write_yolo(tmp_path / "set", "images/train/{:02}.png", "labels/train/{:02}.txt", range(12))
    for path in (tmp_path / "set/labels/train").iterdir():
        path.write_bytes(path.read_text().encode(encoding))
    text = "path: .\r\ntrain: images\\train\r\nnames:\r\n  0: 道路\r\n  1: '🌳'\r\n"
    (tmp_path / "set/data.yaml").write_bytes(text.encode(encoding))
    done = prepare(tmp_path / "m", tmp_path / "set")
    assert done.classes.names == ("background", "道路", "🌳")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_coco_json_in_every_encoding(encoding, tmp_path):
    objects = [(1, [rectangle(0, 0, 9, 9)]), (4, [rectangle(20, 20, 30, 30)])]
    path = write_coco(tmp_path / "set/c.json", coco(12, objects, ("道路", "🌳", "x")))
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding))
    assert prepare(tmp_path / "m", path).classes.names == ("background", "道路", "🌳")


def test_backslashes_in_lists_and_file_names(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    (folder / "train.txt").write_text("".join(f".\\images\\p{k:02}.png\r\n" for k in range(12)))
    assert sum(prepare(tmp_path / "m", folder).counts.values()) == 12
    content = coco(12, [(1, [rectangle(0, 0, 9, 9)])])
    path = write_coco(tmp_path / "coco/c.json", content, "photos")
    for image in content["images"]:
        image["file_name"] = f"photos\\{image['file_name']}"
    path.write_text(json.dumps(content))
    assert sum(prepare(tmp_path / "m", path).counts.values()) == 12


WORDS = ("no", "yes", "on", "off", "null_", "1.10", "010", "1e3", "0x1F", "2001-12-14", "1_000")


def test_names_in_a_yaml_are_what_is_written(tmp_path):
    """YAML takes them for false, true, 1.1, 8, 1000.0, 31, a date."""
    write_set(tmp_path, 12, len(WORDS), "images/train/p{:02}.png", "masks/train/p{:02}.png")
    for names in (
        "[" + ", ".join(WORDS) + "]",
        "".join(f"\n  {k}: {n}" for k, n in enumerate(WORDS)),
    ):
        (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
        assert read_ultralytics(tmp_path / "data.yaml").labels.names == WORDS


def test_empty_keys_of_a_yaml_say_nothing(tmp_path):
    write_set(tmp_path, 12, 3, "images/train/p{:02}.png", "masks/train/p{:02}.png")
    for empty in ("", "~", "null", "''"):
        text = YAML.replace("val: images/val", f"val: {empty}\ntest: {empty}")
        (tmp_path / "data.yaml").write_text(text)
        assert set(read_ultralytics(tmp_path / "data.yaml").splits) == {"train"}


STRANGE = ("🌳 🐕‍🦺", "背景", '<b>road</b> & "sky"', "x" * 350, "עברית")


def test_names_of_any_characters(tmp_path):
    folder = write_set(tmp_path / "set", 12, len(STRANGE))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(STRANGE), encoding="utf-8")
    done = prepare(tmp_path / "m", folder, "--names", names)
    assert done.classes.names == STRANGE
    assert list(done.record["splits"]["train"]["class_shares"]) == list(STRANGE)


def test_names_in_another_encoding_are_refused(tmp_path, capsys):
    folder = write_set(tmp_path / "set", 12)
    names = tmp_path / "names.txt"
    names.write_bytes("Höhe\nb\nc".encode("latin-1"))
    with pytest.raises(SystemExit):
        prepare(tmp_path / "m", folder, "--names", names)
    assert "is not UTF-8 text; save its file as UTF-8" in capsys.readouterr().err
    (folder / "labelmap.txt").write_bytes("Höhe:0,0,0::\nb:1,1,1::\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text; save its file as UTF-8"):
        prepare(tmp_path / "m", folder)


def test_long_names_are_cut_in_tables_and_charts(tmp_path, capsys):
    folder = write_set(tmp_path / "set", 12, 3)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(("a", "x" * 350, "x" * 351)))
    done = prepare(tmp_path / "m", folder, "--names", names)
    assert done.classes.names == ("a", "x" * 350, "x" * 351)
    assert max(map(len, capsys.readouterr().out.splitlines())) < 300
    labels = class_labels(done.classes.names)
    assert max(map(len, labels)) < 60 and len(set(labels)) == 3
