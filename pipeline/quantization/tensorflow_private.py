"""The private names of TensorFlow that quantization uses. If a new release breaks one, mend it
here.

Both belong to the same detour: the public converter calibrates and quantises in one call, and
between the two nobody can replace the activation ranges that it found.
"""

from __future__ import annotations

from pipeline.base.lazy import tf, tf_convert


def stop_after_calibration(converter: tf.lite.TFLiteConverter) -> None:
    """Makes `converter.convert()` return the calibrated file instead of the quantised one.

    That is a float32 .tflite file whose tensors carry the smallest and the largest value seen
    over the representative dataset. Seen in tensorflow 2.21.0. No public option of the converter
    returns that file.
    """
    converter._experimental_calibrate_only = True


def quantise_calibrated(content: bytes, input_type: tf.DType, output_type: tf.DType) -> bytes:
    """Quantises a calibrated .tflite file to int8; the second half of the converter.

    Seen in tensorflow 2.21.0, in a module that the public API does not export. No public call
    takes a file that is calibrated already.

    Args:
        content: float32 file with a minimum and a maximum at each tensor, as
            `stop_after_calibration` makes the converter return it.
        input_type, output_type: tf.uint8, tf.int8 or tf.float32, types of the file's input and
            output.

    Returns:
        The .tflite file with int8 weights (per output channel) and int8 activations.
    """
    return tf_convert.mlir_quantize(
        content, input_data_type=input_type, output_data_type=output_type
    )
