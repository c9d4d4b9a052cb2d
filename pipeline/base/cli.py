"""The command line: what all scripts have in common, and numbers that have a range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pipeline.base import flag_rules
from pipeline.base.artifacts import MODELS_DIR, PRETRAINED_DIR
from pipeline.base.console import print_fault
from pipeline.start_check import quoted

SEED = 7  # of --seed
LARGEST_SEED = 2**32 - 1  # NumPy's


class Parser(argparse.ArgumentParser):
    """A parser whose faults are one line, and that refuses flags that would do nothing."""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parses a command line (`sys.argv` if `argv` is None).

        Ends the process with code 2 if a flag was typed that does nothing beside the others
        (`flag_rules`), also if it was typed with its default value; or if a stage would write into
        the folder of the model that comes with the project.
        """
        defaults = vars(self.parse_args([]))
        # What is None afterwards was not typed. The line is parsed only once, because --names may
        # name a pipe.
        untyped = argparse.Namespace(**dict.fromkeys(defaults))
        values = vars(self.parse_args(argv, untyped))
        typed = {flag for flag, value in values.items() if value is not None}
        settings = {flag: values[flag] if flag in typed else defaults[flag] for flag in defaults}
        if fault := flag_rules.fault(Path(self.prog).stem, settings, typed):
            self.error(fault)
        folder = settings.get("models_dir")
        if folder and folder.resolve() == PRETRAINED_DIR and not flag_rules.side_mode(settings):
            self.error(
                f"{folder} holds the model that comes with the project, for evaluation.py --image, "
                "--npu and --profile; name another --models-dir, or leave it out"
            )
        return argparse.Namespace(**settings)

    def error(self, message: str) -> NoReturn:
        """Ends the process with one line on stderr and code 2; argparse prints all flags first."""
        print_fault(message, self.prog)
        raise SystemExit(2)


def argument_parser(doc: str, script: str) -> Parser:
    """A parser with a script's docstring as its help and the flags that all scripts share.

    Args:
        script: `__file__` of the script.
    """
    parser = Parser(
        Path(script).name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=MODELS_DIR,
        metavar="DIR",
        help="where artifacts are read and written (default: models/)",
    )
    parser.add_argument(
        "--seed",
        type=bounded(int, 0, LARGEST_SEED),
        default=SEED,
        help="random seed (default: %(default)s)",
    )
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing if code, settings, inputs and packages are as they were",
    )
    parser.add_argument(
        "--accept-edits",
        action="store_true",
        help="edits of the code and other versions of packages changed nothing: note that in the "
        "record of what was made before, and do not make it anew; --resume goes on, too",
    )
    return parser


def add_training(
    parser: argparse.ArgumentParser,
    epochs: int,
    batch_size: int,
    learning_rate: float | None = None,
    of: str = "",
    least_steps: int | None = None,
) -> None:
    """Adds the flags of every stage that trains, with its defaults.

    Args:
        learning_rate: None for a stage that does not offer it.
        of: what the training is, for the help: "of --qat".
        least_steps: of the optimizer, where few pictures get more epochs: --epochs is then None
            if it was not typed, see `duration.default_epochs`. None: they get no more.
    """
    more = f", and more for few images: at least {least_steps:,} steps" if least_steps else ""
    parser.add_argument(
        "--epochs",
        type=bounded(int, 1),
        default=None if least_steps else epochs,
        help=f"{of} (default: {epochs}{more})",
    )
    parser.add_argument(
        "--batch-size",
        type=bounded(int, 1),
        default=batch_size,
        help=f"images per step {of}, over all devices (default: %(default)s)",
    )
    if learning_rate is not None:
        parser.add_argument(
            "--learning-rate",
            type=bounded(float, 0),
            default=learning_rate,
            help="peak learning rate of AdamW (default: %(default)s)",
        )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from an unfinished run; if that had other settings, or the run is finished, "
        "nothing is begun (with --if-needed it is, and the unfinished run is kept meanwhile)",
    )


def with_defaults(
    settings: argparse.Namespace, defaults: Mapping[str, Any], *, all_of_them: bool = False
) -> argparse.Namespace:
    """Settings with defaults that depend on other settings.

    Args:
        all_of_them: take the defaults also in place of values that are not None.
    """
    taken = {k: v for k, v in defaults.items() if all_of_them or getattr(settings, k) is None}
    return argparse.Namespace(**{**vars(settings), **taken})


def bounded(kind: Callable[[str], Any], low: float, high: float = math.inf) -> Callable:
    """An argparse type: finite numbers of `kind` in low..high, both included."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not (math.isfinite(value) and low <= value <= high):
            limits = f"between {low} and {high}" if high < math.inf else f"at least {low}"
            raise argparse.ArgumentTypeError(f"{text} is not a finite number {limits}")
        return value

    convert.__name__ = kind.__name__  # argparse names the type in its own messages
    return convert


def flags_of(
    script: str, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """Settings as they are typed: flags with quoted values, without those that do nothing.

    Args:
        script: name of the script without its suffix.
        settings: as `identity.settings_of` gives them.
        defaults: flags of these values are left out, too.
    """
    idle = flag_rules.idle_flags(script, settings)
    return [
        f"--{key.replace('_', '-')}" + ("" if value is True else f" {quoted(typed(value))}")
        for key, value in settings.items()
        if value is not None and value is not False and key not in idle
        if defaults is None or key not in defaults or defaults[key] != value
    ]


def typed(value: Any) -> str:
    """A setting as it is typed: 480x352 or a,b,c for a list, 255:1,0:0 for a dictionary."""
    if isinstance(value, dict):
        return ",".join(f"{key}:{item}" for key, item in value.items())
    if isinstance(value, list):
        return ("x" if all(isinstance(item, int) for item in value) else ",").join(map(str, value))
    return str(value)
