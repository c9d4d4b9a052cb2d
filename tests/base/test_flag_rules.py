"""Every flag of every script in every mode: it does something, or it is refused in one line."""

import argparse

import pytest

import data_preparation
import evaluation
import pruning
import quantization
import training
from pipeline.base import cli, flag_rules
from pipeline.report import page
from pipeline.start_check import SCRIPTS
from tests.helpers.runs import run_script

SHARED = {"help", "models_dir", "seed", "if_needed", "accept_edits", "resume"}
READING = ("names", "label_mapping", "ignore_index", "skip_bad", "image_size", "fit")
OWN = (*READING, "group", "mask_orientation")  # pictures of one's own, or of TFDS
NETWORK = ("encoder", "epochs", "batch_size", "learning_rate", "taught_epochs")
NETWORK = (*NETWORK, "class_weights", "precision", "start_from")
FLIPPED = (*NETWORK, "no_flip", "swap_on_flip")
TUNING = ("epochs", "batch_size", "learning_rate")
FILES = ("calibration_images", "int8_input", "int8_output", "export")
BUDGET = ("max_activation_kb", "max_bytes", "max_latency_ms")
LIMITS = (*BUDGET, "max_drop", "min_mean_iou")

# By script and mode: the words that ask for the mode, and the other flags that do something in it.
MODES = {
    data_preparation: {
        "pets": ("", (*READING, "data", "dataset", "data_dir")),
        "the same by name": ("--data pets", (*READING, "data_dir")),
        "drawn": ("--data synthetic", ("image_size", "fit")),
        "drawn, 6 classes": ("--data synthetic:6", ("image_size", "fit")),
        "drawn, old spelling": ("--dataset synthetic", ("image_size", "fit")),
        "tfds": ("--data tfds:street", (*OWN, "data_dir", "image_key", "mask_key")),
        "folder": ("--data my_photos", (*OWN, "mask_suffix", "missing_mask")),
        "two folders": ("--images a --masks b", (*OWN, "mask_suffix", "missing_mask")),
        "data.yaml": ("--data data.yaml", (*OWN, "missing_mask")),
        "COCO": ("--data a.json", OWN),
        "folder, old spelling": (
            "--dataset folder --data-dir my_photos",
            (*OWN, "mask_suffix", "missing_mask"),
        ),
    },
    training: {
        "compact": ("", ("take", *FLIPPED, "architecture", "preset", "enlarge")),
        "small": ("--preset small", (*FLIPPED, "architecture", "enlarge")),
        "classic": ("--architecture classic", FLIPPED),
        "taken": ("--take a.keras", ("input_range", "class_order")),
        "no mirror images": ("--architecture classic --no-flip", NETWORK),
    },
    pruning: {
        "zeros": ("", (*TUNING, "sparsity", "channels", "sensitivity")),
        "channels": ("--channels 0.3 --sparsity 0", TUNING),
        "both": ("--channels 0.3 --sparsity 0.5", TUNING),
        "skipped": ("--sparsity 0", ("channels",)),
        "sensitivity": ("--sensitivity", ()),
        "budget": ("--budget --max-bytes 1", ("max_activation_kb", "max_latency_ms", "batch_size")),
        "a budget of memory": (
            "--budget --max-activation-kb 1",
            ("max_bytes", *BUDGET[2:], "batch_size"),
        ),
    },
    quantization: {
        "plain": ("", (*FILES, "sensitivity", "max_drop", "qat")),
        "sensitivity": ("--sensitivity", (*FILES, "max_drop", "qat")),
        "limit": ("--max-drop 0.1", (*FILES, "sensitivity", "qat")),
        "qat": ("--qat", (*FILES, "sensitivity", "max_drop", "epochs", "batch_size")),
    },
    evaluation: {
        "measure": ("", (*LIMITS, "against", "image", "model", "profile", "npu")),
        "limits": ("--min-mean-iou 0.5", (*LIMITS[:-1], "against", "model", "gate")),
        "compare": ("--against before", (*LIMITS, "model")),
        "models of others": (
            "--model a.tflite",
            (*LIMITS, "against", "image", "npu", "input_range", "class_order"),
        ),
        "photos": ("--image a.jpg", ("model", "out")),
        "profile": ("--profile", ()),
        "npu": ("--npu", ("model",)),
    },
}
# Values of flags that a number of 0.5 or 1 does not suit.
VALUES = {
    "names": "a,b",
    "label_mapping": "0:0,255:1",
    "image_size": "64",
    "data": "synthetic",
    "missing_mask": "background",
    "enlarge": "2",
    "dataset": "synthetic",
    "architecture": "compact",
}


def actions_of(module, monkeypatch):
    """By name, the flags of a script."""
    parsers = []
    plain = argparse.ArgumentParser.parse_args

    def parse_args(self, *arguments):
        parsers.append(self)
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        module.parse([])
    return {action.dest: action for action in parsers[0]._actions}


