"""--no-flip and --swap-on-flip: what they ask for, and their faults in one line."""

import argparse

import pytest

import training
from pipeline.base.console import UserError
from pipeline.training.mirroring import Mirror, asked

NAMES = ("background", "left hand", "right hand", "left foot", "right foot")


def of(*pairs, no_flip=False):
    return asked(argparse.Namespace(no_flip=no_flip, swap_on_flip=list(pairs) or None), NAMES)


def test_pairs_change_places_and_the_others_stay():
    assert of("left hand,right hand", "right foot,left foot") == Mirror(True, (0, 2, 1, 4, 3))
    assert of() == Mirror(True, ()) and of(no_flip=True) == Mirror(False, ())


@pytest.mark.parametrize("pair", ["left hand", "left hand,nose", "left hand,left hand", ",", ""])
def test_what_is_no_pair_of_classes_is_refused_with_their_names(pair):
    with pytest.raises(UserError, match=rf"--swap-on-flip {pair}: not two classes .*right foot"):
        of(pair)


def test_class_in_two_pairs_is_refused():
    with pytest.raises(UserError, match="right hand,left foot: a class is in two pairs"):
        of("left hand,right hand", "right hand,left foot")


def test_swap_without_flips_does_nothing_and_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        training.parse(["--no-flip", "--swap-on-flip", "pet,border"])
    assert end.value.code == 2
    assert "--swap-on-flip does nothing with --no-flip" in capsys.readouterr().err
