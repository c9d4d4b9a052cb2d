"""Files in formats that are not read, as photographs or masks: what they are, what converts them.

A file is recognised by its content where that is at hand, else by its suffix.
"""

from __future__ import annotations

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
LABELME = Kind(
    "JSON, as labelling tools write it",
    (".json", ".xml"),
    "export the masks of your labelling tool as PNG, or one COCO JSON for all pictures",
)
KINDS = (HEIF, NUMPY, MATLAB, NIFTI, DICOM, HDF5, RAW, EXR, JXL, SVG, PDF, LABELME)

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
    return f"is {kind.name}, which is not read; {kind.remedy}"


def namesake(folder: Path, stem: str) -> tuple[Path, Kind] | None:
    """A file `stem` in a folder, of a format that is not read; None if there is none.

    Args:
        folder: where to look.
        stem: path below it, without suffix.
    """
    for kind in KINDS:
        for suffix in kind.suffixes:
            for spelling in (suffix, suffix.upper()):
                path = folder / f"{stem}{spelling}"
                if path.is_file():
                    return path, kind
    return None
