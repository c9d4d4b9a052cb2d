"""Pictures that are stored otherwise than most of their data set: the likeliest to be read wrong.

dataset.jpg shows them beside ordinary ones, because an eye finds what rules do not.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipeline.data.audit import Findings
from pipeline.data.dataset import SPLITS

MOST = 4  # pictures that are picked
NAMES = {"mask": "mask", "palette": "palette", "photo": "photo", "exif": "EXIF"}  # of `Kind`
RARE = 0.25  # share of all samples above which a way of storing is not rare

Origin = tuple[str, int]  # split of the data set, and the sample's number in it


def pick(findings: Findings, codes: dict[str, np.ndarray]) -> dict[Origin, str]:
    """Samples of training and validation that are stored in a rare way, the rarest way first.

    Of each rare way, the first sample is picked. The test split is not looked at.

    Args:
        findings: of the audit.
        codes: split of every sample, from `split_selection.cut`.

    Returns:
        At most MOST samples, each with what is rare about it.
    """
    seen = {SPLITS.index("train"), SPLITS.index("validation")}
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Origin] = {}
    number = 0
    for split, kinds in findings.kinds.items():
        for row, (code, kind) in enumerate(zip(codes[split], kinds)):
            if kind is None or code not in seen:
                continue
            number += 1
            for trait in zip(kind._fields, kind):
                counts[trait] += 1
                first.setdefault(trait, (split, row))
    odd: dict[Origin, str] = {}
    for trait, count in sorted(counts.items(), key=lambda item: item[1]):
        if count > RARE * number or len(odd) == MOST:
            break
        name, value = trait
        odd.setdefault(first[trait], f"rare: {NAMES[name]} {value or 'none'} ({count} of {number})")
    return odd
