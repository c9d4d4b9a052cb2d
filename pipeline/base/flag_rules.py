"""Which flags do something, by script and by what else the command line says.

A flag that changes nothing in a combination is refused (`cli.Parser.parse`): whoever types it
expects that it does something. The report leaves such flags out of the commands that it prints.
The flags that all scripts share, and --resume, are in no rule: `make` always gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Settings = Mapping[str, Any]  # by flag, without dashes and with _ for -; missing: its default

# Of a device: of evaluation.py, and of pruning.py --budget.
BUDGET = ("max_latency_ms", "max_bytes", "max_activation_kb")
LIMITS = (*BUDGET, "max_drop", "min_mean_iou")  # of evaluation.py
PRUNES_NOTHING = ("sensitivity", "budget", *BUDGET)  # of pruning.py: they change no model
SIDE_MODES = ("image", "profile", "npu")  # of evaluation.py: each does nothing else


class Rule(NamedTuple):
    """A condition under which flags do something."""

    flags: tuple[str, ...]
    holds: Callable[[Settings], bool]
    otherwise: str  # when it does not hold, in words that follow "does nothing"
    remedy: str  # what to do instead of leaving the flags out


def kind_of_data(settings: Settings) -> str:
    """ "pets", "synthetic", "tfds", or "files" for a path, from --data or its old spelling."""
    if settings.get("images"):
        return "files"
    data = settings.get("data") or settings.get("dataset") or "pets"
    if data in ("pets", "oxford_iiit_pet"):
        return "pets"
    kind = str(data).partition(":")[0]
    return kind if kind in ("synthetic", "tfds") else "files"


def reads_tfds(settings: Settings) -> bool:
    """Whether --data-dir names a folder that is read."""
    return kind_of_data(settings) in ("pets", "tfds") or settings.get("dataset") == "folder"


def reads_masks(settings: Settings, *others: str) -> bool:
    """Whether the data set is a folder of masks, by its name, or a file with one of the endings."""
    ending = Path(str(settings.get("data") or "")).suffix.lower()
    return kind_of_data(settings) == "files" and ending in {"", *others}


def side_mode(settings: Settings) -> str:
    """The mode of evaluation.py that measures nothing; "" if there is none."""
    return next((mode for mode in SIDE_MODES if settings.get(mode)), "")


def has_limit(settings: Settings) -> bool:
    """Whether there is a limit that evaluation.py or pruning.py --budget compares models with."""
    return any(settings.get(limit) is not None for limit in LIMITS)


def listed(flags: Sequence[str]) -> str:
    """Flags to choose from, in words: "--max-bytes or --min-mean-iou"."""
    *first, last = (f"--{flag.replace('_', '-')}" for flag in flags)
    return f"{', '.join(first)} or {last}"


MEASURES_NOTHING = "with --image, --profile or --npu, which measure no accuracy"
RULES: dict[str, tuple[Rule, ...]] = {
    "data_preparation": (
        Rule(
            ("image_key", "mask_key"),
            lambda settings: kind_of_data(settings) == "tfds",
            "unless --data is tfds:NAME",
            "",
        ),
        Rule(("data_dir",), reads_tfds, "unless --data is pets or tfds:NAME", ""),
        Rule(
            ("names", "label_mapping", "ignore_index", "skip_bad"),
            lambda settings: kind_of_data(settings) != "synthetic",
            "with drawn pictures, whose classes are fixed and whose masks have no faults",
            "name your own pictures: --data DIR",
        ),
        Rule(
            ("mask_orientation",),
            lambda settings: kind_of_data(settings) not in ("pets", "synthetic"),
            "with the pets and with drawn pictures, whose masks lie as the photographs do",
            "name your own pictures: --data DIR",
        ),
        Rule(
            ("mask_suffix",),
            reads_masks,
            "unless the data set is a folder of masks",
            "name the folder: --data DIR",
        ),
        Rule(
            ("missing_mask",),
            lambda settings: reads_masks(settings, ".yaml", ".yml"),
            "unless the data set is a folder of masks or a data.yaml",
            "name your own pictures: --data DIR",
        ),
        Rule(
            ("group",),
            lambda settings: kind_of_data(settings) not in ("pets", "synthetic"),
            "with the pets and with drawn pictures, whose splits are fixed",
            "name your own pictures: --data DIR",
        ),
    ),
    "training": (
        Rule(
            ("preset", "enlarge"),
            lambda settings: settings.get("architecture", "compact") == "compact",
            "with an --architecture other than compact",
            "",
        ),
        Rule(
            (
                *("architecture", "encoder", "epochs", "taught_epochs", "batch_size"),
                *("learning_rate", "class_weights", "precision", "start_from", "no_flip"),
                *("preset", "enlarge", "swap_on_flip"),
            ),
            lambda settings: not settings.get("take"),
            "with --take, which trains nothing",
            "",
        ),
        Rule(
            ("input_range", "class_order"),
            lambda settings: bool(settings.get("take")),
            "without --take",
            "",
        ),
        Rule(
            ("swap_on_flip",),
            lambda settings: not settings.get("no_flip"),
            "with --no-flip, which trains on no mirror image",
            "leave one of them out",
        ),
    ),
    "pruning": (
        Rule(
            ("sensitivity",),
            lambda settings: not settings.get("budget"),
            "with --budget",
            "run pruning.py once for each",
        ),
        Rule(
            BUDGET,
            lambda settings: bool(settings.get("budget")),
            "without --budget",
            "add --budget",
        ),
        Rule(("budget",), has_limit, "without a limit", f"add {listed(BUDGET)}"),
        Rule(
            ("sparsity", "channels", "epochs", "learning_rate"),
            lambda settings: not settings.get("budget"),
            "with --budget, which finds --channels and prunes nothing",
            "leave --budget out",
        ),
        Rule(
            ("sparsity", "channels", "epochs", "batch_size", "learning_rate"),
            lambda settings: not settings.get("sensitivity"),
            "with --sensitivity, which prunes nothing",
            "leave --sensitivity out",
        ),
        Rule(
            ("epochs", "batch_size", "learning_rate"),
            lambda settings: bool(settings.get("sparsity", 1) or settings.get("channels")),
            "with --sparsity 0 and no --channels, which skip pruning",
            "",
        ),
    ),
    "quantization": (
        Rule(
            ("epochs", "batch_size"),
            lambda settings: bool(settings.get("qat")),
            "without --qat",
            "add --qat",
        ),
    ),
    "evaluation": (
        Rule(
            ("profile", "npu"),
            lambda settings: not settings.get("image"),
            "with --image",
            "run evaluation.py once for each",
        ),
        Rule(
            ("npu",),
            lambda settings: not settings.get("profile"),
            "with --profile",
            "run evaluation.py once for each",
        ),
        Rule(("out",), lambda settings: bool(settings.get("image")), "without --image", ""),
        Rule(
            ("model",),
            lambda settings: side_mode(settings) != "profile",
            "with --profile; the models of --models-dir are profiled",
            "",
        ),
        Rule(
            ("input_range", "class_order"),
            lambda settings: bool(settings.get("model")) and not side_mode(settings),
            "unless --model names models of others to be measured",
            "add --model FILE",
        ),
        Rule(
            (*LIMITS, "gate", "against"),
            lambda settings: not side_mode(settings),
            MEASURES_NOTHING,
            "",
        ),
        Rule(
            ("gate",),
            has_limit,
            "without a limit",
            f"add {listed(LIMITS)}",
        ),
    ),
}  # fmt: skip


def idle_flags(script: str, settings: Settings) -> set[str]:
    """Flags of a script that do nothing with these settings.

    Args:
        script: name of the script without its suffix; one without rules has no such flags.
    """
    return {
        flag for rule in RULES.get(script, ()) if not rule.holds(settings) for flag in rule.flags
    }


def fault(script: str, settings: Settings, typed: Collection[str]) -> str:
    """What is wrong with the flags that were typed, in one line with the remedy; "" if nothing.

    Args:
        script: as in `idle_flags`.
        settings: all flags of the command line, those that were not typed with their defaults.
        typed: names of the flags that were typed.
    """
    for rule in RULES.get(script, ()):
        idle = [f"--{flag.replace('_', '-')}" for flag in rule.flags if flag in typed]
        if idle and not rule.holds(settings):
            several = len(idle) > 1
            names = " and ".join([", ".join(idle[:-1]), idle[-1]] if several else idle)
            verb, it = ("do", "them") if several else ("does", "it")
            remedy = f", or {rule.remedy}" if rule.remedy else ""
            return f"{names} {verb} nothing {rule.otherwise}; leave {it} out{remedy}"
    return ""
