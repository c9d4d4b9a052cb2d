"""Files in formats that are not read, as photographs or masks: what they are, what converts them.

A file is recognised by its content where that is at hand, else by its suffix.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.data.decoding import Source, open_file


class Kind(NamedTuple):
    """A format that is not read."""

    name: str
    suffixes: tuple[str, ...]  # in lower case
    remedy: str  # what converts it


HEIF = Kind(
    "HEIC, the photo format of phones",
    (".heic", ".heif", ".hif"),
    "convert it to JPEG: heif-convert IN.heic OUT.jpg (of libheif)",
)
NUMPY = Kind(
    "a NumPy array",
    (".npy", ".npz"),
    "save it as PNG: PIL.Image.fromarray(numpy.load('IN.npy')).save('OUT.png')",
)
MATLAB = Kind(
    "a MATLAB file",
    (".mat",),
    "save its array as PNG: scipy.io.loadmat('IN.mat'), then PIL.Image.fromarray(...).save(...); "
    "or imwrite in MATLAB",
)
NIFTI = Kind(
    "NIfTI, a medical volume",
    (".nii", ".nii.gz"),
    "save its slices as PNG: nibabel.load('IN.nii.gz').get_fdata(), then PIL.Image.fromarray(...)",
)
DICOM = Kind(
    "DICOM, a medical picture",
    (".dcm", ".dicom"),
    "save it as PNG: dcm2img IN.dcm OUT.png (of DCMTK), or pydicom.dcmread('IN.dcm').pixel_array",
)
HDF5 = Kind(
    "HDF5",
    (".h5", ".hdf5"),
    "save its arrays as PNG: h5py.File('IN.h5'), then PIL.Image.fromarray(...).save(...)",
)
RAW = Kind(
    "a camera's raw file",
    (".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dng"),
    "develop it to PNG or JPEG, as with darktable-cli IN.dng OUT.png",
)
EXR = Kind("OpenEXR", (".exr",), "save it as TIFF or PNG: oiiotool IN.exr -o OUT.tif")
JXL = Kind("JPEG XL", (".jxl",), "convert it to PNG: djxl IN.jxl OUT.png (of libjxl)")
SVG = Kind("SVG, a drawing", (".svg",), "draw it as PNG: rsvg-convert IN.svg -o OUT.png")
PDF = Kind("PDF", (".pdf",), "draw its pages as PNG: pdftoppm -png IN.pdf OUT (of poppler)")
VIDEO = Kind(
    "a video",
    (".mp4", ".avi", ".mov", ".mkv", ".webm"),
    "save its frames as PNG: ffmpeg -i IN.mp4 OUT_%05d.png",
)
LABELME = Kind(
    "JSON, as labelling tools write it",
    (".json", ".xml"),
    "export the masks of your labelling tool as PNG, or one COCO JSON for all pictures",
)
KINDS = (HEIF, NUMPY, MATLAB, NIFTI, DICOM, HDF5, RAW, EXR, JXL, SVG, PDF, VIDEO, LABELME)

NOT_READ = "which is not read"
MOST_LOOKED_AT = 20_000  # files of a folder
HEAD = 512  # bytes of a file that tell its format
SIGNATURES = (  # offset, bytes, format
    (0, b"\x93NUMPY", NUMPY),
    (0, b"MATLAB 5.0", MATLAB),
    (344, b"n+1\0", NIFTI),
    (344, b"ni1\0", NIFTI),
    (128, b"DICM", DICOM),
    (0, b"\x89HDF\r\n", HDF5),
    (0, b"\x76\x2f\x31\x01", EXR),
    (0, b"\xff\x0a", JXL),
    (0, b"\0\0\0\x0cJXL ", JXL),
    (0, b"%PDF", PDF),
    (0, b"<svg", SVG),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def kind_of_name(name: str) -> Kind | None:
    """The format that is not read and has the suffix of this file name; None if none has."""
    return next((kind for kind in KINDS if name.lower().endswith(kind.suffixes)), None)


def kind_of_content(source: Source) -> Kind | None:
    """The format that is not read and begins like this file; else that of its suffix, or None."""
    with open_file(source) as file:
        head = file.read(HEAD)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        return HEIF
    for offset, signature, kind in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    return None if isinstance(source, bytes) else kind_of_name(source.name)


def describe(kind: Kind) -> str:
    """What a message says of such a file, after its name."""
    return f"is {kind.name}, {NOT_READ}; {kind.remedy}"


def by_tail(names: Iterable[str]) -> dict[str, list[tuple[str, Kind]]]:
    """Files in formats that are not read, by every end of their path, without suffix.

    Args:
        names: paths of files, "masks/train/a.npy". It is found by "a", "train/a", and so on.
    """
    files: dict[str, list[tuple[str, Kind]]] = {}
    for name in names:
        if kind := kind_of_name(name):
            suffix = next(end for end in reversed(kind.suffixes) if name.lower().endswith(end))
            parts = unicodedata.normalize("NFC", name[: -len(suffix)]).split(os.sep)
            for start in range(len(parts)):
                files.setdefault("/".join(parts[start:]), []).append((name, kind))
    return files


def commonest_below(folder: Path) -> str:
    """The message on a folder that holds more files in one format that is not read than pictures.

    "" if it holds no such files.
    """
    files: dict[Kind, list[Path]] = {}
    others = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if kind := kind_of_name(name):
                files.setdefault(kind, []).append(Path(parent, name))
            others += not kind
        if others + sum(map(len, files.values())) > MOST_LOOKED_AT:
            break
    if not files:
        return ""
    kind = max(files, key=lambda kind: len(files[kind]))
    number = len(files[kind])
    if kind is LABELME and 2 * number < others:  # a list of pictures, or settings
        return ""
    more = f" ({number} such files)" if number > 1 else ""
    return f"{files[kind][0]} {describe(kind)}{more}"
