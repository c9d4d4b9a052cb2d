"""The smallest share of channels whose int8 file keeps to a device's limits: pruning.py --budget.

Every share that is tried is cut from the original network as `pruning.py --channels` cuts it: the
choice of channels depends on the share, since importance is measured anew after each of its rounds.
So the sizes are those that the command will give, and a try takes as long as that choice. Nothing
is fine-tuned and no model is written.

Where no share is enough, smaller presets and images are built with random weights and measured in
the same way: sizes and times do not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.artifacts import command, read_record
from pipeline.base.cli import flags_of
from pipeline.base.console import UserError, say, silenced
from pipeline.base.flag_rules import BUDGET
from pipeline.base.lazy import keras
from pipeline.base.stage import Stage
from pipeline.base.text_table import text_table
from pipeline.checks.int8_needs import PICTURES, Limits, Meter, Needs, typed
from pipeline.checks.rehearsal import SEED, copy_in_float32, random_images
from pipeline.checks.smallest_number import smallest
from pipeline.data.dataset import load_classes, load_size, load_split
from pipeline.data.image_size import STRIDE, flag_of, nearest_side
from pipeline.inference.keras_files import load_model
from pipeline.pruning import channel_removal, channels
from pipeline.pruning.dependency_graph import channel_groups
from pipeline.training import networks
from pipeline.training.building import build_network
from pipeline.training.losses import recorded_objective

STEPS = 100  # shares that are told apart: hundredths
LARGEST = 90  # of these, the largest that --channels takes
COLUMNS = (
    ("tried", -28),
    ("bytes", 10),
    ("activations, kB", 15),
    ("ms, 1 thread", 12),
    ("of the whole", 12),
    ("nearest limit", -36),
)


# --- what is tried ----------------------------------------------------------------------------


class Trials:
    """Tries of one budget, a printed line each.

    Args:
        stage: the run of pruning.py, whose limits, seed and batch size count.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        asked = vars(stage.arguments)
        self.limits: Limits = {flag: asked[flag] for flag in BUDGET if asked[flag] is not None}
        # One network to cut from, and one that is masked and gets its weights back.
        self.network, self.masked = (load_model(stage.models_dir, "original") for _ in range(2))
        self.weights = self.masked.get_weights()
        self.groups = channel_groups(self.network)
        self.images: np.ndarray = load_split(stage.models_dir, "train")[0][:PICTURES]
        self.objective = recorded_objective(read_record(stage.models_dir, "original")["metrics"])
        self.meter = Meter(stage.models_dir, self.network, self.images)
        self.needs: dict[int, Needs] = {}  # by share, in hundredths

    @property
    def most(self) -> int:
        """The largest share that can be removed, in hundredths."""
        return min(LARGEST, int(STEPS * channels.removable_share(self.groups)))

    def cut(self, share: float) -> keras.Model:
        """The network without a share of its channels, as `pruning.py --channels` cuts it."""
        asked = self.stage.arguments
        keras.utils.set_random_seed(asked.seed)
        self.masked.set_weights(self.weights)
        kept = channels.choose_on_training_images(
            self.stage, self.masked, self.groups, share, asked.batch_size, self.objective
        )
        return channel_removal.remove_channels(self.network, self.groups, kept)

    def pressure(self, hundredths: int) -> float:
        """Tries a share of channels; returns `Needs.pressure`."""
        needs = self.meter.whole_needs
        if hundredths:
            needs = self.meter.needs(self.cut(hundredths / STEPS), self.images)
        self.needs[hundredths] = needs
        what = f"--channels {hundredths / STEPS}" if hundredths else "the whole network"
        return self.tell(what, needs)

    def tell(self, what: str, needs: Needs) -> float:
        """Prints the line of a try; returns `Needs.pressure`."""
        fraction, flag = needs.pressure(self.limits)
        memory = needs.max_activation_kb
        row = (
            what,
            f"{needs.max_bytes:,}",
            "-" if memory is None else f"{memory:.1f}",
            f"{needs.max_latency_ms:.3f}",
            f"{needs.ratio:.2f}",
            f"{fraction:.1%} of {typed(flag)}{': enough' if fraction <= 1 else ''}"
            if needs.runs
            else "LiteRT cannot run it",
        )
        say(f"{text_table(COLUMNS, [row], '  ')[1]} {self.stage.seconds():5.0f} s")
        return fraction


class Other(NamedTuple):
    """Another network to train: the flag that makes it, and the function that builds it."""

    flag: str
    function: Callable[..., Any]
    size: tuple[int, int]  # height and width of the images


