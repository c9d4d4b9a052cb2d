"""JSON of other kinds than COCO's objects is named, with what converts it; none is a traceback."""

import json

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.data.formats.coco import read_coco
from tests.helpers.coco_sets import coco, rectangle, write_coco

IMAGES = coco()["images"]
CATEGORIES = coco()["categories"]
SHAPE = [rectangle(0, 0, 9, 9)]


def of(*annotations):
    return {"images": IMAGES, "annotations": list(annotations), "categories": CATEGORIES}


SEGMENTS = {"image_id": 10, "file_name": "i00.png", "segments_info": [{"id": 17, "category_id": 1}]}
OTHERS = {
    "panoptic": (of(SEGMENTS), r"COCO's panoptic format .* panoptic2detection_coco_format\.py"),
    "captions": (of({"id": 1, "image_id": 10, "caption": "A dog."}), "COCO's format of captions"),
    "keypoints": (
        of({"id": 1, "image_id": 10, "category_id": 1, "keypoints": [1, 2, 2], "bbox": [0] * 4}),
        "COCO's format of keypoints, without outlines",
    ),
    "boxes": (of({"id": 1, "image_id": 10, "category_id": 1, "bbox": [0, 0, 9, 9]}), "with boxes"),
    "results": ([{"image_id": 10, "category_id": 1, "score": 0.9}], "COCO's format of results"),
    "CreateML": ([{"image": "a.jpg", "annotations": [{"label": "dog"}]}], "CreateML, with boxes"),
    "Label Studio": ([{"id": 1, "data": {}, "annotations": []}], "an export of Label Studio"),
    "Labelbox": ([{"data_row": {"id": "x"}, "projects": {}}], "an export of Labelbox"),
    "Scalabel": ([{"name": "a.jpg", "labels": []}], "Scalabel, as BDD100K has it"),
    "LabelMe": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "LabelMe, .* labelme2voc"),
    "VIA": ({"a.jpg12": {"filename": "a.jpg", "regions": []}}, "VGG Image Annotator"),
    "VIA's project": ({"_via_img_metadata": {}, "_via_settings": {}}, "VGG Image Annotator"),
    "Cityscapes": (
        {"imgHeight": 9, "imgWidth": 9, "objects": [{"label": "car", "polygon": []}]},
        "Cityscapes' polygons of one picture",
    ),
    "Supervisely": ({"size": {}, "objects": [{"classTitle": "car"}]}, "Supervisely"),
    "GeoJSON": ({"type": "FeatureCollection", "features": []}, "GeoJSON, .* gdal_rasterize"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_json_is_named_with_what_converts_it(kind, tmp_path):
    content, text = OTHERS[kind]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"c\.json is .*{text}") as caught:
        read_coco(path)
    assert "which is not read; " in str(caught.value) and "\n" not in str(caught.value)


WHOLE = {"id": 1, "image_id": 10, "category_id": 1, "segmentation": SHAPE}


def image(**changes):
    return {**of(WHOLE), "images": [{**IMAGES[0], **changes}]}


def without(entry, key):
    return {name: value for name, value in entry.items() if name != key}


FAULTY = {
    "list of something": ([1, 2], "it begins with a list"),
    "text": ("x", "it begins with 'x'"),
    "no annotations": (without(of(), "annotations"), "it has no annotations"),
    "nothing": ({}, "it has no images and no annotations and no categories"),
    "parts": ({**of(), "images": {"1": IMAGES[0]}}, "its images are no list"),
    "entries": ({**of(), "categories": ["dog"]}, r"categories\[0\] is 'dog'"),
    "category as a list": (of({**WHOLE, "category_id": [1]}), r"annotations\[0\] has the category"),
    "no category": (of(without(WHOLE, "category_id")), r"annotations\[0\] has no category_id"),
    "no image": (of({**WHOLE, "image_id": 99}), r"annotations\[0\] is of the image 99, which is"),
    "id as a list": (
        {**of(WHOLE), "categories": [{"id": [1], "name": "a"}]},
        r"categories\[0\] has the id \[1\]",
    ),
    "no size": (
        {**of(WHOLE), "images": [without(IMAGES[0], "width")]},
        r"images\[0\] has no width",
    ),
    "no file": ({**of(), "images": [without(IMAGES[0], "file_name")]}, r"\[0\] has no file_name"),
    "height 0": (image(height=0), r"images\[0\] has the height 0"),
    "height as text": (image(height="32"), r"images\[0\] has the height '32'"),
    "infinite": (image(width=float("inf")), r"images\[0\] has inf x 32 pixels"),
    "huge": (image(width=60_000, height=60_000), r"images\[0\] has 60000 x 60000 pixels"),
    "NUL": (image(file_name="a\0.jpg"), r"images\[0\] has the file_name"),
    "number and text": (of(WHOLE, {**WHOLE, "category_id": "1"}), "that is a number, or a text"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_what_is_missing_or_strange_is_said(fault, tmp_path):
    content, text = FAULTY[fault]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"is not a COCO JSON with .*{text}.*export it again"):
        read_coco(path)


def test_json_that_is_too_deep_is_refused(tmp_path):
    path = tmp_path / "c.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match="is not a COCO JSON"):
        read_coco(path)


def test_no_part_of_another_type_is_a_traceback(tmp_path):
    """Every value of a small COCO JSON in turn becomes something else, or is left out."""
    strange = (None, True, -1, 1.5, 1e400, "x", [], [[1]], {}, {"a": 1})
    path = write_coco(tmp_path / "c.json", coco(2, [(1, SHAPE), (4, SHAPE)]))
    whole = json.loads(path.read_text())
    random = np.random.default_rng(7)
    tried = 0
    for keys in paths_in(whole):
        for value in random.permutation(len(strange))[:4]:
            path.write_text(json.dumps(changed(whole, keys, strange[value])))
            tried += 1
            try:
                for split in read_coco(path).splits.values():
                    for sample in split.read():
                        sample.mask.fetch()
            except UserError as error:
                assert "\n" not in str(error), keys
    assert tried > 150


def paths_in(content, keys=()):
    """The keys that lead to every value within a JSON."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries:
        yield (*keys, key)
        if isinstance(value, (dict, list)):
            yield from paths_in(value, (*keys, key))


def changed(content, keys, value):
    """A copy of a JSON with one value replaced."""
    copy = json.loads(json.dumps(content))
    place = copy
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return copy
