"""What --data means, in its new spelling and the old one, and whether files changed."""

import os
import shutil

import pytest
from PIL import Image

import data_preparation
from pipeline.base.console import UserError
from pipeline.data.formats import registry
from tests.helpers.coco_sets import coco, rectangle, write_coco
from tests.helpers.drawn_sets import YAML, save, stripes, write_set
from tests.helpers.pictures import encoded, halves

# --- what --data means --------------------------------------------------------------------


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
        found = opened(data)
        assert found.splits["train"].number == number, data
        assert found.labels.names == names, data
        assert registry.on_disk(str(data))


@pytest.mark.parametrize(
    ("data", "number"), [("synthetic", 3), ("synthetic:2", 2), ("synthetic:6", 6)]
)
def test_drawn_animals_have_as_many_classes_as_asked(data, number):
    found = opened(data)
    assert len(found.labels.names) == number and found.synthetic and not registry.on_disk(data)


def test_drawn_animals_are_named_already():
    with pytest.raises(UserError, match="not for drawn"):
        registry.with_flags(opened("synthetic"), ["a", "b"], None, None, None)


def test_source_that_is_none_is_told_what_there_is(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no data")
    (tmp_path / "tfds" / "oxford_iiit_pet").mkdir(parents=True)
    for data, says in (
        ("synthetic:4", "drawn are synthetic:2, synthetic:3, synthetic:6"),
        (tmp_path / "none", r"none is missing; name pets, synthetic, tfds:NAME, or a folder"),
        (tmp_path / "empty", r"empty is no data set; a folder must have images/ and masks/"),
        (tmp_path / "notes.txt", r"notes\.txt is no data set; name a folder with"),
        (tmp_path / "tfds", r"is a folder of TFDS; read it with: --data pets --data-dir .*tfds"),
    ):
        with pytest.raises(UserError, match=says):
            opened(data)


@pytest.mark.parametrize("layout", ["images", "yaml", "json"])
def test_folder_of_pictures_starts_no_download_into_it(tmp_path, layout):
    """--data-dir my_photos without --dataset folder: TFDS would fill it with 773 MiB."""
    folder = tmp_path / "my_photos"
    if layout == "json":
        write_coco(folder / "objects.json", coco(1, [(1, [rectangle(0, 0, 9, 9)])]))
    else:
        write_set(folder, 2)
    if layout == "yaml":
        (folder / "masks").rename(folder / "truth")
        (folder / "data.yaml").write_text(YAML)
    before = sorted(folder.rglob("*"))
    expected = (
        r"my_photos is a folder of pictures and none of TFDS; read it with: --data .*my_photos"
    )
    with pytest.raises(UserError, match=expected):
        data_preparation.main(["--models-dir", str(tmp_path / "m"), "--data-dir", str(folder)])
    assert sorted(folder.rglob("*")) == before


# --- whether files changed ----------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    return write_set(tmp_path / "photos", 10, classes=2)


@pytest.fixture
def contents(photos, tmp_path):
    """Asks for the contents of the folder, with a listing that lasts from one time to the next."""

    def ask():
        source = opened(photos)
        return registry.content_of(source.folder, source.files(), tmp_path / "files.txt")

    return ask


def test_contents_change_with_the_pictures(photos, contents):
    seen = [contents()]
    for kind, pixels in zip(("images", "masks"), stripes(3, 2)):
        save(photos / kind / "a new one.png", pixels)
    seen.append(contents())
    (photos / "images" / "a new one.png").unlink()
    assert contents() == seen[0], "a mask without its picture is nothing that is read"
    mask = photos / "masks" / "p03.png"
    mask.write_bytes(encoded(halves(80, 63), "png"))
    seen.append(contents())
    shutil.copy(photos / "images" / "p01.png", photos / "images" / "p02.png")
    seen.append(contents())
    (photos / "train.txt").write_text("".join(f"p{k:02}\n" for k in range(10)))
    seen.append(contents())
    assert len(set(seen)) == len(seen)
    assert seen[0].startswith("20 files") and seen[1].startswith("22 files")


def test_picture_redrawn_with_the_same_size_and_time_is_seen(photos, contents):
    mask, left = photos / "masks" / "p03.png", halves(80, 63)
    mask.write_bytes(encoded(left, "png", compress_level=0))
    before, old = contents(), mask.stat()
    right = left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask.write_bytes(encoded(right, "png", compress_level=0))
    os.utime(mask, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert mask.stat().st_size == old.st_size
    assert contents() != before


def test_times_alone_change_nothing(photos, contents):
    before = contents()
    for path in photos.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert contents() == before


def test_unchanged_files_are_not_read_again_nor_is_anything_written(
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
    assert read == ["p03.png", "p031.png", "p031.png"], "a new name in the middle moves no other"


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff\xfe", b"[1, 2]\n", b"[]\n", b"3\n"])
def test_damaged_listing_is_made_anew(contents, tmp_path, content):
    before = contents()
    (tmp_path / "files.txt").write_bytes(content)
    assert contents() == before
    assert len((tmp_path / "files.txt").read_text().splitlines()) == 20


def test_file_that_cannot_be_read_counts_until_it_can(photos, contents, monkeypatch):
    before = contents()
    path = photos / "images" / "p03.png"
    data = path.read_bytes()
    path.unlink()
    path.symlink_to("gone.png")
    assert contents() not in (before, None)
    path.unlink()
    path.write_bytes(data)
    assert contents() == before
