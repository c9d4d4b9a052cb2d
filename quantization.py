"""Stage 4 of 5: convert the pruned model to LiteRT, in three precisions.

Reads   models/pruned_model.h5, models/dataset/   (training images, for calibration)
Writes  models/dynamic_quantized_model.tflite     int8 weights where they pay, float32 activations
        models/int8_quantized_model.tflite        int8 throughout, takes raw uint8 pixels
        models/float16_quantized_model.tflite     float16 weights
        models/int8_sensitivity.csv, .png         with --sensitivity or --max-drop: what each operator costs

    python quantization.py
    python quantization.py --calibration-images 500 --int8-input int8
    python quantization.py --sensitivity              (each operator in int8 alone, on the validation split)
    python quantization.py --max-drop 0.002           (if int8 loses more, its worst operators stay float)
    python quantization.py --qat                      (fine-tunes for int8 first; zeros stay zeros)

Takes half a minute, with --sensitivity two minutes, with --qat a few epochs of training. Every file is
opened again, run on a few validation images and compared with the model it came from; one that
disagrees, or an int8 file that holds a float operator nobody asked for, is not put in place.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from data_preparation import load_split
from pruning import distillation_loss, is_convolution
from training import (confusion_matrix, fit, iou_per_class, load_model, make_optimizer, predict, segmentation_loss,
                      write_csv)  # fmt: skip

import flatbuffers
import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from litert_quantizer.algorithm_manager import AlgorithmName
from litert_quantizer.qtyping import TFLOperationName
from litert_quantizer.quantizer import Quantizer
from tf_keras import layers

CALIBRATION_IMAGES = 200  # training images whose activations set the int8 ranges
ROUNDING_IMAGES = 25  # calibration images, and places in each, whose inputs decide how kernels are rounded
ROUNDING_PLACES = 400
ROUNDING_DAMPING = 0.01  # of the mean square of an input, added to every square so that none is zero
COMPARED_IMAGES = 16  # validation images on which a written file must agree with its source
LEAST_AGREEMENT = 0.90  # share of pixels of the same class, below which a file is refused
DYNAMIC_DEPTH = 64  # products per sum of a convolution, from which dynamic range pays
SENSITIVITY_IMAGES = 128  # validation images on which each operator is tried
TIMED_RUNS = 100  # of each file that is timed, and so many of them in a row
TURN_RUNS = 10
TIMED_SECONDS = 60  # per file: slow ones get fewer runs
EPOCHS = 3  # of --qat
BATCH_SIZE = 16
LEARNING_RATE = 2e-4
SHOWN_OPERATORS = 30  # in the picture
FLOAT_ONLY = ("DEPTH_TO_SPACE",)  # litert-quantizer has no int8 form of these

# What sets the variants apart: attributes of tf.lite.TFLiteConverter. float32 is the baseline of
# evaluation.py. `calibrated` asks for a representative data set, `chosen_operators` for quantise_dynamic.
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "dynamic": {"chosen_operators": True},
    "int8": {"optimizations": [tf.lite.Optimize.DEFAULT], "calibrated": True},
    "float16": {"optimizations": [tf.lite.Optimize.DEFAULT], "float16": True},
}


def calibration_sample(models_dir: Path, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and float32 images (n, size, size, 3) in 0..1 of a seeded sample of training images."""
    images, _ = load_split(models_dir, "train")
    rows = np.sort(np.random.default_rng(seed).choice(len(images), min(number, len(images)), replace=False))
    return rows, images[rows].astype(np.float32) / 255


def with_extremes(images: np.ndarray) -> np.ndarray:
    """Images in 0..1 and a black and a white one, which widen the int8 input to exactly that range.

    So one step of the input is one step of an 8-bit pixel: raw camera bytes go in unchanged, and nothing rescales them.
    """
    return np.concatenate([images, np.zeros_like(images[:1]), np.ones_like(images[:1])])


