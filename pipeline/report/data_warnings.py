"""What makes the mean IoU of a data set say less than it seems to: lines for console and report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.base import commands

EXAMPLES = 2  # pairs of pictures that a warning names
CLASSES = 5  # classes that a warning names
# Roboflow names the augmented copies of a picture NAME_jpg.rf.HASH.jpg.
ROBOFLOW, ROBOFLOW_GROUP = ".rf.", r"(.+)\.rf\."


def lines(data: Mapping[str, Any]) -> list[str]:
    """The warnings on a data set.

    Args:
        data: its record, or "dataset" of evaluation.json; parts that older versions did not write
            may be missing.
    """
    texts = [
        on_same_pictures(data.get("same_pictures") or {}, data.get("split_rules") or {}),
        on_lost_classes(data.get("lost_classes") or {}, data["image_size"]),
    ]
    return [text for text in texts if text]


def on_same_pictures(same: dict[str, Any], split_rules: dict[str, str]) -> str:
    """A warning of pictures that stand in two splits; "" if there are none.

    Args:
        same: from `same_pictures.record`.
        split_rules: from `split_rules.record`.
    """
    parts = [(number, *key.split(" in ")) for key, number in same.get("counts", {}).items()]
    across = [part for part in parts if part[1] != part[2]]
    if not across:
        return ""
    counts = ", ".join(f"{number} of {split} also in {other}" for number, split, other in across)
    pairs = [pair for pair in same["pairs"] if pair[0] != pair[2]]
    examples = "; ".join(
        f"{name} ({split}) and {other_name} ({other})"
        for split, name, other, other_name in pairs[:EXAMPLES]
    )
    return (
        f"Warning: the same pictures are in two splits: {counts}, such as {examples}. The mean IoU "
        f"on them is that of learned pictures; {remedy_for_pairs(pairs, split_rules)}"
    )


def remedy_for_pairs(pairs: list[list[str]], split_rules: dict[str, str]) -> str:
    """What to do about pictures that are in two splits, as a part of a sentence."""
    cut = all(split_rules.get(split, "of the data set") != "of the data set" for split, *_ in pairs)
    if not cut:
        return (
            "the splits are the data set's own: remove the pictures from one of them, or say it "
            "beside the figure"
        )
    if all(ROBOFLOW in name and ROBOFLOW in other for _, name, _, other in pairs):
        return f"to keep copies in one split: --group {commands.line(ROBOFLOW_GROUP)}"
    return "remove one of each pair, or keep copies in one split: --group PATTERN"


def on_lost_classes(lost: dict[str, Any], image_size: list[int]) -> str:
    """A warning of classes that resizing takes too much of; "" if there are none.

    Args:
        lost: from `lost_classes.record`.
        image_size: width and height of the prepared images.
    """
    if not lost:
        return ""
    parts = []
    for name, about in lost["classes"].items():
        (held, kept), (share, share_kept) = about["pictures"], about["share"]
        text = f"{name} in {kept} of {held} pictures"
        if kept == held:
            text = f"{name} with {share_kept:.2%} of the pixels instead of {share:.2%}"
        parts.append(text)
    more = f" and {len(parts) - CLASSES} more classes" if len(parts) > CLASSES else ""
    remedy = f"to keep them: {lost['remedy']}" if lost["remedy"] else "no larger size keeps them"
    return (
        f"Warning: resizing to {' x '.join(map(str, image_size))} pixels leaves "
        f"{', '.join(parts[:CLASSES])}{more}. The IoU says nothing of what is lost; {remedy}"
    )


def lost_pictures(splits: Mapping[str, Any], image_size: list[int]) -> str:
    """A line on the classes that resizing takes out of some pictures; "" if there is none.

    Args:
        splits: "class_pictures" and "class_pictures_before" by split.
        image_size: width and height of the prepared images.
    """
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for facts in splits.values():
        for key, total in (("class_pictures_before", before), ("class_pictures", after)):
            for name, number in facts.get(key, {}).items():
                total[name] = total.get(name, 0) + number
    lost = {name: number - after[name] for name, number in before.items() if number > after[name]}
    if not lost:
        return ""
    worst = sorted(lost, key=lambda name: -lost[name] / before[name])
    parts = [f"{name} {before[name]} -> {after[name]}" for name in worst[:CLASSES]]
    more = f" and {len(lost) - CLASSES} more classes" if len(lost) > CLASSES else ""
    return (
        f"pictures that hold a class before and after resizing to "
        f"{' x '.join(map(str, image_size))} pixels: {', '.join(parts)}{more}"
    )
