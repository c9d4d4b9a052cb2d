"""This project's training loop against the plain way to train the same network, in one run.

    python tests/benchmarks/against_plain_training.py --models-dir models

Plain is what the Keras example for this data set does: photographs and masks lie encoded on disk,
tf.data decodes and resizes each in every epoch, augments image by image, and `model.fit` trains.
Ours is `input_pipeline.epoch_batches` with `loop.make_train_step`. They take turns. Writes only
temporary files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from input_pipeline import real_batches, train_step

import training
from pipeline.base import console
from pipeline.base.artifacts import MODELS_DIR
from pipeline.base.lazy import keras, tf
from pipeline.data.dataset import load_classes, load_split
from pipeline.training import networks
from pipeline.training.input_pipeline import COLOUR_CHANGE


def plain_data(
    folder: Path, images: np.ndarray, masks: np.ndarray, batch_size: int, photo_size: int
) -> tf.data.Dataset:
    """Writes photographs and masks as files; returns batches, decoded anew in every epoch."""
    size = images.shape[1]
    box = (photo_size, photo_size * 3 // 4)
    for number, (image, mask) in enumerate(zip(images, masks)):
        photo = Image.fromarray(image).resize(box, Image.Resampling.BICUBIC)
        photo.save(folder / f"{number:05}.jpg")
        trimap = Image.fromarray(mask + 1).resize(box, Image.Resampling.NEAREST)
        trimap.save(folder / f"{number:05}.png")

    def load(name: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.decode_jpeg(tf.io.read_file(name + ".jpg"), channels=3)
        image = tf.image.resize(image, (size, size)) / 255
        mask = tf.image.decode_png(tf.io.read_file(name + ".png"), channels=1)
        mask = tf.image.resize(mask, (size, size), "nearest")
        return image, tf.cast(mask, tf.int32)[..., 0] - 1

    def change(image: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if tf.random.uniform(()) < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        side = int(0.8 * size)
        top, left = (tf.random.uniform((), 0, size - side, tf.int32) for _ in range(2))
        image = image[top : top + side, left : left + side]
        mask = mask[top : top + side, left : left + side]
        image = tf.image.resize(image, (size, size))
        mask = tf.image.resize(mask[..., None], (size, size), "nearest")[..., 0]
        least, most = 1 - COLOUR_CHANGE, 1 + COLOUR_CHANGE
        image = tf.image.random_brightness(image, COLOUR_CHANGE)
        image = tf.image.random_contrast(image, least, most)
        image = tf.image.random_saturation(image, least, most)
        return tf.clip_by_value(image, 0.0, 1.0), mask

    names = [str(folder / f"{number:05}") for number in range(len(images))]
    data = tf.data.Dataset.from_tensor_slices(names).shuffle(1000)
    data = data.map(load, tf.data.AUTOTUNE).map(change, tf.data.AUTOTUNE)
    return data.repeat().batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def main() -> None:
    """Prints the images per second of either way, turn by turn and as medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR)
    parser.add_argument("--architecture", choices=tuple(networks.NETWORKS), default="compact")
    parser.add_argument("--batch-size", type=int, default=training.BATCH_SIZE)
    parser.add_argument(
        "--images", type=int, default=640, help="of the training split (default: %(default)s)"
    )
    parser.add_argument(
        "--photo-size",
        type=int,
        default=500,
        help="width of the photographs that plain decodes (default: %(default)s, as the originals)",
    )
    parser.add_argument("--turns", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="per turn (default: %(default)s)")
    arguments = parser.parse_args()
    split = load_split(arguments.models_dir, "train")
    images, masks = (np.array(part[: arguments.images]) for part in split)
    size, batch_size, steps = images.shape[1], arguments.batch_size, arguments.steps
    build = networks.NETWORKS[arguments.architecture]
    classes = len(load_classes(arguments.models_dir))

    step = train_step(build((size, size), classes))
    batches = real_batches(images, masks, batch_size)
    plain = build((size, size), classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.Adam(1e-3), loss)

    def ours_turn() -> None:
        for _ in range(steps):
            loss = step(*next(batches))
        float(loss)  # wait for the device

    with tempfile.TemporaryDirectory() as folder:
        data = iter(plain_data(Path(folder), images, masks, batch_size, arguments.photo_size))

        def plain_turn() -> None:
            plain.fit(data, steps_per_epoch=steps, verbose=0)

        for _ in range(2):  # tracing and warm-up
            ours_turn()
            plain_turn()
        rates = {"ours": [], "plain": []}
        for turn in range(arguments.turns):
            for name, train in (("ours", ours_turn), ("plain", plain_turn)):
                started = time.perf_counter()
                train()
                rates[name].append(steps * batch_size / (time.perf_counter() - started))
            both = [f"{name} {values[-1]:.1f} images/s" for name, values in rates.items()]
            console.say(f"turn {turn + 1}: {', '.join(both)}")
        one, other = np.median(rates["ours"]), np.median(rates["plain"])
        both = f"ours {one:.1f} images/s, plain {other:.1f} images/s"
        console.say(f"median: {both}, ratio {one / other:.2f}")


if __name__ == "__main__":
    console.run(main)
