"""Photos with their masks: what an overlay keeps of the photo, and the picture of a data set."""

import numpy as np

from pipeline import charts, pictures
from pipeline.dataset import CLASSES


def test_overlay_mixes_photo_and_colour_of_the_class():
    image = np.full((1, 3, 3), 200, np.uint8)
    drawn = pictures.overlay(image, np.array([[0, 1, 2]]))
    assert drawn.dtype == np.uint8
    for pixel, colour, strength in zip(drawn[0], pictures.COLOURS, pictures.STRENGTHS):
        expected = 200 * (1 - strength) + colour * strength
        np.testing.assert_allclose(pixel, expected, atol=1)


def test_pet_stays_brighter_than_background():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    pet, background, border = (
        pictures.overlay(image, np.full((32, 32), CLASSES.index(name))).mean()
        for name in ("pet", "background", "border")
    )
    assert background < pet < border


def test_picture_of_a_data_set_has_photo_mask_and_overlay_of_each_example(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 16, 16, 3), np.uint8)
    masks = random.integers(0, 3, (3, 16, 16)).astype(np.uint8)
    figure = pictures.examples(images, masks, "Three examples")
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    expected = [*images, *pictures.COLOURS[masks]]
    expected += [pictures.overlay(*pair) for pair in zip(images, masks)]
    assert len(shown) == len(expected) == 9
    for one, other in zip(shown, expected):
        np.testing.assert_array_equal(one, other)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASSES)
    charts.save(figure, tmp_path / "dataset.jpg")
    assert (tmp_path / "dataset.jpg").stat().st_size > 1000