def kernel_name(layer: layers.Layer) -> str | None:
    """The attribute that holds a layer's kernel, if it has one."""
    return next((name for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None)


def input_products(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the weights of each convolution are multiplied with: E[x xᵀ] over places in images.

    Args:
        images: float32 (n, size, size, 3) in 0..1.

    Returns:
        By layer, float64 (groups, n, n): n is height x width x input channels of the kernel, one group; for a
        depthwise convolution height x width, a group per channel. Transposed convolutions are left out.
    """
    convolutions = [layer for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
                    and not isinstance(layer, layers.Conv2DTranspose)]  # fmt: skip
    probe = tf.function(keras.Model(model.input, [layer.input for layer in convolutions]))
    random, products = np.random.default_rng(pipeline.SEED), dict.fromkeys([layer.name for layer in convolutions], 0.0)
    images = images[:: max(1, len(images) // ROUNDING_IMAGES)]
    for image in images:
        for layer, x in zip(convolutions, probe(image[None], training=False)):
            x = x.numpy()[0]
            height, width = layer.kernel_size
            step = layer.strides[0]
            if layer.padding == "same":  # TensorFlow's rule: what is odd goes to the end
                needed = [max(-(-side // step) * step - step + size - side, 0) for side, size in zip(x.shape, (height, width))]
                x = np.pad(x, [*((total // 2, total - total // 2) for total in needed), (0, 0)])
            windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), (0, 1))[::step, ::step]
            rows, columns = (random.integers(0, side, ROUNDING_PLACES) for side in windows.shape[:2])
            seen = windows[rows, columns].transpose(1, 2, 3, 0)  # (channels, height, width, places)
            if not isinstance(layer, layers.DepthwiseConv2D):  # one group, in the order of a kernel's axes
                seen = seen.transpose(1, 2, 0, 3)[None]
            seen = np.ascontiguousarray(seen.reshape(len(seen), -1, ROUNDING_PLACES))
            products[layer.name] += (seen @ seen.transpose(0, 2, 1)).astype(np.float64) / (len(images) * ROUNDING_PLACES)
    return products


def round_columns(weights: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Weights rounded to int8 steps so that little is lost of their sums over the inputs.

    GPTQ (Frantar et al. 2022, after optimal brain surgery, Hassibi and Stork 1993): weight by weight, what one
    loses to rounding is made up by those that are not rounded yet. Zeros stay, and so does the largest weight
    of a column, which sets the step.

    Args:
        weights: float64 (groups, n, columns). products: float64 (groups, n, n), E[x xᵀ] of their inputs.

    Returns:
        Multiples of each column's step, which is its largest weight / 127; same shape.
    """
    step = np.abs(weights).max(1) / 127
    step = np.where(step > 0, step, 1)
    fixed = (weights == 0) | (np.arange(weights.shape[1])[:, None] == np.abs(weights).argmax(1)[:, None])
    mean_square = np.trace(products, axis1=1, axis2=2)[:, None, None] / weights.shape[1]
    damped = products + (ROUNDING_DAMPING * mean_square + 1e-9) * np.eye(weights.shape[1])
    spread = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # row i: how weight i's error moves the later ones
    left, rounded = weights.copy(), weights.copy()
    for i in range(weights.shape[1]):
        steps = np.clip(np.round(left[:, i] / step), -127, 127)
        rounded[:, i] = np.where(fixed[:, i], weights[:, i], steps * step)
        error = (left[:, i] - rounded[:, i]) / spread[:, i, i, None]
        left[:, i + 1 :] -= spread[:, i, i + 1 :, None] * error[:, None]
    return rounded


def round_kernels(model: keras.Model, images: np.ndarray) -> keras.Model:
    """A copy of the model whose kernels the converter can write in int8 without rounding them any more.

    Rounding to the nearest step, as the converter does it, cost most of what int8 lost (docs/choices.md).
    Normalisation, which conversion multiplies into the kernels, scales whole columns and their steps alike.
    Arguments as for `input_products`.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name, products in input_products(model, images).items():
        layer = copy.get_layer(name)
        kernel = getattr(layer, kernel_name(layer))
        values = kernel.numpy().astype(np.float64)
        if isinstance(layer, layers.DepthwiseConv2D):  # (height, width, channels, 1): a group per channel
            columns = values.reshape(-1, values.shape[2]).T[..., None]
            kernel.assign(round_columns(columns, products)[..., 0].T.reshape(values.shape))
        else:
            columns = values.reshape(1, -1, values.shape[-1])
            kernel.assign(round_columns(columns, products).reshape(values.shape))
    return copy


def rescaling(model: keras.Model) -> layers.Rescaling | None:
    """The layer that rescales pixels, if nothing before it does more than resize the image, which it may as well do after."""
    for layer in model.layers:
        if isinstance(layer, layers.Rescaling):
            return layer
        if not isinstance(layer, (layers.InputLayer, layers.Resizing)):
            return None
    return None


def pixel_range(model: keras.Model) -> tuple[float, float]:
    """What pixels 0 and 255 are to a network behind its rescaling layer: 0 and 1 if it has none."""
    found = rescaling(model)
    return (found.offset, found.offset + found.scale) if found else (0.0, 1.0)


def without_rescaling(model: keras.Model) -> keras.Model:
    """The model for images that are rescaled already."""
    found = rescaling(model)

    def take_out(layer: layers.Layer) -> layers.Layer:
        if layer is found:
            return layers.Activation("linear", name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=take_out)
    copy.set_weights(model.get_weights())
    return copy


def convert(model: keras.Model, variant: str, calibration: np.ndarray | None = None, int8_input: str = "uint8") -> bytes:
    """The one conversion: a Keras model to the bytes of a .tflite file.

    The batch is fixed at one image. With an open batch, transposed convolutions stay outside
    XNNPACK, and a dynamic-range classic U-Net runs several times slower than float32.

    Args:
        variant: a key of VARIANTS.
        calibration: float32 images (n, size, size, 3) in 0..1; int8 needs them.
        int8_input: "uint8" or "int8", the type of the int8 file's input. Its output is int8 either way: an
            operator that turns logits into uint8 would cost time and change no class.
    """
    options = VARIANTS[variant]
    if options.get("calibrated"):
        if calibration is None:
            raise ValueError(f"{variant} needs calibration images")
        low, high = pixel_range(model)
        model = without_rescaling(round_kernels(model, calibration))
        samples = low + (high - low) * with_extremes(calibration)
    size = model.input_shape[1]
    function = tf.function(lambda image: model(image, training=False))
    fixed = function.get_concrete_function(tf.TensorSpec((1, size, size, 3), tf.float32, name="image"))
    holder = tf.Module()  # holds the weights alone: given the Keras model, the converter would trace every layer anew
    holder.weights = model.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed], holder)
    converter.optimizations = options.get("optimizations", [])
    if options.get("float16"):
        converter.target_spec.supported_types = [tf.float16]
    if options.get("calibrated"):
        converter.representative_dataset = lambda: ([image[None]] for image in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type, converter.inference_output_type = tf.dtypes.as_dtype(int8_input), tf.int8
    with pipeline.silenced():
        content = converter.convert()
    return compacted(quantise_dynamic(content, worth_it(content)) if options.get("chosen_operators") else content)


class SharingBuilder(flatbuffers.Builder):
    """Stores vectors of equal content once: nothing in the format forbids that two tables point at the same one."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, values: np.ndarray) -> int:
        """Writes a vector, or finds it, and returns its place; `Pack` calls this."""
        content = values.tobytes()
        key = values.dtype.str, content
        if key not in self.known:
            # As the schema asks for weights, which small processors read in place; the library's own aligns to the type.
            self.StartVector(values.itemsize, values.size, 16)
            self.head -= len(content)
            self.Bytes[self.head : self.head + len(content)] = content
            self.vectorNumElems = values.size
            self.known[key] = self.EndVector()
        return self.known[key]


def compacted(content: bytes) -> bytes:
    """The same .tflite file with equal vectors stored once.

    The converter writes a zero point of 8 bytes for every channel of every int8 kernel and bias, all of
    them 0: an eighth of the compact network's int8 file.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # litert-quantizer puts weights behind the tables
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# --- operator by operator -------------------------------------------------------------------


@dataclass
class Operator:
    """An operator of a .tflite file."""

    kind: str  # as LiteRT calls it: CONV_2D
    tensor: str  # name of its output
    depth: int  # of a convolution: products per sum, kernel height x width x input channels; else 0
    limits: tuple[float, float] | None  # smallest and largest value of an int8 output; None in float

    @property
    def layer(self) -> str:
        """The Keras layer that it came from; of several fused ones, the convolution."""
        parts = self.tensor.split(";")[-1].split("/")  # network/layer/operation
        return parts[1] if len(parts) > 2 else self.kind.lower()


def operators(content: bytes) -> list[Operator]:
    """The operators of a .tflite file in the order of execution."""
    interpreter = Interpreter(model_content=content)
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    found = []
    for node in interpreter._get_ops_details():  # LiteRT has no public call for this
        convolution = node["op_name"] in ("CONV_2D", "TRANSPOSE_CONV")  # the kernel is input 1: (out, height, width, in)
        depth = int(np.prod(tensors[node["inputs"][1]]["shape"][1:])) if convolution else 0
        output = tensors[node["outputs"][0]]
        scale, zero_point = output["quantization"]
        limits = (scale * (-128 - zero_point), scale * (127 - zero_point)) if output["dtype"] == np.int8 else None
        found.append(Operator(node["op_name"], output["name"], depth, limits))
    return found


def recipe_scope(operator: Operator) -> dict[str, Any]:
    """How litert-quantizer's recipes name one operator."""
    name = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}.get(operator.kind, operator.kind)
    return {"regex": f"^{re.escape(operator.tensor)};?$", "operation_name": TFLOperationName(name)}


def worth_it(content: bytes) -> list[Operator]:
    """The operators of a float32 file to which dynamic range is applied.

    Activations are quantised while it runs: every input value is read twice more, and each is used once per
    output channel. Depthwise convolutions with int8 weights leave XNNPACK altogether. So the converter's own
    dynamic range, which quantises everything, is slower than float32 on a network of depthwise blocks. Here
    only convolutions with long sums are quantised (docs/choices.md has the measurements).
    """
    return [operator for operator in operators(content) if operator.depth >= DYNAMIC_DEPTH]


def quantise_dynamic(content: bytes, chosen: Iterable[Operator]) -> bytes:
    """A float32 file with int8 weights in the chosen operators and activations that are quantised as it runs."""
    quantizer = Quantizer(bytearray(content))
    for operator in chosen:
        quantizer.add_dynamic_config(**recipe_scope(operator), num_bits=8)
    with pipeline.silenced():
        return bytes(quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


# --- quantisation-aware fine-tuning -----------------------------------------------------------


class Int8Imitation(layers.Wrapper):
    """Runs a layer as its int8 form will: kernel and output rounded to 8 bits, by gradients that ignore the rounding
    (Jacob et al., *Quantization and Training of Neural Networks*, 2018). What is zero in the kernel stays zero.

    The layer is the given one, not a copy: to train the wrapper is to train it.
    """

    def __init__(self, layer: layers.Layer, limits: tuple[float, float] | None) -> None:
        """`limits`: smallest and largest value of the output, None for an output that int8 does not round."""
        super().__init__(layer, name=layer.name)
        self.limits = limits
        self.kernel_name = kernel_name(layer)
        if self.kernel_name:
            self.own = getattr(layer, self.kernel_name)
            self.mask = tf.constant((self.own.numpy() != 0).astype(np.float32))
            outputs = 2 if isinstance(layer, (layers.DepthwiseConv2D, layers.Conv2DTranspose)) else 3
            self.other_axes = [axis for axis in range(4) if axis != outputs]

    def call(self, inputs: tf.Tensor, **settings: Any) -> tf.Tensor:
        """The layer's output. Normalisation after it scales whole output channels, which per-channel rounding follows."""
        if self.kernel_name:
            kernel = self.own * self.mask
            step = tf.maximum(tf.reduce_max(tf.abs(kernel), self.other_axes, keepdims=True), 1e-12) / 127
            rounded = kernel + tf.stop_gradient(tf.round(kernel / step) * step - kernel)
            object.__setattr__(self.layer, self.kernel_name, rounded)  # past Keras, which would track it as a weight
        output = self.layer(inputs, **settings)  # depth_to_space has some
        if self.kernel_name:
            object.__setattr__(self.layer, self.kernel_name, self.own)
        if self.limits is None:
            return output
        return tf.quantization.fake_quant_with_min_max_args(output, *self.limits)


def imitate_int8(model: keras.Model, calibration: np.ndarray) -> keras.Model:
    """A network on the same weights that rounds where the int8 file rounds, by the ranges that are in the file.

    TFMOT's own quantize API refuses the functional depth_to_space call, and is wrong for int8 transposed convolutions
    (its issue 771) and bilinear enlargement (1000). Normalisation keeps its statistics: call it frozen.
    """
    limits = {}
    for operator in operators(convert(model, "int8", calibration)):
        parts = operator.tensor.split(";")[0].split("/")  # of fused layers the first is the one whose output is left
        if len(parts) > 2 and operator.limits:
            limits[parts[1]] = operator.limits

    def wrap(layer: layers.Layer) -> layers.Layer:
        worth = layer.name in limits or kernel_name(layer)
        return Int8Imitation(layer, limits.get(layer.name)) if worth else layer

    return keras.models.clone_model(model, clone_function=wrap)


def train_for_int8(stage: pipeline.Stage, calibration: np.ndarray, arguments: argparse.Namespace) -> tuple[keras.Model, float]:
    """The pruned model fine-tuned to bear int8, and its validation mean IoU while it imitates int8.

    Learns from the masks and from the pruned model's own float32 predictions. Writes `qat_training.csv`.
    """
    teacher, model = load_model(stage.models_dir, "pruned"), load_model(stage.models_dir, "pruned")
    for layer in model.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)  # its statistics are folded into int8 weights
    student = imitate_int8(model, calibration)
    examples = pipeline.read_record(stage.models_dir, "dataset")["splits"]["train"]["examples"]
    optimizer = make_optimizer(arguments.epochs * (examples // arguments.batch_size), arguments.learning_rate, 0, average=False)

    def loss(images: tf.Tensor, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return segmentation_loss(masks, logits) + distillation_loss(teacher(images, training=False), logits)

    history = fit(student, optimizer, stage, "qat", epochs=arguments.epochs, batch_size=arguments.batch_size,
                  seed=arguments.seed, loss=loss, resume=arguments.resume)  # fmt: skip
    return model, max(row["mean_iou"] for row in history)


# --- running a converted file ---------------------------------------------------------------


def open_interpreter(path: Path, threads: int = 1) -> Interpreter:
    """A LiteRT interpreter, ready to run, with XNNPACK as by default.

    Raises:
        pipeline.UserError: the file is no .tflite file.
    """
    try:
        with pipeline.silenced():
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        return interpreter
    except (ValueError, RuntimeError) as error:
        raise pipeline.UserError(f"{path} cannot be read as a .tflite file ({str(error).splitlines()[0]}); "
                                 "make it anew with: python quantization.py") from None  # fmt: skip


def set_image(interpreter: Interpreter, image: np.ndarray) -> None:
    """Gives one uint8 image (size, size, 3) to an interpreter, in the type its input has."""
    slot = interpreter.get_input_details()[0]
    if slot["dtype"] == np.float32:
        image = image.astype(np.float32) / 255
    elif slot["dtype"] == np.int8:
        image = (image.astype(np.int16) - 128).astype(np.int8)
    interpreter.set_tensor(slot["index"], image[None])


def predict_tflite(interpreter: Interpreter, images: np.ndarray) -> Iterator[np.ndarray]:
    """Class indices (size, size) of uint8 images, one by one.

    Quantised outputs share one scale over all classes, so their largest is the largest logit.
    """
    output = interpreter.get_output_details()[0]["index"]
    for image in images:
        set_image(interpreter, image)
        interpreter.invoke()
        yield interpreter.get_tensor(output)[0].argmax(-1)


def time_in_turns(calls: dict[str, Callable[[], Any]], runs: int = TIMED_RUNS) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times single runs of several models that take turns, so that a noisy machine hits all alike.

    A turn is TURN_RUNS runs in a row, as LiteRT's own benchmark tool makes them, after one that is kept apart: it finds
    the processor's caches full of the model before, and a small model then takes a quarter longer.

    Args:
        calls: by name, what runs a model once.
        runs: of each; a slow one gets as many as take TIMED_SECONDS, but one in every turn.

    Returns:
        By name, milliseconds of the runs in a row, and of those right after another model.
    """
    turns, in_turn = max(1, runs // TURN_RUNS), {}
    for name, call in calls.items():
        call()  # the first run after loading is slower than all others
        started = time.perf_counter()
        call()
        in_turn[name] = int(np.clip(TIMED_SECONDS / turns / (time.perf_counter() - started), 1, TURN_RUNS))
    times = {name: ([], []) for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for run in range(1 + in_turn[name]):
                started = time.perf_counter()
                call()
                times[name][run == 0].append(1e3 * (time.perf_counter() - started))
    return {name: (np.array(in_a_row), np.array(after_another)) for name, (in_a_row, after_another) in times.items()}


# --- what each operator costs in int8 ---------------------------------------------------------


def activation_ranges(content: bytes, images: np.ndarray) -> dict[str, Any]:
    """Smallest and largest value of every tensor of a float32 file over float32 images (n, size, size, 3).

    Image by image, because litert-quantizer keeps a moving average over images, which forgets the rare extremes.
    """
    quantizer = Quantizer(bytearray(content))
    quantizer.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    ((signature, names),) = Interpreter(model_content=content).get_signature_list().items()
    ranges: dict[str, Any] = {}
    with pipeline.progress("calibration", len(images), "images") as bar:
        for image in images:
            with pipeline.silenced():
                found = quantizer.calibrate({signature: [{names["inputs"][0]: image[None]}]})
            for tensor, values in found.items():
                known = ranges.setdefault(tensor, values)
                ranges[tensor] = {"min": np.minimum(known["min"], values["min"]), "max": np.maximum(known["max"], values["max"])}
            bar.update()
    return ranges


def quantise_static(content: bytes, ranges: dict[str, Any], *, only: Operator | None = None,
                    but: Sequence[Operator] = ()) -> bytes:  # fmt: skip
    """A float32 file with `only` one operator in int8, or all `but` some. Input and output are int8 in the second case."""
    quantizer = Quantizer(bytearray(content))
    scope = recipe_scope(only) if only else {"regex": ".*", "operation_name": TFLOperationName.ALL_SUPPORTED}
    quantizer.add_static_config(**scope, activation_num_bits=8, weight_num_bits=8)
    for operator in but:
        quantizer.update_quantization_recipe(**recipe_scope(operator), algorithm_key=AlgorithmName.NO_QUANTIZE)
    with pipeline.silenced():
        return bytes(quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)


def logits_of(content: bytes, images: np.ndarray) -> np.ndarray:
    """Float32 logits (n, size, size, classes) of a .tflite file for uint8 images, on all cores."""
    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    output = interpreter.get_output_details()[0]
    logits = []
    for image in images:
        set_image(interpreter, image)
        interpreter.invoke()
        logits.append(interpreter.get_tensor(output["index"])[0])
    if output["dtype"] == np.float32:
        return np.stack(logits)
    scale, zero_point = output["quantization"]
    return (np.stack(logits).astype(np.float32) - zero_point) * np.float32(scale)


def scan_sensitivity(content: bytes, ranges: dict[str, Any], images: np.ndarray, masks: np.ndarray) -> list[dict[str, Any]]:
    """What int8 costs operator by operator, each quantised alone: rows, the worst signal-to-noise ratio first.

    A row: operator (its place in the file), layer, kind, `snr_db` of the logits (10 log10 of the power of the float
    logits over that of the error) and `drop` of the mean IoU. Operators without an int8 form are left out.
    """

    def mean_iou(logits: np.ndarray) -> float:
        return float(iou_per_class(confusion_matrix(masks, logits.argmax(-1)).sum(axis=0)).mean())

    every = operators(content)
    expected, rows = logits_of(content, images), []
    power, whole = float(np.mean(expected**2)), mean_iou(expected)
    with pipeline.progress("sensitivity", len(every), "operators") as bar:
        for place, operator in enumerate(every):
            bar.update()
            if operator.kind in FLOAT_ONLY:
                continue
            logits = logits_of(quantise_static(content, ranges, only=operator), images)
            noise = float(np.mean((logits - expected) ** 2))
            rows.append({"operator": place, "layer": operator.layer, "kind": operator.kind,
                         "snr_db": round(10 * float(np.log10(power / max(noise, 1e-12))), 2),
                         "drop": round(whole - mean_iou(logits), 5)})  # fmt: skip
    return sorted(rows, key=lambda row: row["snr_db"])


def draw_sensitivity(path: Path, rows: list[dict[str, Any]]) -> None:
    """Signal-to-noise ratio and drop of mean IoU of the worst operators."""
    import matplotlib.figure

    shown = rows[:SHOWN_OPERATORS][::-1]
    figure = matplotlib.figure.Figure((9, 1 + 0.24 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh([f"{row['layer']}  {row['kind'].lower()}" for row in shown], [row["snr_db"] for row in shown], color="#3a4862")
    left.set(xlabel="signal to noise of the logits, dB (short: bad)")
    right.barh(range(len(shown)), [100 * row["drop"] for row in shown], color="#f28e2b")
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="points of validation mean IoU lost")
    left.tick_params(axis="y", labelsize=8)
    figure.suptitle(f"Each operator in int8 alone: the {len(shown)} worst of {len(rows)}")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
    with pipeline.atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


def int8_within(model: keras.Model, full: bytes, calibration: np.ndarray, models_dir: Path,
                max_drop: float | None) -> tuple[bytes, dict[str, Any]]:  # fmt: skip
    """The int8 file that loses at most `max_drop` validation mean IoU against the float32 file of a model.

    That is `full`, int8 throughout, if it holds. Else the operators with the worst signal-to-noise ratio stay in
    float: 1, 2, 4 ... of them, until it does. Writes `int8_sensitivity.csv` and `.png`. With `max_drop` None it
    only writes these.

    Returns:
        The file and what its record says of it.

    Raises:
        pipeline.UserError: not even half of the operators in float are enough.
    """
    images, masks = load_split(models_dir, "validation")

    def mean_iou(file: bytes) -> float:
        return float(iou_per_class(confusion_matrix(masks, logits_of(file, images).argmax(-1)).sum(axis=0)).mean())

    content = convert(round_kernels(model, calibration), "float32")
    ranges = activation_ranges(content, with_extremes(calibration))
    rows = scan_sensitivity(content, ranges, images[:SENSITIVITY_IMAGES], masks[:SENSITIVITY_IMAGES])
    write_csv(models_dir / "int8_sensitivity.csv", rows)
    draw_sensitivity(models_dir / "int8_sensitivity.png", rows)
    pipeline.say("worst operators in int8 alone: " + ", ".join(f"{row['layer']} ({row['snr_db']:.0f} dB)" for row in rows[:5])
                 + f"; all in {models_dir / 'int8_sensitivity.png'}")  # fmt: skip
    if max_drop is None:
        return full, {}

    whole, every = mean_iou(convert(model, "float32")), operators(content)
    file, count, chosen = full, 0, []
    drop = whole - mean_iou(full)
    while drop > max_drop and count < len(rows) // 2:
        count = max(1, 2 * count)
        chosen = [every[row["operator"]] for row in rows[:count]]
        file = compacted(quantise_static(content, ranges, but=chosen))
        drop = whole - mean_iou(file)
    pipeline.say(f"int8 with {count} operators in float loses {drop:.4f} validation mean IoU, {max_drop:.4f} are allowed")
    if drop > max_drop:
        raise pipeline.UserError(f"int8 loses {drop:.4f} mean IoU even with {count} of {len(every)} operators in float; "
                                 "allow more with --max-drop, or train for it with --qat")  # fmt: skip
    about: dict[str, Any] = {"validation_drop": round(drop, 5), "float_operators": [operator.layer for operator in chosen]}
    if chosen:
        about |= {"more_bytes": len(file) - len(full), "times_slower": round(time_ratio(file, full, images[0]), 3)}
        pipeline.say(f"kept in float: {', '.join(about['float_operators'])}; they cost {about['more_bytes']:+,} bytes "
                     f"and {about['times_slower']:.2f} times the time")  # fmt: skip
    return file, about


def time_ratio(first: bytes, second: bytes, image: np.ndarray) -> float:
    """Median time of the first .tflite file over that of the second, taking turns on one thread."""
    calls = {}
    for name, content in (("first", first), ("second", second)):
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        set_image(interpreter, image)
        calls[name] = interpreter.invoke
    times = time_in_turns(calls)
    return float(np.median(times["first"][0]) / np.median(times["second"][0]))


# --- checks of what was written -------------------------------------------------------------


def kernel_zeros(content: bytes) -> dict[str, float]:
    """Share of zeros in the kernel of each convolution of a .tflite file, by layer."""
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # XNNPACK would keep the kernels to itself
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    nodes = [node for node in interpreter._get_ops_details() if node["op_name"] in ("CONV_2D", "TRANSPOSE_CONV")]
    names = {operator.tensor: operator.layer for operator in operators(content)}
    tensors = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    return {names[tensors[node["outputs"][0]]]: float(np.mean(interpreter.get_tensor(node["inputs"][1]) == 0)) for node in nodes}


def check_zeros(content: bytes, model: keras.Model) -> float:
    """The share of zeros in an int8 file's convolution kernels, weighted by size.

    Raises:
        pipeline.UserError: a kernel has fewer zeros than the Keras layer it came from: the pruning was lost.
    """
    found, own = kernel_zeros(content), {layer.name: layer.kernel.numpy() for layer in model.layers if is_convolution(layer)}
    for name, kernel in own.items():
        if name in found and found[name] < np.mean(kernel == 0) - 1e-6:
            raise pipeline.UserError(f"the int8 file has {found[name]:.1%} zeros in {name}, the pruned model "
                                     f"{np.mean(kernel == 0):.1%}; make it anew with: python pruning.py")  # fmt: skip
    sizes = {name: kernel.size for name, kernel in own.items() if name in found}
    return round(sum(found[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values())), 4)


def check(path: Path, variant: str, images: np.ndarray, expected: np.ndarray, pixels: tuple[float, float] = (0.0, 1.0),
          mixed: bool = False) -> float:  # fmt: skip
    """Opens a written file and compares it with the model it came from.

    Args:
        images: uint8 (n, size, size, 3). expected: the source's class indices (n, size, size).
        pixels: what an int8 file's input means by pixels 0 and 255, see `pixel_range`.
        mixed: whether an int8 file may hold float operators.

    Returns:
        The share of pixels on which both agree.

    Raises:
        pipeline.UserError: too little agreement, or an int8 file that computes in float or whose
            input is not a plain pixel.
    """
    interpreter = open_interpreter(path)
    if variant == "int8" and not mixed:
        floats = [t["name"] for t in interpreter.get_tensor_details() if t["dtype"] in (np.float16, np.float32)]
        if floats:
            raise pipeline.UserError(f"the int8 file computes in float at {floats[0]}; replace that layer in training.py")
        scale, zero_point = interpreter.get_input_details()[0]["quantization"]
        first = scale * (np.iinfo(interpreter.get_input_details()[0]["dtype"]).min - zero_point)
        if not np.allclose((first, first + 255 * scale), pixels, atol=scale / 10):
            raise pipeline.UserError(f"the int8 input has scale {scale}, zero point {zero_point}, not that of a pixel")
    agreement = float(np.mean(np.stack(list(predict_tflite(interpreter, images))) == expected))
    if agreement < LEAST_AGREEMENT:
        raise pipeline.UserError(f"the {variant} file agrees with the pruned model on only {agreement:.1%} of the "
                                 f"pixels of {len(images)} validation images; try --calibration-images 500, "
                                 "or train for longer")  # fmt: skip
    return round(agreement, 5)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--calibration-images", type=pipeline.bounded(int, 1), default=CALIBRATION_IMAGES, metavar="N",
                        help="training images that set the int8 ranges (default: %(default)s)")  # fmt: skip
    parser.add_argument("--int8-input", choices=("uint8", "int8"), default="uint8",
                        help="type of the int8 file's input; its output is int8 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sensitivity", action="store_true",
                        help="try each operator in int8 alone; writes a table and a picture")  # fmt: skip
    parser.add_argument("--max-drop", type=pipeline.bounded(float, 0.0, 1.0), default=None, metavar="MEAN_IOU",
                        help="what int8 may lose on the validation split; its worst operators stay float if it loses more; "
                             "such a file takes int8 pixels, 0..255 less 128 (default: no limit)")  # fmt: skip
    parser.add_argument("--qat", action="store_true", help="fine-tune for int8 before converting to it")
    parser.add_argument("--epochs", type=pipeline.bounded(int, 1), default=EPOCHS, help="of --qat (default: %(default)s)")
    parser.add_argument("--batch-size", type=pipeline.bounded(int, 1), default=BATCH_SIZE,
                        help="images per step of --qat (default: %(default)s)")  # fmt: skip
    parser.add_argument("--learning-rate", type=pipeline.bounded(float, 0), default=LEARNING_RATE,
                        help="peak learning rate of --qat (default: %(default)s)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from an unfinished --qat of the same settings")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises pipeline.UserError for what the user can mend."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    stage = pipeline.Stage(__file__, arguments)
    stage.require("dataset", "pruned")
    variants = [variant for variant in VARIANTS if variant != "float32"]
    if arguments.if_needed and stage.up_to_date(*variants):
        return

    model = load_model(models_dir, "pruned")
    rows, calibration = calibration_sample(models_dir, arguments.calibration_images, arguments.seed)
    images = load_split(models_dir, "validation")[0][:COMPARED_IMAGES]
    expected = np.concatenate(list(predict(model, images)))
    for variant in variants:
        source, about = (model, expected), {}
        if variant == "int8" and arguments.qat:
            trained, imitated = train_for_int8(stage, calibration, arguments)
            source = trained, np.concatenate(list(predict(trained, images)))
            about["qat_validation_mean_iou"] = imitated
        content = convert(source[0], variant, calibration, arguments.int8_input)
        if variant == "dynamic":
            about["int8_layers"] = [operator.layer for operator in worth_it(content)]
        if variant == "int8":
            about["calibration_rows"] = rows.tolist()
            if arguments.sensitivity or arguments.max_drop is not None:
                content, found = int8_within(source[0], content, calibration, models_dir, arguments.max_drop)
                about |= found
            about["zeros"] = check_zeros(content, model)
        metrics: dict[str, Any] = {"bytes": len(content)} | about
        with stage.new_artifact(variant, metrics) as path:
            path.write_bytes(content)
            metrics["agreement"] = check(path, variant, images, source[1], pixel_range(model), bool(about.get("float_operators")))
        pipeline.say(f"wrote {pipeline.artifact_path(models_dir, variant)}: {len(content) / 1e6:.2f} MB, "
                     f"same class as its source on {metrics['agreement']:.2%} of pixels")  # fmt: skip
    pipeline.say(f"done in {stage.seconds()} s")


if __name__ == "__main__":
    pipeline.run(main)
