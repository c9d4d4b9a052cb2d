"""Follows the channels of a network's tensors from layer to layer, for channel pruning.

Each channel has a number. A convolution makes new channels; an activation hands on those that it
reads; a sum makes the channels of its terms the same; a concatenation puts them one after another.
The calls of the layers are followed, not the layers: a layer with weights that is called twice
reads the same channels and makes the same channels both times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.lazy import keras, layers
from pipeline.pruning.channel_sets import ChannelSets
from pipeline.training.keras_private import Call, calls

# Time of a multiplication in a depthwise convolution over that in a plain one. Measured with
# XNNPACK in float32.
DEPTHWISE_COST = 2.8

WRITTEN, PASSED, READ = "written", "passed", "read"  # what a layer does with channels
THE_IMAGE, THE_OUTPUT = "the image", "the output"  # they tie channels, too

# Layers without weights of which each channel of the output depends on the same channel of the
# input alone.
ONE_TO_ONE = (
    *("ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Activation", "Dropout", "SpatialDropout2D"),
    *("GaussianNoise", "GaussianDropout", "AlphaDropout", "MaxPooling2D", "AveragePooling2D"),
    *("GlobalMaxPooling2D", "GlobalAveragePooling2D", "ZeroPadding2D", "Cropping2D"),
    *("UpSampling2D", "Resizing"),
)
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")  # channel by channel
# TensorFlow functions of one or two tensors that work channel by channel.
ONE_TO_ONE_FUNCTIONS = {
    *("__operators__.add", "math.add", "math.subtract", "math.multiply", "math.truediv"),
    *("math.maximum", "math.minimum", "math.negative", "math.sigmoid", "math.tanh", "nn.relu"),
    *("nn.relu6", "nn.leaky_relu", "nn.elu", "nn.silu", "nn.gelu"),
}
REDUCTIONS = ("math.reduce_mean", "math.reduce_max", "math.reduce_sum")
MIXING_ACTIVATIONS = ("softmax", "log_softmax")  # one channel's value depends on all others


@dataclass
class Axis:
    """An axis of a layer's weight along which it has channels, or a setting that counts them."""

    layer: str
    use: str  # WRITTEN, PASSED or READ
    attribute: str  # of the layer: "kernel"; for a setting its name, as "filters"
    axis: int | None  # of the weight; None for a setting
    channels: np.ndarray  # int (length of the axis,): the number of the channel at each position
    # Multiplications per image for each position of the axis, in all calls of the layer; those of
    # depthwise convolutions count DEPTHWISE_COST times.
    work: float = 0.0


