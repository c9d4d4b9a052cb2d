"""The order of the test files: the ones that take longest start first.

So two workers end at about the same time. Imported by conftest.py, which makes it a hook of pytest.
"""

from __future__ import annotations

import pytest

from tests.helpers.runs import ROOT

LONGEST_FIRST = ()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests by their files; others follow in the order in which they were found."""
    positions = {ROOT / "tests" / file: position for position, file in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: positions.get(item.path, len(positions)))
