"""Photos with their masks: the colours of an overlay, and the picture of a data set."""

import numpy as np

from pipeline.data.classes import IGNORED, make_classes
from pipeline.report import charts, overlays

THREE = make_classes(("cat", "dog", "floor"))


def test_overlay_mixes_photo_and_colour_of_the_class():
    image = np.full((1, 4, 3), 200, np.uint8)
    drawn = overlays.overlay(image, np.array([[0, 1, 2, IGNORED]], np.uint8), THREE)
    assert drawn.dtype == np.uint8
    for pixel, colour in zip(drawn[0], THREE.colours):
        np.testing.assert_allclose(pixel, (200 + np.array(colour)) / 2, atol=1)
    assert drawn[0, 3].tolist() == [200, 200, 200], "a pixel of no class stays as it is"


def test_picture_of_a_data_set_has_photo_mask_and_overlay_of_each_example(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 16, 32, 3), np.uint8)
    masks = random.choice(np.array([0, 2, IGNORED], np.uint8), (3, 16, 32))
    figure = overlays.examples(images, masks, "Three examples", THREE)
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    expected = [*images, *THREE.palette[masks]]
    expected += [overlays.overlay(*pair, THREE) for pair in zip(images, masks)]
    assert len(shown) == len(expected) == 9
    for pixels, expected_pixels in zip(shown, expected):
        np.testing.assert_array_equal(pixels, expected_pixels)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["cat", "floor"], "only the classes that the masks contain"
    charts.save(figure, tmp_path / "dataset.jpg")
    assert (tmp_path / "dataset.jpg").stat().st_size > 1000
