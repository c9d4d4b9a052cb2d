"""A short campaign of every kind of fault, on a toy run: no fault has an outcome that is forbidden.

The long one, whose figures are in docs/reliability.md: tests/campaigns/campaign.py.
"""

import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.runs import ROOT

CAMPAIGNS = ROOT / "tests" / "campaigns"
sys.path.insert(0, str(CAMPAIGNS))

import campaign  # noqa: E402
import silent  # noqa: E402
import toy  # noqa: E402
import trials  # noqa: E402

TESTED = {"busy", "figures", "cases"}  # other tests cover each of their trials
KINDS = [kind for kind in campaign.KINDS if kind not in TESTED]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A fiftieth of the campaign, in one process that loads TensorFlow once for all trials."""
    path = tmp_path_factory.mktemp("campaign") / "found.json"
    command = [sys.executable, CAMPAIGNS / "campaign.py", *KINDS, "--share", "0.02"]
    done = subprocess.run([*command, "--write", path], capture_output=True, text=True)
    assert path.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(path.read_text()), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_has_a_forbidden_outcome(short, kind):
    record, output = short
    rows = [row for row in record["rows"] if row["kind"] == kind]
    assert rows and all(row["tried"] > 0 for row in rows)
    assert [row["faults"] for row in rows] == [{}] * len(rows), output[-3000:]


@pytest.mark.slow
def test_what_is_read_is_what_was_drawn(tmp_path):
    """A short form of tests/campaigns/silent.py: every pixel of 60 sets, stored in 60 ways."""
    command = [sys.executable, CAMPAIGNS / "silent.py", "--sets", "60", "--write", tmp_path / "s"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ends = [row["end"] for row in json.loads((tmp_path / "s").read_text())]
    assert len(ends) == 60 and set(ends) <= {"right", "refused", "noted"}
    assert ends.count("right") >= 20


@pytest.mark.slow
def test_sample_of_the_silent_campaign_holds_every_pair_of_values():
    """Apart from pairs that no combination can hold, such as -9999 in a GIF."""
    sampled = silent.sample(0, np.random.default_rng(33))
    assert all(silent.possible(given) for given in sampled)
    held = {pair for given in sampled for pair in itertools.combinations(given.items(), 2)}
    names = list(silent.FACTORS)
    missing = [
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x, y in itertools.product(silent.FACTORS[a], silent.FACTORS[b])
        if silent.possible({a: x, b: y}) and ((a, x), (b, y)) not in held
    ]
    random = np.random.default_rng(7)
    again = [pair for pair in missing if silent.completed(dict(pair), names, set(), random)]
    assert len(held) > 1500 and again == []


@pytest.mark.parametrize("palette", ["in order", "the same permutation"])
def test_optimised_gif_is_mapped_by_its_colours(palette, tmp_path):
    """The campaign gave no mapping, and what data preparation refused was no fault of it."""
    given = {name: values[0] for name, values in silent.FACTORS.items()}
    given |= {"mask": "P colour", "container": "gif", "compression": "lossless"}
    given |= {"palette": palette, "photo": "RGB"}
    assert silent.try_one(tmp_path / "trial", given, 33)[0] == "right"


TRACE = 'Traceback (most recent call last):\n  File "x"\nKeyError: 1\n'


@pytest.mark.parametrize(
    ("code", "err", "fault"),
    [
        (0, "", None),
        (2, "training.py: x is missing; make it with: y\n", None),
        (2, "usage: training.py [-h]\n  [--seed SEED]\ntraining.py: error: no\n", None),
        (130, "training.py: interrupted\n", None),
        (-signal.SIGKILL, "", None),
        (1, TRACE, "traceback"),
        (-signal.SIGSEGV, "", "crash"),
        (2, "", "silent"),
        (2, "one\ntwo\n", "many lines"),
    ],
)
def test_faults_are_told_from_good_ends(code, err, fault):
    assert toy.Result(code, "", err, 1.0, 0).fault == fault
    assert toy.Result(code, "", err, 1.0, 0, hung=True).fault == "hang"


def test_every_forbidden_outcome_is_in_the_table():
    tally = trials.Tally("tries")
    for fault in trials.NEVER:
        tally.add("one", "stopped", fault)
    tally.add("another", "stopped", None)
    cells = campaign.markdown({"rows": [tally.row()]}).splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == ["tries", str(len(trials.NEVER) + 1)]
    assert sum(map(int, cells[2:-1])) == len(trials.NEVER)
    assert cells[-1] == "stopped"
