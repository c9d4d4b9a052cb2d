"""Stage 3 of 5: prune the network and fine-tune what is left.

Reads   models/original_model.h5, models/dataset/
Writes  models/pruned_model.h5                the pruned network
        models/pruned_training.csv, .png      loss and IoU of the fine-tuning, epoch by epoch
        models/pruned_channels.csv            with --channels: channels kept, group by group
        models/pruned_sensitivity.csv, .png   with --sensitivity: mean IoU lost, layer by layer

    python pruning.py                                 (60 % zeros in the large kernels)
    python pruning.py --channels 0.4 --sparsity 0     (a smaller, faster network without zeros)
    python pruning.py --channels 0.4 --sparsity 0.6   (first channels, then zeros)
    python pruning.py --sparsity 0                    (skips pruning: a copy of the original)
    python pruning.py --sensitivity                   (plots how sensitive each layer is to pruning)
    python pruning.py --budget --max-bytes 800000     (finds the --channels that a device needs)

On two CPU cores the default takes half an hour; validation mean IoU goes from 0.7944 to 0.7928.

There are two kinds of pruning. Magnitude pruning (unstructured) sets the smallest weights of the
large kernels to zero, step by step. Zeros shrink a file only when it is compressed (gzip, as app
stores and updates use), and speed up only kernels made for them. Channel pruning (structured)
removes whole channels: the network that is left is smaller and faster everywhere. During
fine-tuning the network learns from the masks and from the original network's predictions.

--sparsity counts the kernels that are pruned: 60 % zeros in them are 51 % of all weights.

What is pruned: pipeline/pruning/magnitude.py, channels.py.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # python -P and -I leave it out

from pipeline.base import cli, console

if __name__ == "__main__":
    console.guard_imports()  # before the slow ones

from pipeline.base import unfinished
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.files import write_csv
from pipeline.base.flag_rules import PRUNES_NOTHING
from pipeline.base.identity import NOT_RESUMED, Resumption
from pipeline.base.lazy import keras, tfmot
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference import keras_files
from pipeline.pruning import channel_removal, channels, magnitude
from pipeline.pruning.dependency_graph import channel_groups
from pipeline.report import charts, gates, sidecars
from pipeline.training import duration, loop
from pipeline.training.checkpoints import forget, left_by
from pipeline.training.epoch_rows import best_epoch
from pipeline.training.input_pipeline import steps_per_epoch
from pipeline.training.losses import Objective, recorded_objective
from pipeline.training.optimizers import layer_factors, make_optimizer, recorded_factors
from pipeline.training.views import distillation_pair

SPARSITY = 0.6  # fraction of zeros in all pruned kernels together
EPOCHS = 20
LEAST_STEPS = 1500  # of the optimizer in them: few images get more epochs (docs/choices.md)
BATCH_SIZE = 16  # images
LEARNING_RATE = 1e-3  # peak, after warm-up
WARM_UP_STEPS = 50
DISTILLATION_WEIGHT = 1.0  # of the loss from the original network's predictions


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = cli.argument_parser(__doc__, __file__)
    parser.add_argument(
        "--sparsity",
        type=cli.bounded(float, 0.0, 1 - magnitude.LEAST_KEPT),
        default=SPARSITY,
        metavar="SHARE",
        help="fraction of zeros in the pruned kernels, 0 to 0.98 (default: %(default)s)",
    )
    parser.add_argument(
        "--channels",
        type=cli.bounded(float, 0.0, 0.9),
        default=0.0,
        metavar="SHARE",
        help="fraction of the channels to remove first, 0 to 0.9 (default: 0)",
    )
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="plot how sensitive each layer is to pruning, and write the table; prunes nothing",
    )
    gates.add_budget(parser)
    cli.add_training(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE, "of fine-tuning", LEAST_STEPS)
    arguments = parser.parse(argv)
    return cli.with_defaults(arguments, dependent_defaults(arguments))


def dependent_defaults(settings: argparse.Namespace) -> dict[str, Any]:
    """The default that depends on other settings, and on the number of training images."""
    data = settings.models_dir, settings.batch_size
    return {"epochs": duration.default_epochs(*data, EPOCHS, LEAST_STEPS)}


def cut_channels(
    stage: Stage, model: keras.Model, objective: Objective
) -> tuple[keras.Model, dict[str, Any], list[dict[str, Any]], Resumption]:
    """Removes the least important channels of a model.

    Returns:
        The smaller model, metrics for the record, a table of the channels, and what the choice of
        channels, if it is that of a stopped run, has to tell the record.
    """
    groups, share = channel_groups(model), stage.arguments.channels
    tried, masked = (keras_files.load_model(stage.models_dir, "original") for _ in range(2))
    batch_size = stage.arguments.batch_size
    kept, resumption = channels.planned_channels(stage, tried, groups, share, batch_size, objective)
    small = channel_removal.remove_channels(model, groups, kept)
    channel_removal.mask_channels(masked, groups, kept)
    images, _ = load_split(stage.models_dir, "validation")
    difference = channel_removal.check_smaller(small, masked, images[:8])

    rows = channels.channel_rows(groups, kept)
    for row in rows:
        name = textwrap.shorten(row["made by"], 60, placeholder=" ...")
        console.say(f"{name:62}{row['kept']:5} of {row['channels']}")
    removed = 1 - sum(map(len, kept)) / sum(group.channels for group in groups)
    console.say(
        f"{removed:.1%} of channels removed: {model.count_params():,} -> "
        f"{small.count_params():,} parameters"
    )
    about = {"channels_removed": round(removed, 4), "differs_from_masked": difference}
    return small, about, rows, resumption


def skip_pruning(stage: Stage) -> None:
    """Writes the original network as the pruned one."""
    original = read_record(stage.models_dir, "original")["metrics"]
    same = ("parameters", "validation_mean_iou", "class_weights", "mirror")
    metrics = {"sparsity": 0.0, "layers": {}} | {key: original.get(key) for key in same}
    with stage.new_artifact("pruned", metrics) as (path,):
        keras_files.save_model(keras_files.load_model(stage.models_dir, "original"), path)
    forget(stage, "pruned")
    unfinished.remove(channels.plan_path(stage.models_dir))
    console.say(
        f"wrote {artifact_path(stage.models_dir, 'pruned')}: pruning was skipped, it is the "
        "original network"
    )


def prune(stage: Stage, arguments: argparse.Namespace) -> None:
    """Prunes channels and weights, fine-tunes what is left and writes it."""
    if not arguments.sparsity and not arguments.channels:
        skip_pruning(stage)
        return
    models_dir, epochs, batch_size = arguments.models_dir, arguments.epochs, arguments.batch_size

    # The original network: once as teacher, once to be pruned.
    keras.utils.set_random_seed(arguments.seed)
    teacher = keras_files.load_model(models_dir, "original")
    network = keras_files.load_model(models_dir, "original")
    metrics: dict[str, Any] = {}
    kept: list[dict[str, Any]] = []
    resumption = NOT_RESUMED

    # First whole channels are removed, then the smallest weights of what is left are chosen.
    objective = recorded_objective(read_record(models_dir, "original")["metrics"])
    sparsity = magnitude.choose_sparsity(network, arguments.sparsity)
    images = read_record(models_dir, "dataset")["splits"]["train"]["examples"]
    steps = epochs * steps_per_epoch(images, batch_size)
    if sparsity and steps < 2:
        raise console.UserError(
            f"{steps} steps are too few for pruning; use more --epochs or a smaller --batch-size"
        )
    if arguments.channels:
        network, metrics, kept, resumption = cut_channels(stage, network, objective)
        sparsity = magnitude.choose_sparsity(network, arguments.sparsity, sparsity)
    student = magnitude.wrap(network, sparsity, steps) if sparsity else network

    # A pretrained encoder learns slowly, as in training, unless it lost channels and has more to
    # recover (docs/choices.md).
    original = read_record(models_dir, "original")
    by_layer = {} if arguments.channels else recorded_factors(original, network)
    factors = layer_factors(network, by_layer)
    optimizer = make_optimizer(steps, arguments.learning_rate, WARM_UP_STEPS, factors=factors)

    callback = tfmot.sparsity.keras.UpdatePruningStep()  # called where Keras' own fit calls it
    callback.set_model(student)
    callback.on_train_begin()
    ramp = int(epochs * magnitude.RAMP_FRACTION) if sparsity and epochs > 1 else 0
    teacher, smaller = distillation_pair(teacher, student)
    phase = loop.Phase(
        "pruned",
        epochs,
        batch_size,
        arguments.seed,
        arguments.resume,
        replace(objective, teacher=teacher, teacher_weight=DISTILLATION_WEIGHT),
        student=smaller,
        before_validation=lambda: callback.on_epoch_end(None),  # sets the zeros in EMA weights
        first_choice=ramp,  # the first epoch at full sparsity
        resumption=resumption,
    )
    history, resumption = loop.fit(stage, student, optimizer, phase)

    pruned = tfmot.sparsity.keras.strip_pruning(student)
    per_layer = magnitude.layer_sparsity(pruned, sparsity)
    achieved = magnitude.check_sparsity(per_layer, sparsity, epochs)
    best = history[best_epoch(history, ramp)]
    metrics |= {
        "sparsity": round(achieved, 4),
        "layers": per_layer,
        "parameters": pruned.count_params(),
        "best_epoch": best["epoch"],
        "validation_mean_iou": best["mean_iou"],
    } | objective.as_metrics()
    finish(stage, pruned, loop.Trained(history, resumption), metrics, kept)


def finish(
    stage: Stage,
    model: keras.Model,
    trained: loop.Trained,
    metrics: dict[str, Any],
    kept: list[dict[str, Any]],
) -> None:
    """Puts the model and its record in place, and only then removes the checkpoint."""
    tables = {"history": trained.history, "channels": kept}
    resumption = trained.resumption
    with stage.new_artifact("pruned", metrics, tables=tables, resumption=resumption) as (path,):
        keras_files.save_model(model, path)
    forget(stage, "pruned")
    unfinished.remove(channels.plan_path(stage.models_dir))
    console.say(
        f"wrote {artifact_path(stage.models_dir, 'pruned')}: {model.count_params():,} parameters, "
        f"{metrics['sparsity']:.1%} zeros"
    )
    console.say(
        f"validation mean IoU {metrics['validation_mean_iou']:.4f} (epoch "
        f"{metrics['best_epoch']}) in {stage.seconds() / 60:.1f} min"
    )
    sidecars.draw(stage, "pruned", drawings(stage.models_dir), charts.__file__)


def drawings(models_dir: Path) -> sidecars.Drawings:
    """Tables and curves of the fine-tuning, drawn from the pruned model's record."""
    record = read_record(models_dir, "pruned")
    metrics, history, kept = record["metrics"], record.get("history"), record.get("channels")
    if not history:  # nothing was pruned; or an older version drew them itself
        return {}

    def draw_curves(path: Path) -> None:
        fewer, share = metrics.get("channels_removed", 0), metrics["sparsity"]
        what = [f"{fewer:.0%} fewer channels"] * bool(fewer) + [f"{share:.0%} zeros"] * bool(share)
        title = "fine-tuning with " + " and ".join(what)
        classes = load_classes(models_dir)
        charts.save(charts.curves(history, title, classes, metrics["best_epoch"]), path)

    files: sidecars.Drawings = {
        models_dir / "pruned_training.csv": lambda path: write_csv(path, history),
        models_dir / "pruned_training.png": draw_curves,
    }
    if kept:
        files[models_dir / "pruned_channels.csv"] = lambda path: write_csv(path, kept)
    return files


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises console.UserError for what the user can mend."""
    arguments = parse(argv)
    usual = cli.with_defaults(parse([]), dependent_defaults(arguments), all_of_them=True)
    stage = Stage.begin(__file__, arguments, usual).ignoring(*PRUNES_NOTHING)
    stage = stage.require("dataset", "original")
    if arguments.sensitivity:
        from pipeline.checks import pruning_sensitivity

        pruning_sensitivity.write(stage)
    elif arguments.budget:
        from pipeline.checks import budget  # and the conversion, which no other run needs

        budget.search(stage)
    elif stage.nothing_to_do("pruned", left=left_by({"pruned": stage})):
        forget(stage, "pruned", ours_only=True)
        sidecars.draw_again(stage, "pruned", drawings(stage.models_dir), charts.__file__)
    else:
        with stage.working():
            prune(stage, arguments)


if __name__ == "__main__":
    console.run(main)
