"""Augmentation moves image and mask together; batches depend on seed and epoch alone."""

import itertools

import numpy as np
import pytest

from pipeline.base.lazy import tf
from pipeline.data.classes import IGNORED
from pipeline.training import input_pipeline
from pipeline.training.input_pipeline import DRAWS, augment, epoch_batches
from pipeline.training.mirroring import Mirror
from tests.helpers.pictures import blobs

# Draws that leave an image as it is: not cropped, rotated, flipped or recoloured.
IDENTITY = np.array([1, 0.5, 1, *[0.5] * 9], np.float32)
GEOMETRY = slice(0, 6)


def noise(number, size=32):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, size, size, 3), np.uint8)
    return images, random.integers(0, 3, (number, size, size), np.uint8)


# --- augmentation -------------------------------------------------------------------------


def test_identity_draws_leave_the_image_as_it_is():
    images, masks = noise(4)
    moved, truth = augment(images, masks, np.tile(IDENTITY, (4, 1)))
    assert moved.dtype == tf.float32 and truth.dtype == tf.int32
    assert np.abs(moved.numpy() - images / 255).max() < 1 / 255
    assert (truth.numpy() == masks).all()


def test_flip_is_an_exact_mirror_image():
    images, masks = noise(2)
    draws = IDENTITY.copy()
    draws[2] = 0
    moved, truth = augment(images, masks, np.tile(draws, (2, 1)))
    assert np.abs(moved.numpy() - images[:, :, ::-1] / 255).max() < 1 / 255
    assert (truth.numpy() == masks[:, :, ::-1]).all()


def test_smallest_crop_enlarges_the_centre():
    size = 100
    ramp = np.tile(np.arange(size, dtype=np.uint8), (1, size, 1))
    draws = IDENTITY.copy()
    draws[0] = 0
    moved, _ = augment(np.repeat(ramp[..., None], 3, axis=3), ramp % 3, draws[None])
    row = moved.numpy()[0, 50, :, 0] * 255
    side = input_pipeline.SMALLEST_CROP * (size - 1)
    assert row[0] == pytest.approx((size - 1 - side) / 2, abs=1)
    assert row[-1] == pytest.approx((size - 1 + side) / 2, abs=1)


def test_image_and_mask_move_together():
    images, masks = blobs(32, 64)
    draws = np.tile(IDENTITY, (32, 1))
    draws[:, GEOMETRY] = np.random.default_rng(1).random((32, 6))
    moved, truth = augment(images, masks, draws)
    assert np.mean(truth.numpy() != masks) > 0.2, "nothing moved"
    by_colour = np.argmax(moved.numpy(), axis=-1)
    assert np.mean(by_colour == truth.numpy()) > 0.98


def test_colour_draws_recolour_the_image_and_leave_the_mask():
    images, masks = blobs(16, 32)
    draws = np.tile(IDENTITY, (16, 1))
    draws[:, 6:] = np.random.default_rng(1).random((16, 6))
    moved, truth = augment(images, masks, draws)
    assert (truth.numpy() == masks).all()
    change = np.abs(moved.numpy() - images / 255).mean(axis=(1, 2, 3))
    assert (change > 0.01).all() and (change < 0.3).all()
    assert moved.numpy().min() >= 0 and moved.numpy().max() <= 1


def test_portrait_image_is_rotated_and_not_sheared():
    """A square stays a square of its size in an image that is higher than wide."""
    images = np.zeros((1, 96, 64, 3), np.uint8)
    images[0, 40:56, 24:40] = 255
    draws = IDENTITY.copy()
    draws[3] = 1  # rotated by ROTATION
    moved, _ = augment(images, images[..., 0] // 255, draws[None])
    inside = moved.numpy()[0, :, :, 0] > 0.5
    rows, columns = np.nonzero(inside)
    assert inside.sum() == pytest.approx(16 * 16, rel=0.05)
    assert rows.mean() == pytest.approx(47.5, abs=0.5)
    assert columns.mean() == pytest.approx(31.5, abs=0.5)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)


def test_pixels_beyond_the_edges_are_mirrored_or_ignored():
    images, masks = noise(1)
    masks[:] = 1
    draws = IDENTITY.copy()
    draws[3] = 1
    _, mirrored = augment(images, masks, draws[None])
    assert (mirrored.numpy() == 1).all()
    moved, truth = augment(images, masks, draws[None], ignored=True)
    corner = truth.numpy()[0] == IGNORED
    assert 0.02 < corner.mean() < 0.3 and corner[0, 0] and not corner[16, 16]
    assert moved.numpy()[0, 0, 0].max() < 0.5 * moved.numpy().mean() + 0.1


