"""Oxford-IIIT Pet as its authors give it out."""

import numpy as np
import pytest

from pipeline.data.formats import registry
from pipeline.data.formats.oxford_trimaps import read_trimaps
from tests.helpers.drawn_sets import prepare, save, stripes


@pytest.fixture
def pets(tmp_path):
    """20 pets, two of them in no list; one trimap of another size."""
    folder = tmp_path / "set"
    for k in range(20):
        save(folder / f"images/Abyssinian_{k}.jpg", stripes(k, 3)[0])
        size = (50, 32) if k == 3 else (40, 32)
        save(folder / f"annotations/trimaps/Abyssinian_{k}.png", stripes(k, 3, *size)[1] + 1)
        (folder / f"annotations/trimaps/._Abyssinian_{k}.png").write_bytes(b"\0\5\x16\7")
        (folder / "annotations/xmls").mkdir(exist_ok=True)
        (folder / f"annotations/xmls/Abyssinian_{k}.xml").write_text("<annotation/>")
    (folder / "images/Abyssinian_100.mat").write_bytes(b"MATLAB 5.0")
    for name, numbers in (("trainval", range(13)), ("test", range(13, 18)), ("list", range(18))):
        lines = "".join(f"Abyssinian_{k} 1 1 1\n" for k in numbers)
        header = "#Image CLASS-ID SPECIES BREED ID\n" if name == "list" else ""
        (folder / f"annotations/{name}.txt").write_text(header + lines)
    (folder / "annotations/README").write_text("")
    return folder


def test_official_splits_and_classes(pets, tmp_path):
    assert registry.format_of(str(pets))[0] == "oxford_trimaps"
    done = prepare(tmp_path / "m", pets)
    assert done.classes.names == ("pet", "background", "border")
    assert done.counts == {"train": 12, "validation": 1, "test": 5}
    red = np.rint(done.images["test"][..., 0] / 127.5).astype(int)
    assert (done.masks["test"] == red).mean() > 0.9


def test_what_is_in_no_list_is_listed(pets):
    reasons = dict(read_trimaps(pets).skipped)
    assert (
        reasons["images/Abyssinian_18.jpg"] == reasons["images/Abyssinian_19.jpg"] == "in no list"
    )
    assert reasons["images/Abyssinian_100.mat"].startswith("a MATLAB file")
    assert not [name for name in reasons if "xmls" in name]


def test_other_trimaps_are_folders_of_masks(pets):
    (pets / "annotations/trainval.txt").write_text("".join(f"Abyssinian_{k}\n" for k in range(13)))
    assert registry.format_of(str(pets))[0] == "folder_layout"
