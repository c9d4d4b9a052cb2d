"""Stage 2 of 5: train the U-Net that the later stages make small.

Reads   models/dataset/                 (train and validation, never test)
Writes  models/original_model.h5        the weights of the best epoch by validation mean IoU
        models/original_training.csv    loss and IoU per class, epoch by epoch
        models/original_training.png    the same as curves
        models/augmented.jpg            two dozen training examples as the network gets them

    python training.py                                  (compact U-Net on an ImageNet encoder)
    python training.py --preset small                   (image not enlarged, fewer filters)
    python training.py --architecture classic --epochs 5    (the textbook U-Net; slow on a CPU)
    python training.py --taught-epochs 0                (no self-distillation, a third faster)
    python training.py --models-dir mine --start-from models/original_model.h5
    python training.py --resume                         (continue after a kill, bit for bit)

The compact network is a U-Net on EfficientNet-Lite0, cut after its first block of stride 32. It
first learns from the masks (supervised), then for half as many epochs also from itself
(self-distillation): the loss gets a second term, from the trained network's predictions for the
same image, larger, and for its mirror image (docs/choices.md). On two CPU cores each phase takes
three quarters of an hour; mean IoU on the validation split of Oxford-IIIT Pet at 128 pixels is
0.788 after the first and 0.794 after the second. All GPUs are used.

Another network, loss or augmentation: pipeline/training/networks.py, losses.py, input_pipeline.py.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # python -P and -I leave it out

from pipeline.base import cli, console

if __name__ == "__main__":
    console.guard_imports()  # before the slow ones

import numpy as np

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.lazy import keras, tf
from pipeline.base.stage import Stage
from pipeline.base.system import is_first_worker
from pipeline.checks.preflight import check_network, schedule_notes
from pipeline.data.dataset import load_classes, load_size
from pipeline.inference import keras_files
from pipeline.report import sidecars, training_pictures
from pipeline.training import (
    duration,
    earlier_model,
    hardware,
    imagenet,
    loop,
    losses,
    mirroring,
    networks,
    taken_model,
)
from pipeline.training.building import build_network
from pipeline.training.checkpoints import forget, left_by
from pipeline.training.epoch_rows import best_epoch
from pipeline.training.input_pipeline import steps_per_epoch
from pipeline.training.optimizers import layer_factors, make_optimizer
from pipeline.training.views import distillation_pair
from pipeline.training.workers import ending_together

EPOCHS = 40  # supervised
LEAST_STEPS = 3000  # of the optimizer in them: few images get more epochs (docs/choices.md)
BATCH_SIZE = 16  # images, over all devices together
LEARNING_RATE = 1.5e-3  # peak, after warm-up
WARM_UP_STEPS = 200
ENCODER_SHARE = 0.3  # of that rate, for an encoder with ImageNet weights
DISTILLATION_EPOCHS = 0.5  # self-distillation epochs per supervised epoch
DISTILLATION_RATE = 0.5  # peak learning rate of self-distillation over that of the epochs before
WISE_FT_WEIGHT = 1 / 3  # of the weights before self-distillation, in the mean with those after it
PHASES = ("original", "taught")  # supervised, self-distillation: names of their checkpoints
ONLY_SELF_DISTILLATION = ("taught_epochs",)  # settings that do not change the supervised phase


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = cli.argument_parser(__doc__, __file__)
    parser.add_argument(
        "--architecture",
        choices=tuple(networks.NETWORKS),
        default="compact",
        help="the network; one of your own goes into pipeline/training/networks.py (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--encoder",
        choices=("auto", "imagenet", "scratch"),
        default="auto",
        help="initial weights of the encoder; auto: from ImageNet, if the network has the "
        "layers for them (default)",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(networks.PRESETS),
        default="default",
        help="size of the compact network: small does not enlarge the image and has fewer "
        "filters, large enlarges it more (default: %(default)s)",
    )
    parser.add_argument(
        "--enlarge",
        type=cli.bounded(float, 0.25, 4.0),
        metavar="FACTOR",
        help="enlarge the image by this factor inside the compact network; 1: faster, less "
        f"accurate (default: the preset's, {networks.PRESETS['default'].enlargement})",
    )
    earlier_model.add_flags(parser)
    taken_model.add_flags(parser)
    cli.add_training(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE, "of training", LEAST_STEPS)
    parser.add_argument(
        "--taught-epochs",
        type=cli.bounded(int, 0),
        metavar="EPOCHS",
        help="self-distillation epochs after --epochs (default: half as many); with --resume, "
        "another number restarts only these",
    )
    losses.add_flags(parser)
    mirroring.add_flags(parser)
    hardware.add_flags(parser)
    arguments = parser.parse(argv)
    return cli.with_defaults(arguments, dependent_defaults(arguments))


def dependent_defaults(settings: argparse.Namespace) -> dict[str, Any]:
    """The defaults that depend on other settings, or on the number of training images."""
    data = settings.models_dir, settings.batch_size
    epochs = duration.default_epochs(*data, EPOCHS, LEAST_STEPS)
    return {
        "enlarge": networks.PRESETS[settings.preset].enlargement,
        "epochs": epochs,
        "taught_epochs": int(DISTILLATION_EPOCHS * (settings.epochs or epochs)),
    }


def train(stage: Stage, arguments: argparse.Namespace) -> None:
    """Builds the network, trains it and writes it."""
    models_dir, epochs, batch_size = arguments.models_dir, arguments.epochs, arguments.batch_size
    strategy = hardware.pick_strategy()
    copies = strategy.num_replicas_in_sync
    if batch_size % copies:
        raise console.UserError(
            f"--batch-size {batch_size} does not divide over {copies} devices; use a multiple of it"
        )
    data = read_record(models_dir, "dataset")
    images, size = data["splits"]["train"]["examples"], load_size(models_dir)
    classes, steps = load_classes(models_dir), epochs * steps_per_epoch(images, batch_size)
    objective = losses.Objective(mirror=mirroring.asked(arguments, classes.names))

    # The network, checked before it is trained for an hour, and its optimizer.
    keras.utils.set_random_seed(arguments.seed)
    network = networks.choose(arguments.architecture, arguments.preset, arguments.enlarge)
    build = functools.partial(build_network, network, size, len(classes))
    with strategy.scope():
        model, notes = build(hardware.resolve_precision(arguments.precision))
        pretrained = imagenet.fill_encoder(model, arguments.encoder)
        started = earlier_model.load(model, arguments.start_from)
        factors = dict.fromkeys(pretrained, ENCODER_SHARE)
        schedule = (steps, arguments.learning_rate, WARM_UP_STEPS)
        optimizer = make_optimizer(*schedule, factors=layer_factors(model, factors))
    notes += schedule_notes(model, epochs, steps) + check_network(model, models_dir)
    for note in notes:
        console.say(f"note: {note}")
    encoder = "imagenet" if pretrained else "scratch"
    console.say(f"{model.name}: {model.count_params():,} parameters, encoder from {encoder}")
    console.say(f"{images} images of {size[1]} x {size[0]} from {data['source']}")

    if arguments.class_weights == "balanced":
        shares = data["splits"]["train"]["class_shares"]
        weights = losses.balanced_weights([shares[name] for name in classes.names])
        objective = replace(objective, class_weights=weights)
    training_pictures.show_examples(models_dir, arguments.seed, objective.mirror)

    # Supervised training, then self-distillation.
    if not arguments.resume and is_first_worker():
        forget(stage, PHASES[1], ours_only=True)
    phase = loop.Phase(PHASES[0], epochs, batch_size, arguments.seed, arguments.resume, objective)
    phase = replace(phase, total_epochs=epochs + arguments.taught_epochs)
    trained = loop.fit(stage.ignoring(*ONLY_SELF_DISTILLATION), model, optimizer, phase, strategy)
    if arguments.taught_epochs:
        trained = self_distill(stage, model, strategy, objective, factors, trained)
    weights = model.get_weights()  # on every worker, see TrainingState.save
    if is_first_worker():
        plain, _ = build()  # without the precision and the strategy of the training
        plain.set_weights(weights)
        finish(stage, plain, trained, objective, {"learning_rate_factors": factors} | started)


def self_distill(
    stage: Stage,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    objective: losses.Objective,
    factors: dict[str, float],
    supervised: loop.Trained,
) -> loop.Trained:
    """Trains on with the trained network as teacher; leaves the best epoch of both phases.

    (Born-again networks: Furlanello et al. 2018.) The teacher's probabilities are averaged over
    each image and its mirror image, and it sees a larger image than the student does
    (`views.distillation_pair`). After each epoch two sets of weights are validated: the EMA
    weights, and their mean with the weights before self-distillation (WISE_FT_WEIGHT). The better
    one is kept. A resumed run takes the teacher from the checkpoint of the supervised phase.

    Args:
        objective: of the supervised phase; the teacher is added to it.
        factors: of the learning rate, by name of layer.
        supervised: result of the supervised phase.

    Returns:
        The result of both phases.
    """
    asked = stage.arguments
    console.say("self-distillation starts: the network also learns from its own predictions")
    with strategy.scope():
        teacher = keras.models.clone_model(model)
        teacher.set_weights(model.get_weights())
        teacher, student = distillation_pair(teacher, model)
        images = read_record(stage.models_dir, "dataset")["splits"]["train"]["examples"]
        steps = steps_per_epoch(images, asked.batch_size) * asked.taught_epochs
        schedule = (steps, DISTILLATION_RATE * asked.learning_rate, WARM_UP_STEPS)
        optimizer = make_optimizer(*schedule, factors=layer_factors(model, factors))
    phase = loop.Phase(
        PHASES[1],
        len(supervised.history) + asked.taught_epochs,
        asked.batch_size,
        asked.seed,
        asked.resume,
        replace(objective, teacher=teacher),
        student=student,
        history=supervised.history,
        resumption=supervised.resumption,
        wise_ft_weight=WISE_FT_WEIGHT,
    )
    return loop.fit(stage, model, optimizer, phase, strategy)


def finish(
    stage: Stage,
    model: keras.Model,
    trained: loop.Trained,
    objective: losses.Objective,
    tables: dict[str, Any],
) -> None:
    """Puts the model and its record in place, and only then removes the checkpoints."""
    history, resumption = trained
    best = history[best_epoch(history)]
    metrics = {
        "parameters": model.count_params(),
        "best_epoch": best["epoch"],
        "validation_mean_iou": best["mean_iou"],
        "images_per_second": float(np.median([row["images_per_second"] for row in history])),
    } | objective.as_metrics()
    tables = {"history": history, "network": model.name, **tables}
    with stage.new_artifact("original", metrics, tables=tables, resumption=resumption) as (path,):
        keras_files.save_model(model, path)
    forget(stage, *PHASES)
    console.say(
        f"wrote {artifact_path(stage.models_dir, 'original')}: validation mean IoU "
        f"{best['mean_iou']:.4f} (epoch {best['epoch']}) in {stage.seconds() / 60:.1f} min"
    )
    pictures = training_pictures.drawings(stage.models_dir)
    sidecars.draw(stage, "original", pictures, training_pictures.__file__)


def take(stage: Stage, arguments: argparse.Namespace) -> None:
    """Makes a model that was trained elsewhere the original one."""
    taken = taken_model.take(stage, arguments.take)
    for note in taken.notes + check_network(taken.model, stage.models_dir):
        console.say(f"note: {note}")
    taken_model.write(stage, taken)


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises console.UserError for what the user can mend."""
    arguments = parse(argv)
    usual = cli.with_defaults(parse([]), dependent_defaults(arguments), all_of_them=True)
    stage = Stage.begin(__file__, arguments, usual).require("dataset")
    stage = earlier_model.with_named_models(stage)
    phases = dict(zip(PHASES, (stage.ignoring(*ONLY_SELF_DISTILLATION), stage)))
    if stage.nothing_to_do("original", left=left_by(phases)):
        for phase, part in phases.items():
            forget(part, phase, ours_only=True)
        pictures = training_pictures.drawings(stage.models_dir)
        sidecars.draw_again(stage, "original", pictures, training_pictures.__file__)
    else:
        with ending_together(), stage.working():
            (take if arguments.take else train)(stage, arguments)


if __name__ == "__main__":
    console.run(main)