def training_settings(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that the original model was trained with; none if it was trained elsewhere."""
    return {} if record.get("taken") else record["settings"]


def smaller_presets(settings: Mapping[str, Any], size: tuple[int, int]) -> Iterator[Other]:
    """The presets that enlarge the image less than a trained network does, the largest first.

    Args:
        settings: of the training; presets are of the compact network only.
    """
    if settings.get("architecture") != "compact":
        return
    ours = settings.get("enlarge") or networks.PRESETS["default"].enlargement
    for name, preset in sorted(networks.PRESETS.items(), key=lambda item: -item[1].enlargement):
        if preset.enlargement < ours:
            function = networks.choose("compact", name, preset.enlargement)
            yield Other(f"training.py --preset {name}", function, size)


def smaller_images(settings: Mapping[str, Any], size: tuple[int, int]) -> list[Other]:
    """The trained network for smaller images of about the same shape, the largest first."""
    architecture = settings.get("architecture")
    if architecture not in networks.NETWORKS:  # made elsewhere, or its function is gone
        return []
    enlargement = settings.get("enlarge") or networks.PRESETS["default"].enlargement
    function = networks.choose(architecture, settings.get("preset", "default"), enlargement)
    shrunk = ((max(size) - less) / max(size) for less in range(STRIDE, max(size), STRIDE))
    sizes = [(nearest_side(size[0] * by), nearest_side(size[1] * by)) for by in shrunk]
    return [Other(f"data_preparation.py {flag_of(s)}", function, s) for s in sizes]


def untrained(other: Other, classes: int, share: float) -> keras.Model:
    """A network with random weights, without a share of its channels, whichever."""
    with silenced():
        built, _ = build_network(other.function, other.size, classes)
        model = copy_in_float32(built)
    # A file stores equal constants once, and trained ones are not equal, as biases of 0 are.
    random = np.random.default_rng(SEED)
    for weight in model.weights:
        if weight.shape.rank == 1:
            weight.assign_add(random.uniform(0.01, 0.1, weight.shape))
    groups = channel_groups(model)
    if not share:
        return model
    everything = [np.arange(group.channels) for group in groups]
    alike = [np.ones(group.channels) for group in groups]
    removed = share * sum(group.channels for group in groups)
    kept = channels.without_least_important(groups, everything, alike, removed)
    return channel_removal.remove_channels(model, groups, kept)


def ways_out(trials: Trials) -> list[str]:
    """Which preset or image size would be enough, whole if one is, else with fewest channels.

    Returns:
        In words; empty if none is enough.
    """
    say("no share of channels is enough; other networks, untrained:")
    models_dir = trials.stage.models_dir
    settings = training_settings(read_record(models_dir, "original"))
    classes, size = len(load_classes(models_dir)), load_size(models_dir)

    def pressure(other: Other, hundredths: int) -> float:
        model = untrained(other, classes, hundredths / STEPS)
        without = f" --channels {hundredths / STEPS}" * bool(hundredths)
        needs = trials.meter.needs(model, random_images(model))
        return trials.tell(f"{other.flag.partition('.py ')[2]}{without}", needs)

    def enough(hundredths: int) -> list[str]:
        presets = smaller_presets(settings, size)
        found = [next((other for other in presets if pressure(other, hundredths) <= 1), None)]
        images = smaller_images(settings, size)
        here = trials.needs[hundredths].pressure(trials.limits)[0]
        steps = smallest(lambda n: pressure(images[n - 1], hundredths) if n else here, len(images))
        found.append(images[steps - 1] if steps else None)
        then = f", then pruning.py --channels {hundredths / STEPS}" * bool(hundredths)
        return [other.flag + then for other in found if other]

    return enough(0) or (enough(trials.most) if trials.most else [])


# --- the mode ---------------------------------------------------------------------------------


def search(stage: Stage) -> None:
    """Finds the smallest share of channels that keeps to the limits, and prints what to type.

    Raises:
        UserError: no share is enough; the line says which is the least that can be reached, and
            what else would be enough.
    """
    trials = Trials(stage)
    say(
        "int8 files of the original network without a share of its channels, in steps of "
        f"{1 / STEPS}; nothing is fine-tuned or written"
    )
    say(text_table(COLUMNS, [], "  ")[0].rstrip())
    share = smallest(trials.pressure, trials.most)
    found = [] if share is not None else ways_out(trials)
    if trials.meter.busy:
        say(f"note: the times are unreliable: {trials.meter.busy}; repeat this on an idle machine")
    if share is None:
        raise UserError(refusal(trials, found))
    tell_commands(trials, share)


def tell_commands(trials: Trials, share: int) -> None:
    """Prints the commands that make and judge the file with a share of channels removed."""
    stage, limits = trials.stage, trials.limits
    if share:
        say(f"\n{(share - 1) / STEPS} is not enough. What to type, with --epochs of your choice:")
    else:
        say("\nThe whole network keeps to all limits. What to type:")
    asked = stage.arguments
    settings = {"channels": share / STEPS, "sparsity": 0, "seed": asked.seed}
    settings |= {"batch_size": asked.batch_size} if share else {}
    say(f"    {stage.asked().with_settings(settings)}")
    say(f"    {command('int8', stage.models_dir)}")
    gates = {"gate": ["int8"]} | {flag: short(limit) for flag, limit in limits.items()}
    say(
        " ".join([f"    {command('evaluation', stage.models_dir)}", *flags_of("evaluation", gates)])
    )
    say("Zeros (--sparsity 0.6) would shrink the file after gzip only, and no memory.")


def short(limit: float) -> float:
    """A limit without a fraction of 0."""
    return int(limit) if limit == int(limit) else limit


def refusal(trials: Trials, found: list[str]) -> str:
    """Why no share of channels is enough, in one line; `found` is what else would be."""
    by_pressure = {share: needs.pressure(trials.limits)[0] for share, needs in trials.needs.items()}
    least = min(by_pressure, key=lambda share: (by_pressure[share], -share))
    needs, how = trials.needs[least], f"with --channels {least / STEPS}"
    passed = [
        f"{typed(flag)} {short(limit)} (the least is {short(round(getattr(needs, flag), 2))}, "
        f"{how if least else 'as no channels can go'})"
        for flag, limit in trials.limits.items()
        if needs.pressure({flag: limit})[0] > 1
    ]
    return f"no share of channels keeps to {' and '.join(passed)}; " + (
        f"enough would be: {' or '.join(found)}"
        if found
        else "no smaller preset and no smaller --image-size that can be built would be enough"
    )
