"""Stage 4 of 5: convert the models to LiteRT: float32 as the baselines, and three smaller types.

Reads   models/original_model.h5, pruned_model.h5
        models/dataset/                           (training images, for calibration)
Writes  models/float32_model.tflite               the original, float32
        models/pruned_float32_model.tflite        the pruned model, float32
        models/dynamic_quantized_model.tflite     int8 weights in the layers that get faster by it
        models/int8_quantized_model.tflite        int8 throughout, takes raw uint8 pixels
        models/float16_quantized_model.tflite     float16 weights
        models/int8_sensitivity.csv, .png         with --sensitivity or --max-drop: the accuracy
                                                  that each operator costs in int8

    python quantization.py
    python quantization.py --calibration-images 500 --int8-input int8
    python quantization.py --sensitivity      (each operator in int8 alone, on validation images)
    python quantization.py --max-drop 0.002   (if int8 loses more, its worst operators stay float)
    python quantization.py --qat              (quantization-aware fine-tuning; zeros stay zeros)
    python quantization.py --export handover  (a folder with all that a device needs)

Takes half a minute on two CPU cores, two minutes with --sensitivity, and as long as a few epochs of
training with --qat. Every file is opened again, run on a few validation images and compared with
its source model. A file that disagrees with it, or an int8 file with a float operator that was not
asked for, does not replace the old one; the other files are written all the same.

Another conversion is one entry in pipeline/variants.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # python -P and -I leave it out

from pipeline.base import cli, console

if __name__ == "__main__":
    console.guard_imports()  # before the slow ones

import numpy as np

from pipeline.base import ownership
from pipeline.base.artifacts import artifact_path, command, read_record
from pipeline.base.files import write_csv
from pipeline.base.lazy import keras
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_split
from pipeline.deploy import handover
from pipeline.inference import contract
from pipeline.inference.keras_files import KerasModel, load_model
from pipeline.quantization import convert, gptq, selective, sensitivity
from pipeline.quantization.verify import Disagreement, check, check_zeros
from pipeline.report import charts, sidecars
from pipeline.training.checkpoints import forget, left_by
from pipeline.variants import VARIANTS

CALIBRATION_IMAGES = 200  # training images whose activations set the int8 ranges
COMPARED_IMAGES = 16  # validation images on which a file is compared with its source model
EPOCHS = 3  # of --qat
BATCH_SIZE = 16  # images per step of --qat


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = cli.argument_parser(__doc__, __file__)
    parser.add_argument(
        "--calibration-images",
        type=cli.bounded(int, 1),
        default=CALIBRATION_IMAGES,
        metavar="N",
        help="training images that set the int8 ranges (default: %(default)s)",
    )
    parser.add_argument(
        "--int8-input",
        choices=("uint8", "int8"),
        default="uint8",
        help="type of the int8 file's input (default: %(default)s)",
    )
    parser.add_argument(
        "--int8-output",
        choices=("int8", "uint8"),
        default="int8",
        help="type of its output; LiteRT.js takes uint8 only (default: %(default)s)",
    )
    handover.add_flags(parser)
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="measure what each operator costs in int8 alone; writes a table and a chart",
    )
    parser.add_argument(
        "--max-drop",
        type=cli.bounded(float, 0.0, 1.0),
        default=None,
        metavar="MEAN_IOU",
        help="mean IoU that int8 may lose on the validation split; if it loses more, its most "
        "sensitive operators stay float (default: no limit)",
    )
    parser.add_argument(
        "--qat", action="store_true", help="fine-tune with simulated int8 before converting (QAT)"
    )
    cli.add_training(parser, EPOCHS, BATCH_SIZE, of="of --qat")
    return parser.parse(argv)


def sources() -> list[str]:
    """Names of the Keras models that files are made from, each once."""
    return list(dict.fromkeys(variant.source for variant in VARIANTS.values()))


def note_unknown_layers(models: dict[str, keras.Model], qat_too: bool) -> None:
    """Names the layers whose kernels GPTQ or --qat does not round, if there are any.

    Args:
        models: the Keras models, by name.
        qat_too: whether --qat is asked for.
    """
    calibrated = [variant.source for variant in VARIANTS.values() if variant.calibrated]
    unknown = [name for source in calibrated for name in gptq.left_to_converter(models[source])]
    if names := ", ".join(dict.fromkeys(unknown)):
        console.say(f"note: GPTQ does not know {names}: rounded to the nearest step")
    if qat_too:
        from pipeline.quantization import qat  # needs Keras at once

        if names := ", ".join(qat.unsimulated(models[VARIANTS["int8"].source])):
            console.say(f"note: --qat does not know {names}: trained without rounding")


def int8_types(arguments: argparse.Namespace) -> tuple[str, str]:
    """The types of the int8 file's input and output that the flags ask for."""
    return arguments.int8_input, arguments.int8_output


@dataclass(frozen=True)
class Inputs:
    """What the files are made from and compared with."""

    models: dict[str, keras.Model]
    sources: dict[str, convert.Source]  # the same models with what their files share
    rows: np.ndarray  # of the training split: the images that set the ranges
    images: np.ndarray  # of the validation split, uint8 (n, height, width, 3)
    expected: dict[str, np.ndarray]  # the classes that each model gives these

    @classmethod
    def load(cls, arguments: argparse.Namespace) -> Inputs:
        """Those that the arguments name."""
        models_dir = arguments.models_dir
        rows, calibration = convert.calibration_sample(
            models_dir, arguments.calibration_images, arguments.seed
        )
        images = load_split(models_dir, "validation")[0][:COMPARED_IMAGES]
        models = {name: load_model(models_dir, name) for name in sources()}
        prepared = {name: convert.Source(model, calibration) for name, model in models.items()}
        expected = {name: KerasModel(model).class_maps(images) for name, model in models.items()}
        return cls(models, prepared, rows, images, expected)


