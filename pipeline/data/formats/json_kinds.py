"""Tells a COCO JSON with objects from JSON of other kinds, and says what converts those.

`refuse_others` is called before anything is read out of the content, so that no reader stumbles
over a missing or a strange part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.console import UserError
from pipeline.data.image_reader import MOST_PIXELS

PARTS = ("images", "annotations", "categories")
FEW = 50  # entries of a list that are looked at to tell its kind


class Kind(NamedTuple):
    """A kind of JSON that is not read."""

    name: str
    remedy: str  # what converts it
    is_it: Callable[[Any], bool]  # whether a content is of this kind; may raise LOOKUPS


LOOKUPS = (KeyError, IndexError, TypeError, AttributeError)  # of a content of another shape


def keys_of(entries: Any) -> set[str]:
    """All keys of the first entries of a list, or of the values of a dictionary."""
    values = list(entries.values() if isinstance(entries, dict) else entries)[:FEW]
    return {key for entry in values if isinstance(entry, dict) for key in entry}


def listed(content: Any, *keys: str) -> bool:
    """Whether a content is a list whose entries have these keys."""
    return isinstance(content, list) and set(keys) <= keys_of(content)


KINDS = (
    Kind(
        "COCO's panoptic format (segments_info)",
        "convert it to objects: panoptic2detection_coco_format.py, or to PNG masks: "
        "panoptic2semantic_segmentation.py (both of panopticapi)",
        lambda content: "segments_info" in keys_of(content["annotations"]),
    ),
    Kind(
        "COCO's format of captions",
        "use the file of the same pictures with objects, as instances_train2017.json is",
        lambda content: "caption" in (keys := keys_of(content["annotations"]))
        and "category_id" not in keys,
    ),
    Kind(
        "COCO's format of keypoints, without outlines",
        "use the file of the same pictures with objects, as instances_train2017.json is",
        lambda content: "keypoints" in (keys := keys_of(content["annotations"]))
        and "segmentation" not in keys,
    ),
    Kind(
        "a COCO JSON with boxes (bbox) and no outlines (segmentation)",
        "export polygons or masks from your labelling tool",
        lambda content: "bbox" in (keys := keys_of(content["annotations"]))
        and "segmentation" not in keys,
    ),
    Kind(
        "COCO's format of results, as a model writes it",
        "use the file with images, annotations and categories that it belongs to",
        lambda content: listed(content, "image_id", "category_id"),
    ),
    Kind(
        "CreateML, with boxes",
        "export polygons as COCO, or masks as PNG, from your labelling tool",
        lambda content: listed(content, "image", "annotations")
        or listed(content, "imagefilename", "annotation"),
    ),
    Kind(
        "an export of Label Studio",
        "export it again: Export, Brush labels to PNG or COCO with polygons",
        lambda content: listed(content, "data", "annotations")
        or listed(content, "data", "completions"),
    ),
    Kind(
        "an export of Labelbox",
        "convert it to COCO: labelbox.data.serialization.COCOConverter, or export masks",
        lambda content: listed(content, "Labeled Data") or listed(content, "data_row")
        or "data_row" in content,
    ),
    Kind(
        "Scalabel, as BDD100K has it",
        "convert it to COCO: python -m scalabel.label.to_coco -m ins_seg -i IN.json -o OUT.json",
        lambda content: listed(content, "name", "labels") or "labels" in keys_of(content["frames"]),
    ),
    Kind(
        "LabelMe, which has one JSON for each picture",
        "convert the folder: labelme2voc.py (of labelme) writes JPEGImages/ and "
        "SegmentationClass/, or labelme2coco",
        lambda content: isinstance(content["shapes"], list),
    ),
    Kind(
        "a project of VGG Image Annotator (VIA)",
        "export it there: Annotation, Export Annotations (COCO format)",
        lambda content: "_via_img_metadata" in content or "regions" in keys_of(content),
    ),
    Kind(
        "Cityscapes' polygons of one picture",
        "draw them as PNG: csCreateTrainIdLabelImgs (of cityscapesscripts)",
        lambda content: "imgHeight" in content and "polygon" in keys_of(content["objects"]),
    ),
    Kind(
        "a project of Supervisely",
        "export it there: Export to COCO, or Export as masks",
        lambda content: "classTitle" in keys_of(content.get("objects", ()))
        or ("tags" in content and "shape" in keys_of(content["classes"])),
    ),
    Kind(
        "GeoJSON",
        "draw it as a mask: gdal_rasterize -a CLASS -ts WIDTH HEIGHT IN.geojson OUT.tif (of GDAL)",
        lambda content: content["type"] in ("FeatureCollection", "Feature"),
    ),
)  # fmt: skip


def refuse_others(path: Path, content: Any) -> None:
    """Raises UserError if a content is not that of a COCO JSON with objects.

    Afterwards: images have `id`, `file_name`, `height` and `width`, annotations `image_id` of an
    image and `category_id`, categories `id` and `name`, all of usable types; no `id` and no
    `file_name` of an image occurs twice.
    """
    if kind := kind_of(content):
        raise UserError(f"{path} is {kind.name}, which is not read; {kind.remedy}")
    if fault := fault_of(content):
        raise UserError(not_coco(path, fault))
    for key in ("id", "file_name"):
        for first, second in twice(content["images"], key):
            raise UserError(
                f"{path}: images[{first}] and images[{second}] have the same {key}, "
                f"{content['images'][second][key]!r:.60}, so nothing tells whose the objects are; "
                "are two exports in one file? then give the pictures of one other names and ids"
            )


def not_coco(path: Path, fault: str) -> str:
    """The message on a file that is not a COCO JSON and of no known kind."""
    return (
        f"{path} is not a COCO JSON with images, annotations and categories ({fault}); "
        "export it again as COCO"
    )


def kind_of(content: Any) -> Kind | None:
    """The kind of JSON that is not read and that a content is; None if it is none of KINDS."""
    for kind in KINDS:
        try:
            if kind.is_it(content):
                return kind
        except LOOKUPS:
            continue
    return None


def fault_of(content: Any) -> str:
    """What is missing in the content of a COCO JSON, or of a wrong type; "" if nothing is."""
    if not isinstance(content, dict):
        return f"it begins with {'a list' if isinstance(content, list) else repr(content)[:40]}"
    if missing := [part for part in PARTS if part not in content]:
        return f"it has no {' and no '.join(missing)}"
    for part in PARTS:
        entries = content[part]
        if not isinstance(entries, list):
            return f"its {part} are no list"
        if strange := [k for k, entry in enumerate(entries) if not isinstance(entry, dict)]:
            return f"{part}[{strange[0]}] is {entries[strange[0]]!r:.40}"
    if not content["images"]:
        return "it lists no images"
    faults = (
        *(f"images[{k}] {fault}" for k, entry in enumerate(content["images"])
          if (fault := fault_of_image(entry))),
        *(f"categories[{k}] {fault}" for k, entry in enumerate(content["categories"])
          if (fault := fault_of_id(entry, "id") or ("" if "name" in entry else "has no name"))),
        *faults_of_annotations(content),
    )  # fmt: skip
    return faults[0] if faults else ""


def fault_of_id(entry: dict[str, Any], key: str) -> str:
    """What is wrong with a number that identifies something; "" if nothing is."""
    if key not in entry:
        return f"has no {key}"
    value = entry[key]
    usable = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    return "" if usable and value == value else f"has the {key} {value!r:.40}"


def twice(entries: list[dict[str, Any]], key: str) -> list[tuple[int, int]]:
    """Numbers of two entries with the same value, of the first such value; [] if there is none."""
    seen: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        first = seen.setdefault(entry[key], number)
        if first != number:
            return [(first, number)]
    return []


def fault_of_image(entry: dict[str, Any]) -> str:
    """What is wrong with an entry of "images"; "" if nothing is."""
    if fault := fault_of_id(entry, "id"):
        return fault
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return f"has the file_name {name!r:.40}" if "file_name" in entry else "has no file_name"
    for side in ("height", "width"):
        value = entry.get(side)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
            return f"has the {side} {value!r:.40}" if side in entry else f"has no {side}"
    if not entry["height"] * entry["width"] <= MOST_PIXELS:
        return f"has {entry['width']:g} x {entry['height']:g} pixels"
    return ""


def faults_of_annotations(content: dict[str, Any]) -> list[str]:
    """What is wrong with the first faulty entry of "annotations"; [] if nothing is."""
    images = {entry.get("id") for entry in content["images"] if not fault_of_id(entry, "id")}
    kinds = {isinstance(entry.get("id"), str) for entry in content["categories"]}
    for k, entry in enumerate(content["annotations"]):
        fault = fault_of_id(entry, "image_id") or fault_of_id(entry, "category_id")
        if not fault and entry["image_id"] not in images:
            fault = f"is of the image {entry['image_id']!r:.40}, which is not listed"
        kinds.add(isinstance(entry.get("category_id"), str))
        if not fault and len(kinds) > 1:
            fault = "has a category_id that is a number, or a text, unlike others"
        if fault:
            return [f"annotations[{k}] {fault}"]
    return []
