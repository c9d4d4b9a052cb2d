"""How many epochs a training has where nobody says, and how long it will take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import dictionary, read_record
from pipeline.base.console import UserError, say
from pipeline.base.stage import Stage

TIMED_STEPS = 3  # after a first one, in which TensorFlow compiles the step
LONG = 60  # minutes above which a shorter training is named
# Time that the validation of an image takes, over that of a training step per image: a forward
# pass against a forward and a backward pass.
VALIDATION_COST = 1 / 3


def default_epochs(models_dir: Path, batch_size: int, usual: int, least_steps: int) -> int:
    """The epochs of a training without `--epochs`: `usual`, or more if that makes too few steps.

    An epoch is one pass over the training split, so few pictures make few steps of the optimizer.

    Args:
        models_dir: where the data set is; without one, the result is `usual`.
        batch_size: images per step.
        usual: epochs of a data set that is large enough.
        least_steps: of the optimizer.
    """
    try:
        splits = dictionary(read_record(models_dir, "dataset").get("splits"))
    except UserError:  # the stage says so itself
        return usual
    images = dictionary(splits.get("train")).get("examples")
    steps_per_epoch = images // batch_size if isinstance(images, int) else 0
    return max(usual, -(-least_steps // steps_per_epoch)) if steps_per_epoch else usual


def seconds_per_step(
    step: Callable[..., Any], batches: Iterable[Any], variables: Sequence[Any]
) -> float:
    """Seconds that a training step takes, measured on steps whose effect is undone.

    Args:
        step: as `loop.make_train_step` returns it.
        batches: as it takes them.
        variables: all that it changes, as Keras has them.
    """
    before = [variable.numpy() for variable in variables]
    first, *others = islice(batches, 1 + TIMED_STEPS)
    float(step(*first))
    started = time.monotonic()
    for batch in others or [first]:
        float(step(*batch))  # waits for the result
    seconds = (time.monotonic() - started) / max(1, len(others))
    for variable, value in zip(variables, before):
        variable.assign(value)
    return seconds


def minutes_of(epochs: float, steps: int, batch_size: int, validated: int, seconds: float) -> float:
    """Minutes that a training takes.

    Args:
        epochs: all of it.
        steps: in an epoch.
        batch_size: images per step.
        validated: images of the validation split.
        seconds: that a step takes.
    """
    return epochs * seconds * (steps + VALIDATION_COST * validated / batch_size) / 60


def say_how_long(stage: Stage, epochs: int, minutes: float) -> None:
    """Prints how long a training will take; first the command of a shorter one, if it is long.

    Args:
        epochs: that `--epochs` says, or its default.
        minutes: of the whole training.
    """
    if minutes > LONG and epochs > 1:
        shorter = max(1, int(epochs * LONG / minutes))
        settings = dict(stage.asked().settings) | {"epochs": shorter}
        if taught := settings.get("taught_epochs"):  # in the same proportion
            settings["taught_epochs"] = int(taught * shorter / epochs)
        say(
            f"shorter, about {in_words(minutes * shorter / epochs)}, and less accurate: "
            f"{stage.asked().with_settings(settings)}"
        )
    say(f"this training takes about {in_words(minutes)} on this machine")


def in_words(minutes: float) -> str:
    """A time to two digits or so: "25 s", "40 min", "3.5 h"."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
