"""Decoding an example: any size and mode, image and mask stay aligned; threads."""

import os
import threading
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from pipeline.base import system
from pipeline.data.classes import IGNORED, make_classes
from pipeline.data.decoding import TURNS
from pipeline.data.fitting import fitted_box
from pipeline.data.image_reader import Unreadable
from pipeline.data.label_mapping import Meaning
from pipeline.data.sample_source import CHUNK, READING, Picture, Sample, decode, in_threads
from tests.helpers.drawn_sets import stripes
from tests.helpers.pictures import encoded, halves, photograph

SIZE = (64, 64)
TRIMAP = Meaning(make_classes(("pet", "background", "border")), {1: 0, 2: 1, 3: 2}, frozenset())
MODES = {
    "landscape": (500, 375, lambda image: encoded(image, quality=95)),
    "portrait": (333, 500, lambda image: encoded(image, quality=95)),
    "smaller than the square": (50, 40, lambda image: encoded(image, "png")),
    "RGBA": (500, 375, lambda image: encoded(image.convert("RGBA"), "png")),
    "palette": (333, 500, lambda image: encoded(image.quantize(), "png")),
    "CMYK": (500, 375, lambda image: encoded(image.convert("CMYK"), quality=95)),
}


def decoded(image, mask, size=SIZE, fit="stretch", meaning=TRIMAP):
    sample = Sample("1", Picture(image, "photo"), Picture(mask, "mask"))
    return decode(sample, meaning, READING, size, fit)