def test_without_flips_no_example_is_mirrored_and_the_others_stay_the_same():
    images, masks = blobs(64, 32)
    draws = np.random.default_rng(5).random((64, DRAWS), np.float32)
    flipped = draws[:, 2] < 0.5
    as_usual, never = (
        augment(images, masks, draws, mirror=Mirror(flips))[0].numpy() for flips in (True, False)
    )
    assert 20 < flipped.sum() < 44
    np.testing.assert_array_equal(never[~flipped], as_usual[~flipped])
    # A draw above a half in the place of one below it is the example without its flip.
    other = draws.copy()
    other[flipped, 2] = 0.9
    np.testing.assert_array_equal(never, augment(images, masks, other)[0].numpy())
    assert (never[flipped] != as_usual[flipped]).any()


def test_classes_change_places_in_mirror_images_alone():
    images, masks = noise(8)
    masks[:, :4] = IGNORED
    draws = np.tile(IDENTITY, (8, 1))
    draws[:3, 2] = 0.1  # these are flipped
    _, usual = augment(images, masks, draws, ignored=True)
    _, swapped = augment(images, masks, draws, ignored=True, mirror=Mirror(classes=(2, 1, 0)))
    usual, swapped = usual.numpy(), swapped.numpy()
    np.testing.assert_array_equal(swapped[3:], usual[3:])
    for old, new in ((0, 2), (1, 1), (2, 0), (IGNORED, IGNORED)):
        assert (swapped[:3][usual[:3] == old] == new).all() and (usual[:3] == old).any()


# --- order --------------------------------------------------------------------------------


def numbered(count):
    """Images of one grey value each, their number; the mask is that number modulo 3."""
    values = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (count, 32, 32, 3))
    return images.copy(), np.broadcast_to(values[:, None, None] % 3, (count, 32, 32)).copy()


@pytest.fixture
def plain(monkeypatch):
    """Batches without augmentation."""
    monkeypatch.setattr(
        input_pipeline, "traced_augment", lambda: lambda images, masks, *_: (images, masks)
    )


def epoch_of(*arguments):
    return [(images.numpy(), masks.numpy()) for images, masks in epoch_batches(*arguments)]


def test_pieces_of_two_workers_with_two_devices_make_up_the_batch_of_one():
    images, masks = blobs(26, 32)
    whole = epoch_of(images, masks, 8, 7, 2)
    assert [len(batch) for batch, _ in whole] == [8, 8, 8]
    of_worker = [epoch_of(images, masks, 8, 7, 2, worker, 2, 2) for worker in (0, 1)]
    for number, (batch, truth) in enumerate(whole):
        pieces = [
            of_worker[worker][2 * number + device]
            for worker, device in itertools.product((0, 1), repeat=2)
        ]
        # Sums over an image run in an order that depends on the batch: the last bits differ.
        assert np.abs(np.concatenate([piece for piece, _ in pieces]) - batch).max() < 1e-5
        assert (np.concatenate([piece for _, piece in pieces]) == truth).all()


def test_epoch_shows_each_image_at_most_once_and_the_next_in_another_order(plain):
    images, masks = numbered(50)
    orders = [
        np.concatenate([batch[:, 0, 0, 0] for batch, _ in epoch_of(images, masks, 8, 7, epoch)])
        for epoch in range(6)
    ]
    for order in orders:
        assert len(order) == len(set(order)) == 48
    assert all((first != second).any() for first, second in itertools.pairwise(orders))
    assert len(set(np.concatenate(orders))) == 50, "some image is never shown"


def test_image_keeps_its_own_mask(plain):
    images, masks = numbered(50)
    for batch, truth in epoch_of(images, masks, 8, 7, 0):
        assert (batch[..., 0] % 3 == truth).all()


def test_batches_depend_on_seed_and_epoch_alone():
    images, masks = blobs(16, 32)
    batch = epoch_of(images, masks, 8, 7, 0)[0][0]
    assert (batch == epoch_of(images, masks, 8, 7, 0)[0][0]).all()
    assert (batch != epoch_of(images, masks, 8, 8, 0)[0][0]).any()
    assert (batch != epoch_of(images, masks, 8, 7, 1)[0][0]).any()


def test_autotuning_is_off():
    """An epoch could wait up to a minute for its thread, too rarely for a test of the time."""
    assert epoch_batches(*blobs(8, 32), 8, 7, 0).options().autotune.enabled is False
