"""COCO JSON: masks from polygons and run lengths, classes, splits, invalid files."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.formats import registry
from pipeline.data.formats.coco import json_in, read_coco
from pipeline.data.image_reader import Unreadable
from tests.helpers.coco_sets import HEIGHT, WIDTH, coco, rectangle, write_coco
from tests.helpers.drawn_sets import prepare


def run_lengths(mask):
    """Uncompressed COCO run lengths of a mask: column by column, first the number of zeros."""
    flat = np.asarray(mask, np.uint8).T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


def mask_of(path):
    sample = next(read_coco(path).splits["train"].read())
    return np.asarray(Image.open(io.BytesIO(sample.mask.fetch())))


def test_smaller_object_covers_the_larger_one_in_any_order(tmp_path):
    large, small = rectangle(2, 2, 30, 30), rectangle(8, 8, 16, 16)
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[2:30, 2:30] = 1
    expected[8:16, 8:16] = 2
    for objects in ([(1, [large]), (4, [small])], [(4, [small]), (1, [large])]):
        np.testing.assert_array_equal(
            mask_of(write_coco(tmp_path / "c.json", coco(1, objects))), expected
        )


def test_run_lengths_several_polygons_or_no_object(tmp_path):
    shape = np.zeros((HEIGHT, WIDTH), int)
    shape[:5, 3:20] = shape[20:, 30:] = 1
    path = write_coco(tmp_path / "c.json", coco(1, [(4, run_lengths(shape))]))
    np.testing.assert_array_equal(mask_of(path), shape)
    two = [rectangle(3, 0, 20, 5), rectangle(30, 20, 40, 32)]
    np.testing.assert_array_equal(mask_of(write_coco(path, coco(1, [(4, two)]))), shape)
    content = coco(2, [(4, two)])
    content["annotations"].pop(0)
    assert not mask_of(write_coco(path, content)).any()


def test_compressed_run_lengths_are_read(tmp_path):
    from pycocotools import mask as coco_mask

    shape = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    shape[4:9, 7:30] = 1
    encoded = coco_mask.encode(shape)
    encoded["counts"] = encoded["counts"].decode()
    path = write_coco(tmp_path / "c.json", coco(1, [(1, encoded)]))
    np.testing.assert_array_equal(mask_of(path), shape)


def test_classes_are_the_categories_with_objects_after_the_background(tmp_path):
    objects = [(4, [rectangle(0, 0, 9, 9)]), (1, [rectangle(20, 20, 30, 30)])]
    path = write_coco(tmp_path / "set" / "c.json", coco(12, objects), "images")
    done = prepare(tmp_path / "models", path)
    assert done.classes.names == ("background", "dog", "cat")
    assert done.counts == {"train": 9, "validation": 1, "test": 2}
    assert set(np.unique(done.all_masks)) == {0, 1, 2}
    assert done.left_out == ["category never: has no object, skipped"]


def test_category_called_background_is_class_zero(tmp_path):
    """Roboflow exports have one without objects."""
    whole = [rectangle(0, 0, WIDTH, HEIGHT)]
    objects = [(1, whole), (4, [rectangle(0, 0, 9, 9)])]
    path = write_coco(tmp_path / "c.json", coco(1, objects, ("background", "cat")))
    assert read_coco(path).labels.names == ("background", "cat")
    assert mask_of(path)[:9, :9].min() == 1 and mask_of(path)[9:].max() == 0


@pytest.mark.parametrize(
    ("train", "validation", "folder"),
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "../{}2017"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "."),
    ],
)
def test_other_splits_are_found_beside_the_training_split(tmp_path, train, validation, folder):
    objects = [(1, [rectangle(0, 0, 9, 9)])]
    write_coco(tmp_path / train, coco(5, objects), folder.format("train"))
    write_coco(tmp_path / validation, coco(3, objects), folder.format("val"))
    assert json_in(tmp_path) == tmp_path / train
    collection = read_coco(tmp_path / train)
    assert {split: part.number for split, part in collection.splits.items()} == {
        "train": 5,
        "validation": 3,
    }
    for part in collection.splits.values():  # file names are relative to the folder of the data set
        for sample in part.read():
            assert (collection.folder / sample.id).samefile(sample.image.content), sample.id
    for part in collection.splits.values():
        assert all(sample.image.content.exists() for sample in part.read())
    assert len(collection.files()) == 10 and all(
        (collection.folder / name).exists() for name in collection.files()
    )


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 2, 2]], "fewer than three points"),  # pycocotools reads four numbers as a box
        ([[1, 1, 2, 2, 3]], "fewer than three points"),
        ([], "no polygon"),
        (None, "no polygon"),
        ([[1, 1, 2, 2, "x", 3]], "could not convert"),
        ([[1, 1, float("nan"), 2, 3, 3]], "not a finite number"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "do not fill the picture"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 5 + HEIGHT * WIDTH]}, "do not fill"),
        ({"size": [9, 9], "counts": [81]}, "has the size"),
        ({"counts": [81]}, "size"),
    ],
)
def test_object_with_invalid_segmentation_makes_its_mask_unreadable(tmp_path, segmentation, reason):
    """Some of these would make pycocotools read beyond its memory."""
    path = write_coco(tmp_path / "c.json", coco(1, [(1, segmentation)]))
    sample = next(read_coco(path).splits["train"].read())
    expected = rf"the objects of i00\.jpg cannot be drawn \(object 0: .*{reason}"
    with pytest.raises(Unreadable, match=expected):
        sample.mask.fetch()


def test_invalid_coco_json_is_refused(tmp_path):
    path = tmp_path / "c.json"
    whole = coco(1, [(1, [rectangle(0, 0, 9, 9)])])
    broken = [b"", b"[]", b"{}", b'{"images": []}', b"\xff\xfe"]
    incomplete = [{**whole, "images": []}, {**whole, "categories": [{"id": 1}]}]
    incomplete.append({**whole, "annotations": [{"image_id": 99}]})
    for content in (*broken, *(json.dumps(data).encode() for data in incomplete)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"c\.json is not a COCO JSON with images, annotations"):
            read_coco(path)
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"lists i00\.jpg, which is neither beside it"):
        read_coco(path)
    write_coco(path, {**whole, "categories": [{"id": 7, "name": "other"}]})
    with pytest.raises(UserError, match="objects have the category 1, which has no name"):
        read_coco(path)
    write_coco(path, {**whole, "annotations": []})
    with pytest.raises(UserError, match="1 classes, but 2 to 150 are supported"):
        read_coco(path)


@pytest.mark.parametrize("key", ["id", "file_name"])
def test_two_pictures_with_one_id_or_name_are_refused(key, tmp_path):
    """Once, the objects of both were drawn into one of them."""
    content = coco(12, [(1, [rectangle(0, 0, 9, 9)])])
    if key == "id":
        for item in content["annotations"]:
            item["image_id"] = 13 if item["image_id"] == 17 else item["image_id"]
    content["images"][7][key] = content["images"][3][key]
    path = write_coco(tmp_path / "c.json", content)
    with pytest.raises(UserError, match=rf"images\[3\] and images\[7\] have the same {key}, "):
        read_coco(path)


def test_coco_2017_as_downloaded(tmp_path):
    """captions and person_keypoints lie beside instances; some pictures have no objects."""
    objects = [(1, [rectangle(0, 0, 9, 9)])]
    for split, number in (("train", 12), ("val", 4)):
        for kind in ("instances", "captions", "person_keypoints"):
            path = tmp_path / f"annotations/{kind}_{split}2017.json"
            write_coco(path, coco(number, objects), f"../{split}2017")
    (tmp_path / "train2017/extra.jpg").write_bytes((tmp_path / "train2017/i00.jpg").read_bytes())
    assert json_in(tmp_path) == tmp_path / "annotations/instances_train2017.json"
    collection = registry.open_source(str(tmp_path), None, (None, None), (32, 32), 7)
    assert {split: part.number for split, part in collection.splits.items()} == {
        "train": 12,
        "validation": 4,
    }
    assert ("../train2017/extra.jpg", "in no COCO JSON") in collection.skipped


def test_far_points_are_cut_off(tmp_path):
    """Once a crash, a minute, or nothing drawn: 1e30, 1e8, 1e9."""
    for far in (1e8, 1e9, 1e30):
        shape = [[-far, -far, far, -far, far, far]]
        path = write_coco(tmp_path / "c.json", coco(1, [(1, shape)]))
        assert mask_of(path).mean() == pytest.approx(1 - HEIGHT / WIDTH / 2, abs=0.03)
