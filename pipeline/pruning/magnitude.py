"""Unstructured pruning: which kernels get zeros, how many, and which bear them.

The smallest weights become zero step by step (Zhu and Gupta, *To prune, or not to prune*, 2017, by
TFMOT's `prune_low_magnitude`), as many in each layer as one threshold for all of them would cut.
What is pruned is decided here, by SMALLEST_KERNEL and KEPT_DENSE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.base.console import progress
from pipeline.base.lazy import keras, layers, tf, tfmot
from pipeline.inference.iou import mean_iou
from pipeline.inference.keras_files import is_convolution, validation_iou

# Weights. The smaller kernels, near the image, hold 6 % of all and break first.
SMALLEST_KERNEL = 9000
KEPT_DENSE = ("stem", "logits", "logits_block")  # first and last layer: few weights, each needed
MASK_INTERVAL = 10  # steps between two updates of the masks
LEAST_KEPT = 0.02  # of the weights of each kernel, the largest, whatever the threshold is
RISING_SHARE = 0.5  # of the steps, over which sparsity rises; the rest of them mend

SCAN_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # sparsities at which each layer is tried alone
SCAN_IMAGES = 128  # validation images for it


def kernels(model: keras.Model, smallest: int = SMALLEST_KERNEL) -> dict[str, tf.Variable]:
    """The kernels, by layer, that may get zeros: those of at least `smallest` weights."""
    return {
        layer.name: layer.kernel
        for layer in model.layers
        if is_convolution(layer)
        and layer.name not in KEPT_DENSE
        and layer.kernel.shape.num_elements() >= smallest
    }


def layer_shares(chosen: dict[str, tf.Variable], sparsity: float) -> dict[str, float]:
    """Share of zeros of each kernel, if the smallest weights of all of them together become zero.

    One threshold for all layers (Blalock et al., *What is the state of neural network pruning?*,
    2020): layers of many small weights get more zeros than those of few large ones.

    Args:
        chosen: the kernels by layer.
        sparsity: share of zeros over all of them, 0 to 1 - LEAST_KEPT.
    """
    sizes = [np.sort(np.abs(kernel.numpy()), axis=None) for kernel in chosen.values()]
    for values in sizes:
        values[int(values.size * (1 - LEAST_KEPT)) :] = np.inf
    owners = np.repeat(np.arange(len(sizes)), [values.size for values in sizes])
    smallest = np.argsort(np.concatenate(sizes), kind="stable")[: round(sparsity * owners.size)]
    cut = np.bincount(owners[smallest], minlength=len(sizes))
    return {name: float(cut[k] / sizes[k].size) for k, name in enumerate(chosen)}


def scan_sensitivity(
    model: keras.Model, images: np.ndarray, masks: np.ndarray
) -> list[dict[str, Any]]:
    """What each layer costs in mean IoU when it alone has its smallest weights set to zero.

    Before any fine-tuning, after which the picture may be another: what a layer bears here says
    little of what it bears then (docs/choices.md). The model is left as it was.

    Returns:
        A row per layer, in the order of the network: layer, weights, and for each of SCAN_LEVELS
        the drop.
    """
    whole, rows = mean_iou(validation_iou(model, images, masks)), []
    every = kernels(model, 0)
    with progress("sensitivity", len(every) * len(SCAN_LEVELS), "trials") as bar:
        for name, kernel in every.items():
            values, row = kernel.numpy(), {"layer": name, "weights": kernel.shape.num_elements()}
            sizes = np.sort(np.abs(values), axis=None)
            for level in SCAN_LEVELS:
                kernel.assign(np.where(np.abs(values) >= sizes[int(level * sizes.size)], values, 0))
                drop = whole - mean_iou(validation_iou(model, images, masks))
                row[f"{level:.0%}"] = round(float(drop), 5)
                bar.update()
            kernel.assign(values)
            rows.append(row)
    return rows


def wrap(model: keras.Model, sparsity: dict[str, float], steps: int) -> keras.Model:
    """The model with TFMOT's pruning wrapper around each layer named in `sparsity`.

    Sparsity rises by a cubic polynomial from 0 over the first RISING_SHARE of `steps`. The layers
    are the given model's own, not copies.
    """
    rise = int(steps * RISING_SHARE)
    interval = MASK_INTERVAL if rise >= MASK_INTERVAL else 1  # a short run updates at every step
    updates = max(1, rise // interval)  # the last one falls on the last step of the rise

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

    # One by one: wrapping the whole model refuses the functional depth_to_space call.
    return keras.models.clone_model(model, clone_function=wrap_layer)


def layer_sparsity(model: keras.Model, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Weights and share of zeros of the kernels of these layers."""
    chosen = {name: model.get_layer(name).kernel for name in names}
    return {
        name: {
            "weights": kernel.shape.num_elements(),
            "sparsity": round(float(np.mean(kernel.numpy() == 0)), 4),
        }
        for name, kernel in chosen.items()
    }


def total_sparsity(per_layer: dict[str, dict[str, Any]]) -> float:
    """Share of zeros over all these kernels; 0 if there are none."""
    weights = sum(layer["weights"] for layer in per_layer.values())
    zeros = sum(layer["weights"] * layer["sparsity"] for layer in per_layer.values())
    return zeros / max(1, weights)
