"""Files in formats that are not read are named with what converts them, wherever they lie."""

import pytest

from pipeline.base.console import UserError
from pipeline.data.foreign_files import KINDS, NOT_READ
from pipeline.data.formats import registry
from tests.helpers.drawn_sets import YAML, prepare, save, stripes, write_set

SUFFIXES = [
    (kind, suffix) for kind in KINDS for suffix in (kind.suffixes[0], kind.suffixes[-1].upper())
]
READ = ("masks", ".npy")  # what is read, elsewhere


def opened(data):
    return registry.open_source(str(data), None, (None, None), (32, 32), 7)


@pytest.mark.parametrize(("kind", "suffix"), SUFFIXES, ids=[suffix for _, suffix in SUFFIXES])
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_partner_in_a_foreign_format_is_named(kind, suffix, folder, tmp_path):
    """Said was: has no image of the same name; add it, or remove the mask."""
    if (folder, suffix) == READ:
        return
    write_set(tmp_path, 12)
    other = tmp_path / folder / f"p05{suffix}"
    (tmp_path / folder / "p05.png").rename(other)
    (fault,) = opened(tmp_path).faults
    assert fault.text.endswith(
        f"of the same name; {other} is {kind.name}, {NOT_READ}; {kind.remedy}"
    )


def test_labels_beside_the_photograph_are_its_partner(tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / "masks" / "p03.png").unlink()
    (tmp_path / "images" / "p03.json").write_text("{}")
    (fault,) = opened(tmp_path).faults
    assert f"{tmp_path}/images/p03.json is JSON, as labelling tools write it" in fault.text


@pytest.mark.parametrize("layout", ["splits", "ultralytics", "lists"])
def test_every_layout_names_the_partner(layout, tmp_path):
    if layout == "ultralytics":
        (tmp_path / "data.yaml").write_text(YAML)
    below = "" if layout == "lists" else "train/"
    write_set(tmp_path, 12, image=f"images/{below}p{{:02}}.png", mask=f"masks/{below}p{{:02}}.png")
    if layout == "ultralytics":
        write_set(tmp_path, 3, image="images/val/p{:02}.png", mask="masks/val/p{:02}.png")
    if layout == "lists":
        (tmp_path / "train.txt").write_text("".join(f"p{k:02}\n" for k in range(12)))
    (tmp_path / f"masks/{below}p05.png").rename(tmp_path / f"masks/{below}p05.nii.gz")
    (fault,) = opened(tmp_path).faults
    assert f"{tmp_path}/masks/{below}p05.nii.gz is NIfTI, a medical volume" in fault.text


@pytest.mark.parametrize(
    ("images", "masks", "named"),
    [
        ("images/p{}.jpg", "masks/p{}.npz", "masks/p0.npz is a NumPy array"),
        ("images/p{}.jpg", "masks/train/p{}.mat", "masks/train/p0.mat is a MATLAB file"),
        ("imagesTr/p{}_0000.nii.gz", "labelsTr/p{}.nii.gz", "p0_0000.nii.gz is NIfTI"),
        ("scans/p{}.dcm", "labels.txt", "scans/p0.dcm is DICOM"),
        ("IMG_{}.HEIC", "IMG_{}.AAE", "IMG_0.HEIC is HEIC"),
        ("photos/p{}.jpg", "photos/p{}.json", "photos/p0.json is JSON, as labelling tools write"),
    ],
)
def test_folder_of_foreign_files_is_refused_with_what_they_are(images, masks, named, tmp_path):
    """Said was: a folder must have images/ and masks/, which it had."""
    for k in range(4):
        for pattern in (images, masks):
            path = tmp_path / pattern.format(k)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"0")
    with pytest.raises(UserError, match=f"is not a data set that is read: .*{named}") as caught:
        opened(tmp_path)
    assert "such files)" in str(caught.value) and "\n" not in str(caught.value)


def test_folder_of_pictures_with_one_list_is_no_foreign_format(tmp_path):
    for k in range(5):
        save(tmp_path / f"p{k}.png", stripes(k, 3)[0])
    (tmp_path / "settings.json").write_text("[]")
    (tmp_path / "colours.json").write_text("[]")
    with pytest.raises(UserError, match="is not a data set; a folder must have"):
        opened(tmp_path)


def test_masks_in_one_folder_for_each_class_are_explained(tmp_path):
    for k in range(12):
        image, mask = stripes(k, 3)
        save(tmp_path / f"images/p{k:02}.png", image)
        for index in (1, 2):
            save(tmp_path / f"masks/class{index}/p{k:02}.png", (mask == index) * mask)
    texts = [fault.text for fault in opened(tmp_path).faults]
    explained = [text for text in texts if "one folder for each class (class1/ ...)" in text]
    assert len(explained) == 12 and "class1/p00.png has no image" in explained[0]


def test_skipped_files_of_a_foreign_format_are_named(tmp_path, capsys):
    """Photograph and mask are in other formats: a fourth of the set was left out in silence."""
    write_set(tmp_path / "set", 12)
    for k in range(4):
        (tmp_path / f"set/images/q{k}.heic").write_bytes(b"0")
        (tmp_path / f"set/masks/q{k}.npz").write_bytes(b"0")
    left_out = prepare(tmp_path / "models", tmp_path / "set").left_out
    assert f"images/q0.heic: HEIC, the photo format of phones, {NOT_READ}, skipped" in left_out
    line = next(line for line in capsys.readouterr().out.splitlines() if "left out" in line)
    assert "8 skipped files, 4 of them such as images/q0.heic (HEIC, the photo format" in line
    assert "4 of them such as masks/q0.npz (a NumPy array" in line
