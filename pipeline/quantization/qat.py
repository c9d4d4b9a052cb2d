"""Quantization-aware training (QAT): fine-tuning with simulated int8 rounding.

(Jacob et al., *Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference*, 2018.) The script imports this module only for `--qat`, because
its class derives from one of Keras, which takes seconds to load.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.base.artifacts import read_record
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.base.stage import Stage
from pipeline.inference.keras_files import kernel_name, load_model
from pipeline.inference.tflite_files import operators
from pipeline.quantization.convert import convert
from pipeline.training.input_pipeline import steps_per_epoch
from pipeline.training.loop import Phase, Trained, fit
from pipeline.training.losses import recorded_objective
from pipeline.training.optimizers import make_optimizer
from pipeline.training.views import distillation_pair

LONGEST_REASON = 160  # characters of an exception's text
LEARNING_RATE = 2e-4  # the peak; low, so that fine-tuning keeps the accuracy of the start


class SimulatedInt8(layers.Wrapper):
    """Runs a layer with its kernel and its output rounded to int8.

    Gradients pass through the rounding unchanged (straight-through estimator). Weights that are
    zero stay zero. The wrapper has the given layer, not a copy: to train the wrapper is to train
    the layer.
    """

    def __init__(self, layer: layers.Layer, limits: tuple[float, float] | None) -> None:
        """Wraps a layer.

        Args:
            limits: smallest and largest value of the layer's output in int8; None: the output is
                not rounded.
        """
        super().__init__(layer, name=layer.name)
        self.limits = limits
        self.kernel_name = kernel_name(layer)
        if self.kernel_name:
            self.own_kernel = getattr(layer, self.kernel_name)
            self.mask = tf.constant((self.own_kernel.numpy() != 0).astype(np.float32))
            self.summed_axes = summed_axes(layer, len(self.own_kernel.shape))

    def call(self, inputs: tf.Tensor, **settings: Any) -> tf.Tensor:
        """The output of the layer.

        The kernel is rounded per output channel. So the batch normalisation after it, which scales
        whole output channels, does not change the rounding.
        """
        if self.kernel_name:
            kernel = self.own_kernel * self.mask
            largest = tf.reduce_max(tf.abs(kernel), self.summed_axes, keepdims=True)
            step = tf.maximum(largest, 1e-12) / 127
            rounded = kernel + tf.stop_gradient(tf.round(kernel / step) * step - kernel)
            # Not through `setattr` of Keras, which would track the tensor as a weight.
            object.__setattr__(self.layer, self.kernel_name, rounded)
        output = self.layer(inputs, **settings)  # calls of functions such as reshape have some
        if self.kernel_name:
            object.__setattr__(self.layer, self.kernel_name, self.own_kernel)
        if self.limits is None:
            return output
        return tf.quantization.fake_quant_with_min_max_args(output, *self.limits)


def summed_axes(layer: layers.Layer, rank: int) -> tuple[int, ...]:
    """Axes of a layer's kernel over which int8 has one step: all but those of output channels.

    Args:
        rank: number of the kernel's axes.
    """
    if isinstance(layer, layers.Conv2DTranspose):  # height, width, output, input channel
        return 0, 1, 3
    if kernel_name(layer) == "depthwise_kernel":  # every channel has outputs of its own
        return 0, 1
    return tuple(range(rank - 1))


def simulate_int8(model: keras.Model, content: bytes) -> keras.Model:
    """Return a network that rounds where the int8 file of a model does, with the file's ranges.

    The quantize API of TFMOT cannot be used: it refuses models that call functions such as reshape,
    and is wrong for int8 transposed convolutions (its issue 771) and bilinear upsampling (its
    issue 1000).

    Args:
        model: its normalisation layers must be frozen.
        content: its int8 file, whose ranges count.

    Returns:
        A network on the weights of the model, not copies.
    """
    limits = {}
    for operator in operators(content):
        # For fused layers, the first name is that of the layer whose output the operator gives.
        parts = operator.tensor.split(";")[0].split("/")
        if len(parts) > 2 and operator.limits:
            limits[parts[1]] = operator.limits

    def wrap(layer: layers.Layer) -> layers.Layer:
        rounds = layer.name in limits or kernel_name(layer)
        return SimulatedInt8(layer, limits.get(layer.name)) if rounds else layer

    return keras.models.clone_model(model, clone_function=wrap)


def unsimulated(model: keras.Model) -> list[str]:
    """Layers with a kernel that training rounds in no way, as "mix (SeparableConv2D)".

    `SimulatedInt8` rounds one kernel of a layer.
    """
    names = []
    for layer in model.layers:
        own = getattr(layer, kernel_name(layer) or "", None)
        kernels = [weight for weight in layer.weights if "kernel" in weight.name.split("/")[-1]]
        if any(kernel is not own for kernel in kernels):
            names.append(f"{layer.name} ({type(layer).__name__})")
    return names


def train_for_int8(
    stage: Stage, source: str, calibration: np.ndarray
) -> tuple[keras.Model, Trained]:
    """Fine-tune a Keras model with simulated int8 rounding.

    It learns from the masks and from the same model's float32 predictions.

    Args:
        stage: its arguments say epochs, batch_size, seed and resume.
        source: the model, "original" or "pruned".
        calibration: float32 images (n, height, width, 3) in 0..1 that set the ranges.

    Returns:
        The model, in float32, and the result of `loop.fit`, whose mean IoU is with rounding.

    Raises:
        UserError: a layer cannot be trained with simulated int8; or as `loop.fit`.
    """
    teacher, model = load_model(stage.models_dir, source), load_model(stage.models_dir, source)
    for layer in model.layers:
        # The statistics of normalisation are folded into the int8 weights.
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    content = convert(model, "int8", calibration)
    try:
        student = simulate_int8(model, content)
    except Exception as error:  # whatever Keras raises for a layer that it cannot wrap
        reason = textwrap.shorten(str(error), LONGEST_REASON, placeholder=" ...")
        raise UserError(
            f"--qat cannot train the {source} model ({reason or type(error).__name__}); quantise "
            "it without --qat"
        ) from None
    examples = read_record(stage.models_dir, "dataset")["splits"]["train"]["examples"]
    arguments = stage.arguments
    steps = arguments.epochs * steps_per_epoch(examples, arguments.batch_size)
    optimizer = make_optimizer(steps, LEARNING_RATE, 0, average=False)

    objective = recorded_objective(read_record(stage.models_dir, source)["metrics"])
    teacher, smaller = distillation_pair(teacher, student)
    phase = Phase(
        "qat",
        arguments.epochs,
        arguments.batch_size,
        arguments.seed,
        arguments.resume,
        replace(objective, teacher=teacher),
        student=smaller,
    )
    return model, fit(stage, student, optimizer, phase)
