"""Warnings on a data set: their wording, and that the report has them."""

import pytest

from pipeline.report import data_warnings, findings

OF_THE_SET = {"validation": "of the data set", "test": "of the data set"}
CUT = {"validation": "of the data set", "test": "by a hash of --seed 7 and name"}
PAIRS = [["test", "b.jpg", "train", "a.jpg"]]
COPIES = [["test", "c_jpg.rf.01.jpg", "train", "c_jpg.rf.02.jpg"]]


@pytest.mark.parametrize(
    ("rules", "pairs", "remedy"),
    [
        (OF_THE_SET, PAIRS, "from one of them, or say it beside the figure"),
        (CUT, PAIRS, "remove one of each pair, or keep copies in one split: --group PATTERN"),
        (CUT, COPIES, r"to keep copies in one split: --group '(.+)\.rf\.'"),
        ({}, PAIRS, "from one of them, or say it beside the figure"),
    ],
)
def test_warning_of_same_pictures_ends_with_what_can_be_done(rules, pairs, remedy):
    same = {"counts": {"test in train": 22, "train in train": 4}, "pairs": pairs}
    text = data_warnings.on_same_pictures(same, rules)
    assert "two splits: 22 of test also in train, such as" in text and text.endswith(remedy)


def test_copies_inside_one_split_are_no_warning():
    same = {"counts": {"train in train": 4}, "pairs": [["train", "b", "train", "a"]]}
    assert data_warnings.on_same_pictures(same, OF_THE_SET) == ""


def test_report_says_it_before_what_it_says_of_the_models(numbers):
    assert not any("two splits" in text for text in findings.findings(numbers))
    numbers["dataset"] |= {
        "same_pictures": {"counts": {"test in train": 22}, "pairs": PAIRS},
        "split_rules": OF_THE_SET,
    }
    assert "the same pictures are in two splits" in findings.findings(numbers)[0]
