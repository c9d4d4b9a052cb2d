"""COCO JSON files and their pictures."""

import json

from PIL import Image

from tests.helpers.drawn_sets import save

WIDTH, HEIGHT = 40, 32


def rectangle(left, top, right, bottom):
    """A rectangle as a COCO polygon."""
    return [left, top, right, top, right, bottom, left, bottom]


def coco(number=1, objects=(), categories=("dog", "cat", "never")):
    """Content of a COCO JSON: `number` pictures with the same objects (category, segmentation)."""
    images = [
        {"id": 10 + k, "file_name": f"i{k:02}.jpg", "width": WIDTH, "height": HEIGHT}
        for k in range(number)
    ]
    return {
        "images": images,
        "annotations": [
            {"id": k, "image_id": image["id"], "category_id": category, "segmentation": shape}
            for k, (image, (category, shape)) in enumerate(
                (image, item) for image in images for item in objects
            )
        ],
        "categories": [{"id": 3 * k + 1, "name": name} for k, name in enumerate(categories)],
    }


def write_coco(path, content, folder="."):
    """Writes a COCO JSON, and its pictures into `folder` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in content["images"]:
        save(path.parent / folder / image["file_name"], Image.new("RGB", (WIDTH, HEIGHT), "red"))
    return path
