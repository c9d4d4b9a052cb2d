"""The pages' tables are those of the committed records of real runs; `python tests/test_readme.py` rewrites them."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "other_runs.md")
TABLE = re.compile(r"(<!-- table of (docs/\S+\.json) -->\n).*?(\n<!-- end of table -->)", re.DOTALL)


def table(record: dict) -> str:
    """The table of a record: of evaluation.py, or of one of the benchmarks that compare files or runtimes."""
    import against_other_runtimes
    import compare_files
    from evaluation import readme_table

    if "models" in record:
        return readme_table(record).strip()
    return (compare_files if "files" in record else against_other_runtimes).markdown(record)


def with_tables(text: str) -> str:
    """A page's text with every marked table made anew from the record that it names."""
    return TABLE.sub(lambda m: m[1] + table(json.loads((ROOT / m[2]).read_text())) + m[3], text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_recorded_runs(page):
    text = page.read_text()
    assert len(TABLE.findall(text)) >= 1
    assert text == with_tables(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recorded_runs_are_real_and_whole(page):
    for _, record, _ in TABLE.findall(page.read_text()):
        evaluation = json.loads((ROOT / record).read_text())
        if "models" not in evaluation:  # speed alone, or the validation split
            continue
        assert not evaluation["dataset"]["synthetic"]
        assert [row["name"] for row in evaluation["models"]][:2] == ["original", "pruned"]
        assert not any(row["stale"] for row in evaluation["models"])


def test_links_and_files_that_the_readme_names_exist():
    text = README.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for script in re.findall(r"python (\w+\.py)", text):
        assert (ROOT / script).exists(), script


if __name__ == "__main__":
    for written_page in PAGES:
        written_page.write_text(with_tables(written_page.read_text()))
