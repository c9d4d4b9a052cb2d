"""Magnitude pruning (unstructured): sets the smallest weights of the large kernels to zero.

Sparsity ramps up step by step (Zhu and Gupta, *To prune, or not to prune*, 2017), by
`prune_low_magnitude` of the TensorFlow Model Optimization Toolkit (TFMOT). Each layer gets as many
zeros as one threshold over all kernels would give it. SMALLEST_KERNEL and KEPT_DENSE decide which
kernels are pruned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from pipeline.base.console import UserError, progress, say
from pipeline.base.lazy import keras, layers, tf, tfmot
from pipeline.base.text_table import text_table
from pipeline.inference.iou import mean_iou, split_iou
from pipeline.inference.keras_files import KerasModel, is_convolution

# Weights of the smallest kernel that is pruned. Those below, near the image, hold 6 % of all
# weights and are the most sensitive.
SMALLEST_KERNEL = 9000
# First and last layer, which stay dense: they have few weights and are sensitive.
KEPT_DENSE = ("stem", "logits", "logits_block")
MASK_INTERVAL = 10  # steps between two updates of the pruning masks
LEAST_KEPT = 0.02  # fraction of each kernel, its largest weights, that stays at any threshold
# Fraction of the steps in which sparsity ramps up; the rest recover accuracy.
RAMP_FRACTION = 0.5
TOLERANCE = 0.01  # of the achieved sparsity, either way

SCAN_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # sparsities at which each layer is tried alone
SCAN_IMAGES = 128  # validation images of the sensitivity scan


def kernels(model: keras.Model, smallest: int = SMALLEST_KERNEL) -> dict[str, tf.Variable]:
    """The kernels that are pruned, by name of layer.

    Args:
        smallest: number of weights; smaller kernels stay dense.
    """
    return {
        layer.name: layer.kernel
        for layer in model.layers
        if is_convolution(layer)
        and layer.name not in KEPT_DENSE
        and layer.kernel.shape.num_elements() >= smallest
    }


def layer_shares(chosen: dict[str, tf.Variable], sparsity: float) -> dict[str, float]:
    """The sparsity of each kernel under one magnitude threshold for all of them.

    Global magnitude pruning (Blalock et al., *What is the state of neural network pruning?*, 2020):
    a kernel of many small weights gets more zeros than one of few.

    Args:
        chosen: kernels by name of layer.
        sparsity: fraction of zeros over all of them together, 0 to 1 - LEAST_KEPT.

    Returns:
        The fraction of zeros of each kernel, 0 to 1, by name of layer.
    """
    magnitudes = [np.sort(np.abs(kernel.numpy()), axis=None) for kernel in chosen.values()]
    for values in magnitudes:
        values[int(values.size * (1 - LEAST_KEPT)) :] = np.inf
    owners = np.repeat(np.arange(len(magnitudes)), [values.size for values in magnitudes])
    order = np.argsort(np.concatenate(magnitudes), kind="stable")
    smallest = order[: round(sparsity * owners.size)]
    zeros = np.bincount(owners[smallest], minlength=len(magnitudes))
    return {name: float(zeros[k] / magnitudes[k].size) for k, name in enumerate(chosen)}


def scan_sensitivity(
    model: keras.Model, images: np.ndarray, masks: np.ndarray
) -> list[dict[str, Any]]:
    """The drop of mean IoU when one layer alone has its smallest weights set to zero.

    It is measured without fine-tuning, and says little of the drop after fine-tuning
    (docs/choices.md). The weights of the model are restored.

    Args:
        images: uint8 (n, height, width, 3).
        masks: uint8 (n, height, width).

    Returns:
        A row per layer, in the order of the network: layer, weights, and for each of SCAN_LEVELS
        ("50%" ...) the drop.
    """
    predictor, rows = KerasModel(model), []
    dense = mean_iou(split_iou(predictor, images, masks))
    tried = kernels(model, 0)
    with progress("sensitivity", len(tried) * len(SCAN_LEVELS), "trials") as bar:
        for name, kernel in tried.items():
            values = kernel.numpy()
            row = {"layer": name, "weights": kernel.shape.num_elements()}
            magnitudes = np.sort(np.abs(values), axis=None)
            for level in SCAN_LEVELS:
                threshold = magnitudes[int(level * magnitudes.size)]
                kernel.assign(np.where(np.abs(values) >= threshold, values, 0))
                drop = dense - mean_iou(split_iou(predictor, images, masks))
                row[f"{level:.0%}"] = round(float(drop), 5)
                bar.update()
            kernel.assign(values)
            rows.append(row)
    return rows


def wrap(model: keras.Model, sparsity: dict[str, float], steps: int) -> keras.Model:
    """Return the model with the pruning wrapper of TFMOT around some of its layers.

    Sparsity ramps up from 0 by a cubic polynomial over the first RAMP_FRACTION of the steps. The
    layers are those of the given model, not copies.

    Args:
        sparsity: final fraction of zeros, 0 to 1, by name of layer; other layers are not wrapped.
        steps: of the whole fine-tuning.
    """
    ramp = int(steps * RAMP_FRACTION)
    interval = MASK_INTERVAL if ramp >= MASK_INTERVAL else 1  # a short run updates at every step
    updates = max(1, ramp // interval)  # the last one falls on the last step of the ramp

    def wrap_layer(layer: layers.Layer) -> layers.Layer:
        if layer.name not in sparsity:
            return layer
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            0.0,
            sparsity[layer.name],
            begin_step=0,
            end_step=updates * interval,
            frequency=interval,
        )
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    # Layer by layer: TFMOT refuses to wrap a whole model that calls functions such as reshape.
    return keras.models.clone_model(model, clone_function=wrap_layer)


def layer_sparsity(model: keras.Model, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Number of weights and fraction of zeros of the kernels of these layers, by name."""
    chosen = {name: model.get_layer(name).kernel for name in names}
    return {
        name: {
            "weights": kernel.shape.num_elements(),
            "sparsity": round(float(np.mean(kernel.numpy() == 0)), 4),
        }
        for name, kernel in chosen.items()
    }