@pytest.mark.parametrize("mode", MODES)
def test_photograph_of_any_size_and_mode_is_decoded(mode):
    width, height, encode = MODES[mode]
    image, mask = decoded(encode(photograph(width, height)), encoded(halves(width, height), "png"))
    edge = 64 * (width // 2) / width
    left, right = int(edge - 2), int(edge + 3)
    assert (mask[:, :left] == 0).all() and (mask[:, right:] == 1).all()
    assert set(np.unique(mask)) == {0, 1}
    assert np.abs(image[:, :left].astype(int) - (220, 40, 60)).max() <= 6
    assert np.abs(image[:, right:].astype(int) - (30, 90, 200)).max() <= 6


def test_grey_photograph_becomes_three_equal_channels():
    grey = photograph(500, 375).convert("L")
    image, mask = decoded(encoded(grey, quality=95), encoded(halves(500, 375), "png"))
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
    assert abs(int(image[5, 5, 0]) - grey.getpixel((5, 5))) <= 3
    assert np.mean(mask == 0) == 0.5


def test_shrinking_averages_pixels_but_not_classes():
    """Stripes one pixel wide: the image turns grey, and the mask gets no class between the two."""
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[:, ::2] = 255
    trimap = np.where(np.indices((512, 512)).sum(axis=0) % 2, 1, 3).astype(np.uint8)
    image, mask = decoded(*(encoded(Image.fromarray(array), "png") for array in (lines, trimap)))
    assert np.abs(image.astype(int) - 127).max() <= 6
    assert set(np.unique(mask)) <= {0, 2}


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("shape", [(120, 40), (40, 120), (64, 64)])
def test_mask_and_image_stay_aligned(size, fit, shape):
    """Red in the image is the class index; padding is black there and ignored in the mask."""
    meaning = Meaning(make_classes(("a", "b"), ignored=True), {0: 0, 1: 1}, frozenset())
    pixels, truth = stripes(0, 2, *shape)
    files = (encoded(Image.fromarray(array), "png") for array in (pixels, truth))
    image, mask = decoded(*files, size, fit, meaning)
    assert image.shape == (*size, 3) and mask.shape == size
    outside = mask == IGNORED
    left, top, right, bottom = (int(edge) for edge in fitted_box(shape, size, fit))
    if fit == "pad":
        assert not outside[top:bottom, left:right].any()
        assert outside.sum() == mask.size - (right - left) * (bottom - top)
        assert (image[outside] == 0).all()
    else:
        assert not outside.any()
    assert ((image[..., 0] > 127) == (mask == 1))[~outside].mean() > 0.96


def test_mask_of_another_resolution_is_padded_like_its_image():
    """Fitted by its own size, a mask of 64 x 33 pixels would be one row lower than its image."""
    meaning = Meaning(make_classes(("a", "b"), ignored=True), {0: 0, 1: 1}, frozenset())
    pixels, truth = stripes(0, 2, 640, 336)
    small = Image.fromarray(truth).resize((64, 33), Image.Resampling.NEAREST)
    files = encoded(Image.fromarray(pixels + 1), "png"), encoded(small, "png")
    image, mask = decoded(*files, (64, 64), "pad", meaning)
    assert fitted_box((640, 336), (64, 64), "pad") != fitted_box((64, 33), (64, 64), "pad")
    assert ((mask != IGNORED) == image.any(axis=-1)).all()


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_sideways_photograph_and_its_mask_are_turned_upright(drawn_on):
    """A phone stores pixels sideways; masks are drawn on the upright or on the stored picture."""
    pixels, truth = (Image.fromarray(array) for array in stripes(1, 3, 60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encoded(pixels.transpose(TURNS[8]), "png", exif=exif.tobytes())
    mask = truth if drawn_on == "upright" else truth.transpose(TURNS[8])
    meaning = Meaning(make_classes(("a", "b", "c")), {0: 0, 1: 1, 2: 2}, frozenset())
    turned = decoded(stored, encoded(mask, "png"), meaning=meaning)
    expected = decoded(encoded(pixels, "png"), encoded(truth, "png"), meaning=meaning)
    for array, expected_array in zip(turned, expected):
        np.testing.assert_array_equal(array, expected_array)


@pytest.mark.parametrize("broken", ["photo", "mask"])
def test_damaged_file_is_named(broken):
    files = {"photo": encoded(photograph(80, 60)), "mask": encoded(halves(80, 60), "png")}
    files[broken] = files[broken][:60]
    with pytest.raises(Unreadable, match=f"^{broken} "):
        decoded(files["photo"], files["mask"])


def test_mask_that_changed_since_the_audit_is_named():
    with pytest.raises(Unreadable, match=r"^mask has changed since the audit$"):
        decoded(encoded(photograph(80, 60)), encoded(Image.new("L", (80, 60), 9), "png"))


def test_threads_keep_the_order_and_few_examples_in_memory():
    alive, most, number = 0, 0, 3 * CHUNK + 5

    class Watched(bytes):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def stream():
        nonlocal alive, most
        for k in range(number):
            alive += 1
            most = max(most, alive)
            yield Sample(str(k), Picture(Watched(b"%d" % k), ""), Picture(b"", ""))

    class Bar:
        count = 0

        def update(self):
            self.count += 1

    bar = Bar()
    work = in_threads(lambda sample: int(sample.image.fetch()), stream(), bar)
    assert [result for _, result in work] == list(range(number)) and bar.count == number
    assert most <= 2 * CHUNK + 1


def test_samples_are_read_on_as_many_threads_as_this_process_has_cores(monkeypatch):
    """In a container, taskset or a batch job, the machine may have many more."""
    monkeypatch.setattr(system, "available_cores", lambda: list(range(2 * os.cpu_count() + 1)))
    number, names = system.cores(), set()
    started = threading.Barrier(number, timeout=20)

    def work(sample):
        names.add(threading.current_thread().name)
        if int(sample.id) < number:
            started.wait()  # until so many threads are here, each with a sample of its own

    samples = (Sample(str(k), Picture(b"", ""), Picture(b"", "")) for k in range(2 * number))
    assert len(list(in_threads(work, samples, mock.Mock()))) == 2 * number
    assert len(names) == number


def test_lazy_pictures_give_the_same_arrays():
    image, mask = (encoded(picture, "png") for picture in (photograph(80, 60), halves(80, 60)))
    direct = decoded(image, mask)
    lazy = decoded(lambda: image, lambda: mask)
    assert all((first == second).all() for first, second in zip(direct, lazy))
