"""Stage 3 of 5: set the smallest weights to zero, and train the others to make up for it.

Reads   models/original_model.h5, models/dataset/
Writes  models/pruned_model.h5          same network, most weights zero
        models/pruned_training.csv      the fine-tuning, epoch by epoch
        models/pruned_training.png      the same as curves

    python pruning.py
    python pruning.py --sparsity 0.8 --epochs 20

On two CPU cores shared with other jobs the default took 12 minutes; validation mean IoU went from 0.7711 to 0.7696.

Zeros do not shrink the .h5 file and do not speed up dense kernels. They show after compression
(gzip, which app stores and updates use) and on kernels made for them; evaluation.py prints both.

The smallest weights of each layer are zeroed step by step (Zhu and Gupta, *To prune, or not to prune*,
2017, by TFMOT's `prune_low_magnitude`) while the network learns from the masks and from the
original network's own predictions (distillation: Hinton, Vinyals and Dean 2015).
"""

from __future__ import annotations

import argparse
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from training import draw_curves, fit, load_model, make_optimizer, save_model, segmentation_loss

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tf_keras import layers

SPARSITY = 0.6  # share of zeros in each pruned layer's kernel
EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 50
PRUNING_SHARE = 0.5  # of the steps, over which sparsity rises; the rest of them mend
MASK_INTERVAL = 10  # steps between two updates of the masks
DISTILLATION_WEIGHT = 1.0  # of the original network's predictions, beside the masks
SMALLEST_KERNEL = 9000  # weights; the smaller kernels, near the image, hold 6 % of them and break first
KEPT_DENSE = ("stem", "logits", "logits_2x2")  # the first and last layer: few weights, each needed
TOLERANCE = 0.01  # between asked and achieved sparsity


def is_prunable(layer: layers.Layer) -> bool:
    """Plain and transposed convolutions with kernels worth it; depthwise kernels hold few weights."""
    kind = isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)
    return kind and layer.name not in KEPT_DENSE and layer.kernel.shape.num_elements() >= SMALLEST_KERNEL


def wrap(model: keras.Model, sparsity: float, steps: int) -> keras.Model:
    """The model with TFMOT's pruning wrapper around each prunable layer.

    Sparsity rises by a cubic polynomial from 0 over the first PRUNING_SHARE of `steps`. The layers are
    the given model's own, not copies.
    """
    updates = max(1, int(steps * PRUNING_SHARE) // MASK_INTERVAL)  # the last one falls on the last step of the rise
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=updates * MASK_INTERVAL,
                                                    frequency=MASK_INTERVAL)  # fmt: skip

    def wrap_layer(layer: layers.Layer) -> layers.Layer:
        if is_prunable(layer):
            return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
        return layer

    # One by one: wrapping the whole model refuses the functional depth_to_space call.
    return keras.models.clone_model(model, clone_function=wrap_layer)


def distillation_loss(teacher_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy against the teacher's class probabilities; float32 logits (batch, height, width, classes)."""
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher_logits), logits))


def layer_sparsity(model: keras.Model) -> dict[str, dict[str, Any]]:
    """Weights and share of zeros of each prunable layer's kernel."""
    return {layer.name: {"weights": layer.kernel.shape.num_elements(),
                         "sparsity": round(float(np.mean(layer.kernel.numpy() == 0)), 4)}
            for layer in model.layers if is_prunable(layer)}  # fmt: skip


def total_sparsity(per_layer: dict[str, dict[str, Any]]) -> float:
    """Share of zeros over all prunable kernels."""
    weights = sum(layer["weights"] for layer in per_layer.values())
    return sum(layer["weights"] * layer["sparsity"] for layer in per_layer.values()) / weights


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--sparsity", type=pipeline.bounded(float, 0.0, 0.98), default=SPARSITY, metavar="SHARE",
                        help="share of zeros in each pruned kernel, 0 to 0.98 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--epochs", type=pipeline.bounded(int, 1), default=EPOCHS,
                        help="of fine-tuning (default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch-size", type=pipeline.bounded(int, 1), default=BATCH_SIZE,
                        help="images per step (default: %(default)s)")  # fmt: skip
    parser.add_argument("--learning-rate", type=pipeline.bounded(float, 0), default=LEARNING_RATE,
                        help="peak learning rate of AdamW (default: %(default)s)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from an unfinished run of the same settings")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises pipeline.UserError for what the user can mend."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    stage = pipeline.Stage(__file__, arguments)
    stage.require("dataset", "original")
    if arguments.if_needed and stage.up_to_date("pruned"):
        return

    keras.utils.set_random_seed(arguments.seed)
    data_set = pipeline.read_record(models_dir, "dataset")
    steps = arguments.epochs * (data_set["splits"]["train"]["examples"] // arguments.batch_size)
    teacher = load_model(models_dir, "original")
    student = wrap(load_model(models_dir, "original"), arguments.sparsity, steps)
    # No moving average: an average of weights pruned at different times is not sparse.
    optimizer = make_optimizer(steps, arguments.learning_rate, WARM_UP_STEPS, average=False)

    def loss(images: tf.Tensor, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        imitation = distillation_loss(teacher(images, training=False), logits)
        return segmentation_loss(masks, logits) + DISTILLATION_WEIGHT * imitation

    callback = tfmot.sparsity.keras.UpdatePruningStep()  # called where Keras' own fit would call it
    callback.set_model(student)
    callback.on_train_begin()

    rising = int(arguments.epochs * PRUNING_SHARE) if arguments.epochs > 1 else 0
    history = fit(student, optimizer, stage, "pruned", epochs=arguments.epochs, batch_size=arguments.batch_size,
                  seed=arguments.seed, loss=loss, resume=arguments.resume,
                  after_epoch=lambda: callback.on_epoch_end(None), choose_from=rising)  # fmt: skip

    pruned = tfmot.sparsity.keras.strip_pruning(student)
    per_layer = layer_sparsity(pruned)
    pipeline.say(f"\n{'layer':24}{'weights':>10}{'zeros':>9}")
    for name, layer in per_layer.items():
        pipeline.say(f"{name:24}{layer['weights']:>10,}{layer['sparsity']:>9.1%}")
    achieved = total_sparsity(per_layer)
    if abs(achieved - arguments.sparsity) > TOLERANCE:
        raise pipeline.UserError(f"achieved sparsity {achieved:.3f} misses the {arguments.sparsity:.3f} asked for; "
                                 f"nothing was written. Give it more steps: --epochs {2 * arguments.epochs}")  # fmt: skip

    best = max(history[rising:], key=lambda row: row["mean_iou"])
    metrics = {"sparsity": round(achieved, 4), "layers": per_layer, "parameters": pruned.count_params(),
               "best_epoch": best["epoch"], "validation_mean_iou": best["mean_iou"]}  # fmt: skip
    with stage.new_artifact("pruned", metrics) as path:
        save_model(pruned, path)
    draw_curves(models_dir / "pruned_training.png", history, f"fine-tuning at {arguments.sparsity:.0%} zeros")
    pipeline.say(f"wrote {pipeline.artifact_path(models_dir, 'pruned')}: {achieved:.1%} zeros, validation mean IoU "
                 f"{best['mean_iou']:.4f} (epoch {best['epoch']}) in {stage.seconds() / 60:.1f} min")  # fmt: skip


if __name__ == "__main__":
    pipeline.run(main)