def quantise(stage: Stage, arguments: argparse.Namespace) -> None:
    """Converts each variant's Keras model, checks each file and writes it.

    A file that is refused costs none of the others.

    Raises:
        UserError: files were refused; those that were not are in place.
    """
    inputs = Inputs.load(arguments)
    note_unknown_layers(inputs.models, arguments.qat)
    refusals = []
    for variant in VARIANTS:
        try:
            write_file(stage, variant, inputs)
        except console.UserError as error:
            refusals.append(str(error))
    if refusals:
        rest = ". The other files were written" if len(refusals) < len(VARIANTS) else ""
        raise console.UserError("; ".join(dict.fromkeys(refusals)) + rest)
    forget(stage, "qat")
    sidecars.draw(stage, "int8", drawings(stage.models_dir), charts.__file__)
    console.say(f"done in {stage.seconds()} s")


def write_file(stage: Stage, variant: str, inputs: Inputs) -> None:
    """Converts the Keras model of a variant, checks the file and writes it.

    Raises:
        UserError: the file was refused, or its model cannot be converted or trained for int8. The
            old file stays.
    """
    arguments, models_dir, chosen = stage.arguments, stage.models_dir, VARIANTS[variant]
    name = chosen.source  # of the model that the file is compared with
    source, wanted = inputs.sources[name], inputs.expected[name]
    about: dict[str, Any] = {}  # what the record says of the file
    tables: dict[str, Any] = {}  # what charts are drawn from

    # int8 may be trained for, and may keep some operators in float.
    if variant == "int8" and arguments.qat:
        from pipeline.quantization import qat  # needs Keras at once

        model, (history, resumption) = qat.train_for_int8(
            stage.part(variant), chosen.source, source.calibration
        )
        name, wanted = "fine-tuned", KerasModel(model).class_maps(inputs.images)
        source = convert.Source(model, source.calibration)
        about["qat_validation_mean_iou"] = max(row["mean_iou"] for row in history)
        tables |= {"history": history, "resumption": resumption}
    content = source.file(variant, *int8_types(arguments))
    if variant == "int8" and (arguments.sensitivity or arguments.max_drop is not None):
        content, scan = sensitivity.scanned(stage, source, content, int8_types(arguments))
        tables["sensitivity"] = scan.pop("sensitivity")
        about |= scan

    # The contract goes in last; then what the record says of the file.
    data = contract.of_data_set(models_dir)
    content = contract.add_contract(content, **data)
    ends = contract.describe(content, **data)
    about |= {f"{end}_type": ends[end]["type"] for end in ("input", "output")}
    if chosen.calibrated:
        about["calibration_rows"] = inputs.rows.tolist()
    elif chosen.weights == "int8":
        about["int8_layers"] = [
            operator.layer for operator in selective.dynamic_range_operators(content)
        ]
    metrics = {"bytes": len(content), **about}

    with stage.new_artifact(variant, metrics, tables=tables) as (path,):
        path.write_bytes(content)
        mixed = bool(about.get("float_operators"))
        try:
            metrics["agreement"] = check(path, variant, inputs.images, wanted, name, mixed)
        except Disagreement as error:
            if not chosen.calibrated:
                raise
            way_out = sensitivity.way_out(source, inputs.images)
            raise console.UserError(f"{error}{way_out}") from None
        if chosen.calibrated:
            model, remedy = inputs.models[chosen.source], command(chosen.source, models_dir)
            metrics["zeros"] = check_zeros(content, variant, model, remedy)
    console.say(
        f"wrote {artifact_path(models_dir, variant)}: {len(content) / 1e6:.2f} MB, "
        f"{metrics['agreement']:.2%} of validation pixels get the class that the "
        f"{name} model gives them"
    )


def drawings(models_dir: Path) -> sidecars.Drawings:
    """Tables and chart of the int8 file, drawn from its record."""
    record = read_record(models_dir, "int8")
    files: sidecars.Drawings = {}
    if history := record.get("history"):
        files[models_dir / "qat_training.csv"] = lambda path: write_csv(path, history)
    if rows := record.get("sensitivity"):
        files[models_dir / "int8_sensitivity.csv"] = lambda path: write_csv(path, rows)
        files[models_dir / "int8_sensitivity.png"] = lambda path: charts.save(
            charts.int8_sensitivity(rows), path
        )
    return files


def begin(arguments: argparse.Namespace) -> Stage:
    """This run, with what decides each file: a float32 file depends on its model alone.

    Raises:
        UserError: the data set or a model is missing, damaged or stale.
    """
    stage = Stage.begin(__file__, arguments, parse([])).ignoring("export")
    stage = stage.require("dataset", *sources())
    flags = set(vars(arguments)) - {"seed"}
    for name, variant in VARIANTS.items():
        if variant.quantised:
            stage = stage.with_part(name, "dataset", variant.source)
        else:
            stage = stage.with_part(name, variant.source, ignoring=flags)
    return stage


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises console.UserError for what the user can mend."""
    arguments = parse(argv)
    if arguments.export:
        ownership.refuse_folder(arguments.export)  # before minutes of work
    stage = begin(arguments)
    if stage.nothing_to_do(*VARIANTS, left=left_by({"qat": stage.part("int8")})):
        sidecars.draw_again(stage, "int8", drawings(stage.models_dir), charts.__file__)
    else:
        with stage.working():
            quantise(stage, arguments)
    if arguments.export:
        handover.write_folder(stage.models_dir, arguments.export)


if __name__ == "__main__":
    console.run(main)