def words_of(action):
    """A flag as it is typed, with a value that it takes."""
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag]
    value = VALUES.get(action.dest) or (action.choices or (None,))[-1]
    return [flag, value or ("0.5" if action.type and action.type.__name__ == "float" else "1")]


def refusal(module, words, capsys):
    """The lines on stderr if a command line is refused; [] if it is accepted."""
    try:
        module.parse(words)
    except SystemExit as stopped:
        assert stopped.code == 2
        return capsys.readouterr().err.splitlines()
    return []


CASES = [(module, mode) for module, modes in MODES.items() for mode in modes]


@pytest.mark.parametrize(("module", "mode"), CASES, ids=lambda value: getattr(value, "__name__", 0))
def test_flag_that_does_nothing_is_refused_in_one_line(module, mode, monkeypatch, capsys):
    typed, working = MODES[module][mode]
    typed, actions = typed.split(), actions_of(module, monkeypatch)
    assert refusal(module, typed, capsys) == []
    asked = {dest for dest, action in actions.items() if set(action.option_strings) & set(typed)}
    others = actions.keys() - SHARED - asked
    assert set(working) <= others, "the table names flags that the script does not have"
    for dest in sorted(others):
        words = [*typed, *words_of(actions[dest])]
        lines = refusal(module, words, capsys)
        assert bool(lines) == (dest not in working), (words, lines)
        if lines:
            (line,) = lines
            assert line.startswith(f"{module.__name__}.py: ") and words[len(typed)] in line
    for dest in SHARED & actions.keys() - {"help"}:
        words = words_of(actions[dest])
        assert refusal(module, [*typed, *words], capsys) == [], "these are allowed everywhere"


def test_table_has_every_flag_of_every_script(monkeypatch):
    """A new flag belongs into MODES: somebody has to say where it does something."""
    assert {f"{module.__name__}.py" for module in MODES} == set(SCRIPTS)
    for module, modes in MODES.items():
        named = {flag for _, working in modes.values() for flag in working}
        words = " ".join(typed for typed, _ in modes.values())  # of flags that need each other
        named |= {word[2:].replace("-", "_") for word in words.split() if word.startswith("--")}
        assert set(actions_of(module, monkeypatch)) - SHARED == named, module.__name__


def test_rules_name_only_flags_that_exist(monkeypatch):
    for module in MODES:
        flags = {flag for rule in flag_rules.RULES[module.__name__] for flag in rule.flags}
        assert flags <= set(actions_of(module, monkeypatch))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (pruning, "--sparsity 0 --epochs 20"),
        (quantization, "--batch-size 16"),
        (training, "--architecture classic --preset default"),
    ],
)
def test_flag_that_is_typed_with_its_default_is_refused_too(module, words, capsys):
    assert len(refusal(module, words.split(), capsys)) == 1


def test_all_flags_that_do_nothing_are_named_at_once(capsys):
    words = ["--sparsity", "0", "--epochs", "3", "--batch-size", "2", "--learning-rate", "0.1"]
    (line,) = refusal(pruning, words, capsys)
    assert line == (
        "pruning.py: --epochs, --batch-size and --learning-rate do nothing with --sparsity 0 and "
        "no --channels, which skip pruning; leave them out"
    )


def test_side_modes_exclude_each_other(capsys):
    for words in ("--image a.jpg --profile", "--profile --npu", "--npu --image a.jpg"):
        assert "run evaluation.py once for each" in refusal(evaluation, words.split(), capsys)[0]


def test_flag_that_is_unknown_is_one_line(capsys):
    (line,) = refusal(training, ["--epoch-number", "3"], capsys)
    assert line == "training.py: unrecognized arguments: --epoch-number 3"


def test_model_that_nothing_uses_is_refused_by_the_script(tmp_path):
    """The table of the folder's own models says nothing of that file."""
    model = tmp_path / "mine.tflite"
    model.write_bytes(b"this is no model at all")
    done = run_script("evaluation.py", "--models-dir", tmp_path, "--profile", "--model", model)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "evaluation.py: --model does nothing with --profile; the models of --models-dir are "
        "profiled; leave it out\n"
    )


def test_commands_of_the_report_have_no_flag_that_is_refused(tmp_path):
    """A record holds all settings, also those that did nothing."""
    for module, mode in CASES:
        if module is evaluation or mode in ("sensitivity", "budget", "a budget of memory"):
            continue
        script = f"{module.__name__}.py"
        name = next(name for name, (_, maker) in page.ARTIFACTS.items() if maker == script)
        arguments = module.parse(["--models-dir", str(tmp_path), *MODES[module][mode][0].split()])
        settings = {key: value for key, value in vars(arguments).items() if key not in SHARED}
        again = module.parse(page.stage_command(tmp_path, name, settings).split()[2:])
        assert vars(again) == vars(arguments)


def test_line_is_parsed_once(monkeypatch):
    """--names may be a pipe, whose content can be read only once."""
    texts = []
    parser = cli.argument_parser("help", "training.py")
    parser.add_argument("--names", type=lambda text: texts.append(text) or text)
    assert parser.parse(["--names", "a"]).names == "a" and texts == ["a"]