class Flow:
    """The channels of all tensors of a model, and the axes of weights that have them.

    Args:
        model: functional or sequential.
    """

    def __init__(self, model: keras.Model) -> None:
        self.sets = ChannelSets()
        self.axes: dict[tuple[str, str, int | None], Axis] = {}
        self.calls = calls(model)
        self._tensors: dict[int, np.ndarray] = {}  # the channels of a tensor, by its `id`
        self._first: dict[int, list[np.ndarray]] = {}  # channels in the first call of a layer
        for call in self.calls:
            self._follow(call)
        for tensor in model.outputs:
            self.sets.tie(self._tensors[id(tensor)], THE_OUTPUT)

    def channels_of(self, tensor: Any) -> np.ndarray:
        """The channels of a symbolic tensor of the model."""
        return self._tensors[id(tensor)]

    def _follow(self, call: Call) -> None:
        """Finds the channels of what a call makes."""
        layer = call.layer
        read = [self._tensors[id(tensor)] for tensor in call.inputs]
        before = self._first.get(id(layer))
        if before is not None:  # its weights or settings have channels already
            for channels, earlier in zip(read, before):
                self.sets.join(channels, earlier)
        made = self._made(call, read)
        if before is not None:
            for channels, earlier in zip(made, before[len(read) :], strict=True):
                self.sets.join(channels, earlier)
        elif layer.weights or isinstance(layer, layers.Reshape):  # what has places, see `_has`
            self._first[id(layer)] = [*read, *made]
        for tensor, channels in zip(call.outputs, made, strict=True):
            self._tensors[id(tensor)] = channels

    def _made(self, call: Call, read: list[np.ndarray]) -> list[np.ndarray]:
        """The channels of each tensor that a call makes of channels that it reads."""
        layer = call.layer
        made = None
        if isinstance(layer, layers.InputLayer):
            return self._stay(call, THE_IMAGE)
        channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
        if len(call.outputs) == 1 and channels_last:
            rule = RULES.get(type(layer).__name__)
            made = rule(self, call, read) if rule else None
        if made is None:
            return self._unknown(call, read)
        activation = getattr(getattr(layer, "activation", None), "__name__", "")
        if activation in MIXING_ACTIVATIONS:
            self.sets.tie(made, layer.name)
        return [made]

    def _unknown(self, call: Call, read: list[np.ndarray]) -> list[np.ndarray]:
        """The same of a layer that mixes channels, or of which nothing is known: all stay."""
        for channels in read:
            self.sets.tie(channels, call.layer.name)
        return self._stay(call, call.layer.name)

    def _stay(self, call: Call, reason: str) -> list[np.ndarray]:
        """New channels for the outputs of a call, which stay."""
        made = [self.sets.new(last_axis(tensor)) for tensor in call.outputs]
        for channels in made:
            self.sets.tie(channels, reason)
        return made

    def _has(
        self,
        call: Call,
        use: str,
        attribute: str,
        axis: int | None,
        channels: np.ndarray,
        work: float = 0.0,
    ) -> None:
        """Notes that an axis of a weight has channels; a further call only adds its work."""
        if axis is not None and getattr(call.layer, attribute, None) is None:
            return  # a layer without bias, a normalisation without scale
        new = Axis(call.layer.name, use, attribute, axis, channels)
        self.axes.setdefault((new.layer, attribute, axis), new).work += work

    # --- rules: the channels that a call makes of those that it reads; None: not known --------

    def _kernel(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of plain and transposed convolutions and of dense layers."""
        layer, (channels,) = call.layer, read
        if getattr(layer, "groups", 1) != 1:
            return None
        dense = isinstance(layer, layers.Dense)
        transposed = isinstance(layer, layers.Conv2DTranspose)
        into, out = (0, 1) if dense else (3, 2) if transposed else (2, 3)
        made = self._new_of(call)
        size = layer.kernel.shape.num_elements()
        work = pixels(call.inputs[0] if transposed else call.outputs[0]) * size
        self._has(call, WRITTEN, "kernel", out, made, work / len(made))
        self._has(call, WRITTEN, "bias", 0, made)
        self._has(call, WRITTEN, "units" if dense else "filters", None, made)
        self._has(call, READ, "kernel", into, channels, work / len(channels))
        return made

    def _new_of(self, call: Call) -> np.ndarray:
        """The channels that a layer makes: new ones in its first call, then the same again."""
        before = self._first.get(id(call.layer))
        return self.sets.new(call.outputs[0].shape[-1]) if before is None else before[-1]

    def _depthwise(self, call: Call, read: list[np.ndarray]) -> np.ndarray:
        """Rule of depthwise convolutions: some channels of the output for each of the input."""
        (channels,) = read
        made = np.repeat(channels, call.layer.depth_multiplier)
        self._has(call, PASSED, "depthwise_kernel", 2, channels, depthwise_work(call))
        self._has(call, PASSED, "bias", 0, made)
        return made

    def _separable(self, call: Call, read: list[np.ndarray]) -> np.ndarray:
        """Rule of a depthwise convolution and a convolution of one pixel, in one layer."""
        layer, (channels,) = call.layer, read
        between, made = np.repeat(channels, layer.depth_multiplier), self._new_of(call)
        work = pixels(call.outputs[0]) * layer.pointwise_kernel.shape.num_elements()
        self._has(call, WRITTEN, "pointwise_kernel", 3, made, work / len(made))
        self._has(call, WRITTEN, "bias", 0, made)
        self._has(call, WRITTEN, "filters", None, made)
        self._has(call, PASSED, "depthwise_kernel", 2, channels, depthwise_work(call))
        self._has(call, READ, "pointwise_kernel", 2, between, work / len(between))
        return made

    def _normalisation(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of batch normalisation over the last axis."""
        layer, (channels,) = call.layer, read
        if list(layer.axis) != [len(call.inputs[0].shape) - 1]:
            return None
        for attribute in ("gamma", "beta", "moving_mean", "moving_variance"):
            self._has(call, PASSED, attribute, 0, channels)
        return channels

    def _prelu(self, call: Call, read: list[np.ndarray]) -> np.ndarray:
        """Rule of PReLU, whose slopes may be one per channel."""
        (channels,), slopes = read, call.layer.alpha.shape
        if slopes[-1] == len(channels):
            self._has(call, PASSED, "alpha", len(slopes) - 1, channels)
        return channels

    def _one_to_one(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of layers that hand on the channels that they read."""
        return read[0] if call.outputs[0].shape[-1] == len(read[0]) else None

    def _rescaling(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of a scale and an offset, if they are the same for all channels."""
        numbers = np.size(call.layer.scale), np.size(call.layer.offset)
        return self._one_to_one(call, read) if numbers == (1, 1) else None

    def _merge(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of sums, products and the like; a single channel among many stays."""
        number = max(map(len, read))
        wide = [channels for channels in read if len(channels) == number]
        for channels in wide[1:]:
            self.sets.join(wide[0], channels)
        for channels in read:
            if len(channels) != number:
                self.sets.tie(channels, call.layer.name)
        return wide[0] if call.outputs[0].shape[-1] == number else None

    def _concatenate(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of concatenation, of channels or of pixels."""
        return self._one_after_another(call, read, call.layer.axis)

    def _one_after_another(
        self, call: Call, read: list[np.ndarray], axis: int
    ) -> np.ndarray | None:
        """The channels of tensors that are put one after another along an axis."""
        rank = len(call.outputs[0].shape)
        return np.concatenate(read) if axis % rank == rank - 1 else self._merge(call, read)

    def _flatten(self, call: Call, read: list[np.ndarray]) -> np.ndarray:
        """Rule of Flatten: each pixel has all channels, one after another."""
        return np.tile(read[0], call.outputs[0].shape[-1] // len(read[0]))

    def _reshape(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of Reshape, if the last axis stays as it is; its length is a setting."""
        made = self._one_to_one(call, read)
        if made is not None:
            self._has(call, PASSED, "target_shape", None, made)
        return made

    def _permute(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of Permute, if the last axis stays the last one."""
        return read[0] if call.layer.dims[-1] == len(call.layer.dims) else None

    def _function(self, call: Call, read: list[np.ndarray]) -> np.ndarray | None:
        """Rule of calls of TensorFlow functions, as in `x + y`; constants must be numbers."""
        name = call.layer.get_config()["function"]
        numbers = [
            value for value in call.constants if not isinstance(value, (str, bool, type(None)))
        ]
        if any(map(np.ndim, numbers)):
            return None
        if name == "concat":
            return self._one_after_another(call, read, numbers[0])
        if name in REDUCTIONS and not {int(axis) for axis in numbers} <= {1, 2}:
            return None  # not over the pixels alone
        if name in REDUCTIONS or name == "image.resize":
            return self._one_to_one(call, read)
        return (
            self._merge(call, read) if name in ONE_TO_ONE_FUNCTIONS and len(numbers) < 2 else None
        )


def last_axis(tensor: Any) -> int:
    """The length of a tensor's last axis; 0 if it has none or its length is not known."""
    return tensor.shape[-1] or 0 if tensor.shape.rank else 0


def pixels(tensor: Any) -> int:
    """The number of pixels of a tensor (batch, ..., channels): the product of its inner axes."""
    return int(np.prod(tensor.shape[1:-1]))


def depthwise_work(call: Call) -> float:
    """Multiplications per channel of the input of a depthwise convolution, see `Axis.work`."""
    layer = call.layer
    products = pixels(call.outputs[0]) * np.prod(layer.kernel_size) * layer.depth_multiplier
    return float(products * DEPTHWISE_COST)


RULES: dict[str, Any] = {
    **dict.fromkeys(("Conv2D", "Conv2DTranspose", "Dense"), Flow._kernel),
    **dict.fromkeys(ONE_TO_ONE, Flow._one_to_one),
    **dict.fromkeys(MERGES, Flow._merge),
    "DepthwiseConv2D": Flow._depthwise,
    "SeparableConv2D": Flow._separable,
    "BatchNormalization": Flow._normalisation,
    "PReLU": Flow._prelu,
    "Rescaling": Flow._rescaling,
    "Concatenate": Flow._concatenate,
    "Flatten": Flow._flatten,
    "Reshape": Flow._reshape,
    "Permute": Flow._permute,
    "TFOpLambda": Flow._function,
}