def total_sparsity(per_layer: dict[str, dict[str, Any]]) -> float:
    """Fraction of zeros over all kernels of `layer_sparsity` together; 0 if there are none."""
    weights = sum(layer["weights"] for layer in per_layer.values())
    zeros = sum(layer["weights"] * layer["sparsity"] for layer in per_layer.values())
    return zeros / max(1, weights)


def choose_sparsity(
    model: keras.Model, sparsity: float, large_before: Collection[str] = ()
) -> dict[str, float]:
    """The sparsity of each kernel, by name of layer; empty for a sparsity of 0.

    Args:
        sparsity: fraction of zeros over all pruned kernels together.
        large_before: names of layers whose kernels were large enough before channels were removed.
            If no kernel is large enough any more, these are pruned.

    Raises:
        UserError: the model has no kernel that is large enough, nor had before.
    """
    if not sparsity:
        return {}
    every = kernels(model, 0)
    chosen = kernels(model) or {name: every[name] for name in large_before}
    if not chosen:
        raise UserError(
            f"no kernel of {model.name} has {SMALLEST_KERNEL:,} weights, so there is nothing to "
            "prune. Use --sparsity 0, or lower SMALLEST_KERNEL in pipeline/pruning/magnitude.py"
        )
    return layer_shares(chosen, sparsity)


def check_sparsity(
    per_layer: dict[str, dict[str, Any]], asked: dict[str, float], epochs: int
) -> float:
    """Prints the sparsity of each layer and returns that of all of them together.

    Args:
        per_layer: as `layer_sparsity` returns it.
        asked: sparsity by name of layer, see `choose_sparsity`.
        epochs: of the fine-tuning, for the message.

    Raises:
        UserError: the total differs from what was asked for by more than TOLERANCE.
    """
    if per_layer:
        cells = [
            (name, f"{layer['weights']:,}", f"{layer['sparsity']:.1%}")
            for name, layer in per_layer.items()
        ]
        say("\n" + "\n".join(text_table([("layer", -24), ("weights", 10), ("zeros", 9)], cells)))
    targets = {name: layer | {"sparsity": asked[name]} for name, layer in per_layer.items()}
    achieved, target = total_sparsity(per_layer), total_sparsity(targets)
    if abs(achieved - target) > TOLERANCE:
        raise UserError(
            f"the achieved sparsity {achieved:.3f} misses the {target:.3f} asked for; nothing was "
            f"written. Train for more steps: --epochs {2 * epochs}"
        )
    return achieved
