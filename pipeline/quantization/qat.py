"""Fine-tuning for int8: a network that rounds where its int8 file will.

(Jacob et al., *Quantization and Training of Neural Networks*, 2018.) Imported only when it is
asked for, because its class needs Keras at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.base.artifacts import read_record, write_csv
from pipeline.base.lazy import keras, layers, tf
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_classes
from pipeline.inference.keras_files import kernel_name, load_model
from pipeline.inference.litert import operators
from pipeline.quantization.convert import convert
from pipeline.training.input_pipeline import steps_per_epoch
from pipeline.training.loop import fit
from pipeline.training.losses import make_loss, taught_loss
from pipeline.training.networks import teaching_views
from pipeline.training.optimizers import make_optimizer

LEARNING_RATE = 2e-4  # the peak: what was learned is to be kept


class Int8Imitation(layers.Wrapper):
    """Runs a layer as its int8 form will: kernel and output rounded to 8 bits.

    Gradients ignore the rounding. What is zero in the kernel stays zero. The layer is the given
    one, not a copy: to train the wrapper is to train it.
    """

    def __init__(self, layer: layers.Layer, limits: tuple[float, float] | None) -> None:
        """`limits`: smallest and largest value of the output; None if int8 does not round it."""
        super().__init__(layer, name=layer.name)
        self.limits = limits
        self.kernel_name = kernel_name(layer)
        if self.kernel_name:
            self.own = getattr(layer, self.kernel_name)
            self.mask = tf.constant((self.own.numpy() != 0).astype(np.float32))
            swapped = isinstance(layer, (layers.DepthwiseConv2D, layers.Conv2DTranspose))
            outputs = 2 if swapped else 3
            self.other_axes = [axis for axis in range(4) if axis != outputs]

    def call(self, inputs: tf.Tensor, **settings: Any) -> tf.Tensor:
        """The layer's output.

        Normalisation after it scales whole output channels, which per-channel rounding follows.
        """
        if self.kernel_name:
            kernel = self.own * self.mask
            largest = tf.reduce_max(tf.abs(kernel), self.other_axes, keepdims=True)
            step = tf.maximum(largest, 1e-12) / 127
            rounded = kernel + tf.stop_gradient(tf.round(kernel / step) * step - kernel)
            # Past Keras, which would track it as a weight.
            object.__setattr__(self.layer, self.kernel_name, rounded)
        output = self.layer(inputs, **settings)  # depth_to_space has some
        if self.kernel_name:
            object.__setattr__(self.layer, self.kernel_name, self.own)
        if self.limits is None:
            return output
        return tf.quantization.fake_quant_with_min_max_args(output, *self.limits)


def imitate_int8(model: keras.Model, calibration: np.ndarray) -> keras.Model:
    """A network on the same weights that rounds where the int8 file does, by the file's ranges.

    TFMOT's own quantize API refuses the functional depth_to_space call, and is wrong for int8
    transposed convolutions (its issue 771) and bilinear enlargement (1000). Normalisation keeps
    its statistics: call it frozen.
    """
    limits = {}
    for operator in operators(convert(model, "int8", calibration)):
        # Of fused layers the first is the one whose output is left.
        parts = operator.tensor.split(";")[0].split("/")
        if len(parts) > 2 and operator.limits:
            limits[parts[1]] = operator.limits

    def wrap(layer: layers.Layer) -> layers.Layer:
        worth = layer.name in limits or kernel_name(layer)
        return Int8Imitation(layer, limits.get(layer.name)) if worth else layer

    return keras.models.clone_model(model, clone_function=wrap)


def train_for_int8(stage: Stage, calibration: np.ndarray) -> tuple[keras.Model, float]:
    """The pruned model fine-tuned to bear int8, and its validation mean IoU while imitating it.

    Learns from the masks and from the pruned model's own float32 predictions. Writes
    `qat_training.csv`.
    """
    teacher, model = load_model(stage.models_dir, "pruned"), load_model(stage.models_dir, "pruned")
    for layer in model.layers:
        # Statistics of normalisation are folded into int8 weights.
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    student = imitate_int8(model, calibration)
    examples = read_record(stage.models_dir, "dataset")["splits"]["train"]["examples"]
    arguments = stage.arguments
    steps = arguments.epochs * steps_per_epoch(examples, arguments.batch_size)
    optimizer = make_optimizer(steps, LEARNING_RATE, 0, average=False)

    weights = read_record(stage.models_dir, "pruned")["metrics"].get("class_weights")
    truth = make_loss(load_classes(stage.models_dir), weights)

    teacher, through = teaching_views(teacher, student)
    history = fit(
        student,
        optimizer,
        stage,
        "qat",
        epochs=arguments.epochs,
        loss=taught_loss(truth, teacher),
        through=through,
    )
    write_csv(stage.models_dir / "qat_training.csv", history)
    return model, max(row["mean_iou"] for row in history)
