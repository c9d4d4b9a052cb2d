"""The order of the test files, so that two workers end at about the same time.

One worker makes the finished runs, which takes minutes, while the other one runs the tests that
need none of them. Imported by conftest.py, which makes it a hook of pytest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FIRST = "test_journey.py"  # needs all the finished runs of the fast tests
RUNS = {"finished_run", "evaluated_run", "compact_run", "own_project"}  # fixtures that take minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts tests by their files: the maker of the runs, files without them, files with them."""
    need_runs = {item.path for item in items if RUNS & set(getattr(item, "fixturenames", ()))}

    def position(file: Path) -> int:
        return 0 if file.name == FIRST else 2 if file in need_runs else 1

    items.sort(key=lambda item: position(item.path))
