"""--data: which format reads it, refusals, and detection of changed files."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

import data_preparation
from pipeline.base import fingerprints
from pipeline.base.console import UserError
from pipeline.data.formats import registry
from tests.helpers.coco_sets import coco, rectangle, write_coco
from tests.helpers.drawn_sets import YAML, save, stripes, write_set
from tests.helpers.pictures import encoded, halves

# --- which format reads --data ------------------------------------------------------------


def opened(data):
    return registry.open_source(str(data), None, (None, None), (32, 32), 7)


def test_each_layout_is_recognised(tmp_path):
    flat = write_set(tmp_path / "flat", 3)
    voc = write_set(
        tmp_path / "voc" / "VOCdevkit" / "VOC2012",
        4,
        image="JPEGImages/p{}.png",
        mask="SegmentationClass/p{}.png",
    )
    objects = [(1, [rectangle(0, 0, 9, 9)])]
    file = write_coco(
        tmp_path / "coco" / "annotations" / "instances_default.json", coco(5, objects)
    )
    road = write_set(tmp_path / "road", 6, image="images/train/p{}.png", mask="masks/train/p{}.png")
    (road / "data.yaml").write_text(YAML.replace("val: images/val\n", ""))
    for data, number, names in (
        (flat, 3, None),
        (tmp_path / "voc", 4, None),
        (voc, 4, None),
        (tmp_path / "coco", 5, ("background", "dog")),
        (file, 5, ("background", "dog")),
        (road, 6, ("sky", "road", "tree")),
        (road / "data.yaml", 6, ("sky", "road", "tree")),
    ):
        collection = opened(data)
        assert collection.splits["train"].number == number, data
        assert collection.labels.names == names, data
        assert registry.on_disk(str(data))


READERS = {  # functions of the registry's module by the format module that they come from
    "tfds": ("oxford_pets", "any_set"),
    "synthetic": ("drawn_animals",),
    "coco": ("read_coco",),
    "ultralytics": ("read_ultralytics",),
    "folder_layout": ("read_folder",),
    "yolo_polygons": ("read_polygons",),
    "cityscapes": ("read_cityscapes",),
    "labelme": ("read_labelme",),
    "oxford_trimaps": ("read_trimaps",),
}


@pytest.fixture
def kinds(tmp_path):
    """By module that reads it, `--data` of every kind."""
    flat = write_set(tmp_path / "flat", 1)
    voc = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    write_set(voc, 1, image="JPEGImages/p{}.png", mask="SegmentationClass/p{}.png")
    road = write_set(tmp_path / "road", 1)
    for name in ("data.yaml", "other.yml"):  # two of them do not say which one to read
        (road / name).write_text(YAML)
    both = write_set(tmp_path / "both", 1)
    (both / "data.yaml").write_text(YAML)
    write_coco(both / "instances.json", coco())
    json_file = write_coco(tmp_path / "coco" / "annotations" / "instances_train.json", coco())
    for name in ("yolo/images/train/p.png", "bare/images/p.png", "drawn/p.png"):
        save(tmp_path / name, stripes(0, 3)[0])
    for name in ("yolo/labels/train/p.txt", "bare/labels/p.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("0 0.1 0.1 0.4 0.1 0.4 0.6")
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nnames: [road]\n")
    (tmp_path / "drawn" / "p.json").write_text('{"shapes": [], "imagePath": "p.png"}')
    write_set(
        tmp_path / "city",
        1,
        image="leftImg8bit/train/a/p{}_leftImg8bit.png",
        mask="gtFine/train/a/p{}_gtFine_labelIds.png",
    )
    write_set(tmp_path / "oxford", 1, mask="annotations/trimaps/p{:02}.png")
    (tmp_path / "oxford" / "annotations" / "trainval.txt").write_text("p00 1 1 1\n")
    return {
        "yolo_polygons": (tmp_path / "yolo", tmp_path / "yolo/data.yaml", tmp_path / "bare"),
        "cityscapes": (tmp_path / "city",),
        "labelme": (tmp_path / "drawn",),
        "oxford_trimaps": (tmp_path / "oxford",),
        "tfds": ("pets", "oxford_iiit_pet", "tfds:street", "tfds:street/small:1.0.0", "tfds"),
        "synthetic": ("synthetic", "synthetic:2", "synthetic:6"),
        "coco": (json_file, tmp_path / "coco"),
        "ultralytics": (both / "data.yaml", road / "other.yml", both),
        "folder_layout": (flat, tmp_path / "voc", tmp_path / "voc" / "VOCdevkit", voc, road),
    }


def test_format_of_names_the_module_that_open_source_calls(kinds, monkeypatch):
    calls = []
    for module, functions in READERS.items():
        for function in functions:
            assert getattr(registry, function).__module__ == f"pipeline.data.formats.{module}"
            monkeypatch.setattr(registry, function, lambda *_, module=module: calls.append(module))
    for table in (registry.READERS, registry.OF_MASKS):
        for kind in table:
            module = registry.MODULES[kind][0]
            monkeypatch.setitem(table, kind, lambda *_, module=module: calls.append(module))
    assert set(kinds) == set(READERS) == {module[0] for module in registry.MODULES.values()}
    for module, data_sets in kinds.items():
        for data in data_sets:
            assert registry.format_of(str(data))[0] == module, data
            opened(data)
            assert calls.pop() == module and not calls, data


def test_format_of_names_every_format_module_that_a_reader_imports():
    folder = Path(registry.__file__).parent
    for modules in registry.MODULES.values():
        found, pending = set(), [modules[0]]
        while pending:  # also those that an imported one imports
            found.add(name := pending.pop())
            imported = fingerprints.read(folder / f"{name}.py").modules
            siblings = {Path(n).stem for n in imported if n.startswith(fingerprints.FORMATS)}
            pending += siblings - found
        assert found == set(modules)


def test_format_of_what_is_no_data_set_is_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("no data", encoding="utf-8")
    for data in (tmp_path, tmp_path / "notes.txt", tmp_path / "none.json", tmp_path / "none"):
        assert registry.format_of(str(data)) == ()
        with pytest.raises(UserError, match=r"is (missing|not a data set)"):
            opened(data)


@pytest.mark.parametrize(
    ("data", "number"), [("synthetic", 3), ("synthetic:2", 2), ("synthetic:6", 6)]
)
def test_synthetic_data_has_the_requested_number_of_classes(data, number):
    collection = opened(data)
    assert (
        len(collection.labels.names) == number
        and collection.synthetic
        and not registry.on_disk(data)
    )


def test_message_on_an_unknown_data_set_lists_the_choices(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no data")
    (tmp_path / "tfds" / "oxford_iiit_pet").mkdir(parents=True)
    for data, message in (
        ("synthetic:4", "does not exist; use one of synthetic:2, synthetic:3, synthetic:6"),
        (tmp_path / "none", r"none is missing; use pets, synthetic, tfds:NAME, or a folder"),
        (tmp_path / "empty", r"empty is not a data set; a folder must have images/ and masks/"),
        (tmp_path / "notes.txt", r"notes\.txt is not a data set; use a folder with"),
        (tmp_path / "tfds", r"is a TFDS folder; read it with: --data pets --data-dir .*tfds"),
    ):
        with pytest.raises(UserError, match=message):
            opened(data)


@pytest.mark.parametrize("layout", ["images", "yaml", "json"])
def test_data_dir_with_pictures_is_refused_before_a_download(tmp_path, layout):
    """--data-dir my_photos instead of --data my_photos: TFDS would download 773 MiB into it."""
    folder = tmp_path / "my_photos"
    if layout == "json":
        write_coco(folder / "objects.json", coco(1, [(1, [rectangle(0, 0, 9, 9)])]))
    else:
        write_set(folder, 2)
    if layout == "yaml":
        (folder / "masks").rename(folder / "truth")
        (folder / "data.yaml").write_text(YAML)
    before = sorted(folder.rglob("*"))
    expected = r"my_photos is a folder of pictures, not of TFDS; read it with: --data .*my_photos"
    with pytest.raises(UserError, match=expected):
        data_preparation.main(["--models-dir", str(tmp_path / "m"), "--data-dir", str(folder)])
    assert sorted(folder.rglob("*")) == before


# --- whether files changed ----------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    return write_set(tmp_path / "photos", 10, classes=2)


@pytest.fixture
def contents(photos, tmp_path):
    """Computes the hash of the folder; the listing is kept between calls."""

    def ask():
        source = opened(photos)
        return registry.content_of(source.folder, source.files(), tmp_path / "files.txt")

    return ask


def test_contents_change_with_the_pictures(photos, contents):
    hashes = [contents()]
    for kind, pixels in zip(("images", "masks"), stripes(3, 2)):
        save(photos / kind / "a new one.png", pixels)
    hashes.append(contents())
    (photos / "images" / "a new one.png").unlink()
    assert contents() == hashes[0], "a mask without an image is not read"
    mask = photos / "masks" / "p03.png"
    mask.write_bytes(encoded(halves(80, 63), "png"))
    hashes.append(contents())
    shutil.copy(photos / "images" / "p01.png", photos / "images" / "p02.png")
    hashes.append(contents())
    (photos / "train.txt").write_text("".join(f"p{k:02}\n" for k in range(10)))
    hashes.append(contents())
    assert len(set(hashes)) == len(hashes)
    assert hashes[0].startswith("20 files") and hashes[1].startswith("22 files")


def test_changed_file_with_the_same_size_and_time_is_detected(photos, contents):
    mask, picture = photos / "masks" / "p03.png", halves(80, 63)
    mask.write_bytes(encoded(picture, "png", compress_level=0))
    before, old = contents(), mask.stat()
    flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask.write_bytes(encoded(flipped, "png", compress_level=0))
    os.utime(mask, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert mask.stat().st_size == old.st_size
    assert contents() != before


def test_new_times_alone_do_not_change_the_hash(photos, contents):
    before = contents()
    for path in photos.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert contents() == before


def test_unchanged_files_are_not_read_and_the_listing_not_written(
    photos, contents, monkeypatch, tmp_path
):
    before = contents()
    listing = (tmp_path / "files.txt").stat()
    read = []

    def watched(path):
        read.append(path.name)
        return "another"

    monkeypatch.setattr(registry, "sha256", watched)
    assert contents() == before and read == []
    assert (tmp_path / "files.txt").stat().st_mtime_ns == listing.st_mtime_ns
    (photos / "images" / "p03.png").touch()
    assert contents() != before and read == ["p03.png"]
    for kind, pixels in zip(("images", "masks"), stripes(3, 2)):
        save(photos / kind / "p031.png", pixels)
    contents()
    assert read == ["p03.png", "p031.png", "p031.png"], "a new file makes no other one read again"


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff\xfe", b"[1, 2]\n", b"[]\n", b"3\n"])
def test_damaged_listing_is_replaced(contents, tmp_path, content):
    before = contents()
    (tmp_path / "files.txt").write_bytes(content)
    assert contents() == before
    assert len((tmp_path / "files.txt").read_text().splitlines()) == 20


def test_unreadable_file_changes_the_hash(photos, contents, monkeypatch):
    before = contents()
    path = photos / "images" / "p03.png"
    data = path.read_bytes()
    path.unlink()
    path.symlink_to("gone.png")
    assert contents() not in (before, None)
    path.unlink()
    path.write_bytes(data)
    assert contents() == before
