"""Pictures that are stored otherwise than most are picked, and dataset.jpg shows them with why."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.audit import Findings
from pipeline.data.inspection import Kind
from pipeline.data.odd_pictures import MOST, pick
from pipeline.data.split_selection import LEFT_OUT
from pipeline.report import charts, dataset_picture, overlays
from tests.helpers.drawn_sets import prepare, save, stripes, with_palette, write_set
from tests.helpers.pictures import stored_as

PLAIN = Kind("PNG L", "", "JPEG RGB", "")
CODES = np.array([0] * 30 + [1] * 5 + [2] * 5, np.uint8)


def picked(**kinds):
    """What is picked of 40 plain samples, some of which are of other kinds, by their number."""
    stored = [PLAIN] * len(CODES)
    for name, kind in kinds.items():
        stored[int(name[1:])] = kind
    return pick(Findings(kinds={"train": stored}), {"train": CODES})


def test_nothing_is_picked_of_a_set_that_is_stored_alike():
    assert picked() == {}


def test_first_of_each_rare_way_is_picked_the_rarest_first():
    odd = PLAIN._replace(photo="PNG RGBA")
    turned = PLAIN._replace(exif="3, mask stored")
    assert picked(p4=odd, p9=odd, p20=turned) == {
        ("train", 20): "rare: EXIF 3, mask stored (1 of 35)",
        ("train", 4): "rare: photo PNG RGBA (2 of 35)",
    }


def test_test_split_and_left_out_samples_are_not_looked_at():
    odd = PLAIN._replace(mask="TIFF L")
    assert picked(p38=odd) == {}
    codes = np.full(len(CODES), LEFT_OUT, np.uint8)
    assert pick(Findings(kinds={"train": [odd] * len(CODES)}), {"train": codes}) == {}


def test_half_of_a_set_is_not_rare_and_few_are_picked():
    halves = {f"p{k}": PLAIN._replace(photo="PNG RGB") for k in range(15)}
    assert picked(**halves) == {}
    many = {f"p{k}": PLAIN._replace(palette=f"{k},0,0") for k in range(8)}
    assert len(picked(**many)) == MOST


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of `overlays.examples`, of every dataset.jpg that is drawn."""
    calls, examples = [], overlays.examples

    def spied(*arguments):
        calls.append(arguments)
        return examples(*arguments)

    monkeypatch.setattr(overlays, "examples", spied)
    return calls


def test_dataset_jpg_shows_a_turned_photo_and_an_odd_palette(tmp_path, drawn, monkeypatch):
    colours = [(0, 0, 0), (200, 30, 40), (20, 60, 220)]
    write_set(tmp_path / "set", 40)
    for k in range(40):
        save(tmp_path / f"set/masks/p{k:02}.png", with_palette(stripes(k, 3)[1], colours))
    image, mask = stripes(11, 3)
    longer = with_palette(mask, [*colours, (1, 2, 3)])
    save(tmp_path / "set/masks/p11.png", longer)
    (tmp_path / "set/images/p12.png").write_bytes(stored_as(Image.fromarray(stripes(12, 3)[0]), 3))
    real_save, real_examples = charts.save, overlays.examples
    result = prepare(tmp_path / "models", tmp_path / "set")
    assert len(result.record["odd_pictures"]) == 2
    why = {reason: (split, row) for split, row, reason in result.record["odd_pictures"]}
    exif = next(reason for reason in why if reason.startswith("rare: EXIF 3"))
    palette = next(reason for reason in why if reason.startswith("rare: palette 0,0,0 200,30,40"))
    assert exif.endswith("mask drawn on: unknown (1 of 32)") and palette.endswith("1,2,3 (1 of 32)")
    split, row = why[palette]
    np.testing.assert_array_equal(result.images[split][row], prepared(image))

    monkeypatch.setattr(charts, "save", real_save)
    monkeypatch.setattr(overlays, "examples", real_examples)
    path = tmp_path / "models" / "dataset.jpg"
    dataset_picture.drawings(tmp_path / "models")[path](path)
    images, masks, _, _, captions = drawn[-1]
    assert len(images) == len(masks) == len(captions) >= 7
    assert {text for text in captions if text} == {palette, exif}


def prepared(image):
    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
