"""The pages' tables are those of the committed records of real runs.

`python tests/test_readme.py` rewrites them.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("benchmarks", "campaigns"))]
README = ROOT / "README.md"
TABLE = re.compile(
    r"(<!-- table of (docs/\S+\.json|what was aimed at) -->\n)(?:.*?\n)??(<!-- end of table -->)",
    re.DOTALL,
)
AIMS = "what was aimed at"


EVERY_PAGE = [README, *sorted((ROOT / "docs").glob("*.md"))]


def pages() -> list[Path]:
    """Every page that has a table of ours, the README among them."""
    return [path for path in EVERY_PAGE if "<!-- table of" in path.read_text(encoding="utf-8")]


def read(name: str) -> dict:
    return json.loads((ROOT / "docs" / f"{name}.json").read_text())


def table_of_aims() -> str:
    """What each kind of compression saved and cost, beside what we set out to reach."""
    results, channels, speed, others = map(
        read, ("results", "results_channels", "speed", "other_runtimes")
    )
    rows, fewer = ({row["name"]: row for row in record["models"]} for record in (results, channels))
    files = {row["name"]: row for row in speed["files"]}
    ms = {
        (row["runtime"], row["threads"]): row["median_ms"]
        for row in others["rows"]
        if row["precision"] == "int8" and row["validation_mean_iou"] is not None  # no peer's
    }

    def faster(slow: str, quick: str, key: str = "median_ms") -> str:
        ratios = [a / b for a, b in zip(files[slow][key], files[quick][key])]
        return " and ".join(f"{ratio:.2f}" for ratio in ratios) + " times"

    def again(slow: str, quick: str) -> str:
        return f"right after another file {faster(slow, quick, 'after_another_ms')}"

    def ahead(runtime: str) -> str:
        ratios = [ms[runtime, threads] / ms["LiteRT", threads] for threads in (1, 2)]
        return f"{runtime} " + " and ".join(f"{ratio:.2f}" for ratio in ratios) + " times"

    def megabytes(row: dict) -> str:
        return f"{row['bytes'] / 1e6:.2f} MB; {row['gzip_bytes'] / 1e6:.2f} MB"

    drop = rows["pruned_float32"]["mean_iou"] - rows["int8"]["mean_iou"]
    sparsity = results["stages"]["pruned"]["metrics"]["sparsity"]
    classic = "classic float32"
    lines = [
        ("what", "least", "aim", "measured"),
        ("---",) * 4,
        (
            "zeros in the pruned kernels; drop of mean IoU",
            "60 %; 0.008",
            "80 %; 0.003",
            f"{sparsity:.1%}; {rows['pruned']['mean_iou_drop']:.4f}",
        ),
        (
            "channels removed: float32 gain over the original; drop",
            "1.3 times; 0.010",
            "1.7 times; 0.003",
            f"{faster('float32', 'channels float32')}; {fewer['pruned']['mean_iou_drop']:.4f}",
        ),
        (
            "int8 against its float32 source: drop; gain",
            "0.002; 1.5 times",
            "0.0005; 2 times",
            f"{drop:.4f}; {faster('float32', 'int8')} ({again('float32', 'int8')})",
        ),
        (
            "dynamic range against float32: gain",
            "1.0 times",
            "1.3 times",
            faster("float32", "dynamic"),
        ),
        (
            "int8 file: raw; gzip",
            "1.4 MB; 1.0 MB",
            "0.9 MB; 0.5 MB",
            f"{megabytes(rows['int8'])} (channels removed: {megabytes(fewer['int8'])})",
        ),
        (
            "int8 against the classic U-Net's float32: gain",
            "40 times",
            "70 times",
            f"{faster(classic, 'int8')} ({again(classic, 'int8')}; "
            f"channels removed: {faster(classic, 'channels int8')})",
        ),
        (
            "int8 against other runtimes' int8, 1 and 2 threads: gain",
            "ahead of both",
            "1.3 times",
            f"{ahead('OpenVINO')}; {ahead('ONNX Runtime')}",
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def table(record: dict) -> str:
    """The table of a record of evaluation.py, of a benchmark, or of a campaign of faults."""
    import against_other_runtimes
    import campaign
    import compare_files

    from pipeline.tables import readme_table

    if "models" in record:
        return readme_table(record).strip()
    if "campaign" in record:
        return campaign.markdown(record)
    return (compare_files if "files" in record else against_other_runtimes).markdown(record)


def with_tables(text: str) -> str:
    """A page's text with every marked table made anew from the record that it names."""

    def anew(match: re.Match) -> str:
        name = match[2].removeprefix("docs/").removesuffix(".json")
        made = table_of_aims() if name == AIMS else table(read(name))
        return f"{match[1]}{made}\n{match[3]}"

    return TABLE.sub(anew, text)


def test_readme_has_a_table():
    assert README in pages()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_are_those_of_the_recorded_runs(page):
    text = page.read_text(encoding="utf-8")
    assert len(TABLE.findall(text)) == text.count("<!-- table of")  # none misspelt
    assert text == with_tables(text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_recorded_runs_are_real_and_whole(page):
    for _, record, _ in TABLE.findall(page.read_text(encoding="utf-8")):
        evaluation = {} if record == AIMS else json.loads((ROOT / record).read_text())
        if "models" not in evaluation:  # of all records; speed alone; the validation split
            continue
        assert not evaluation["dataset"]["synthetic"]
        assert [row["name"] for row in evaluation["models"]][:2] == ["original", "pruned"]
        assert not any(row["stale"] for row in evaluation["models"])
        assert not any(row["latency_ms"].get("busy") for row in evaluation["models"])


def test_empty_table_is_filled_and_what_follows_it_stays():
    end = "<!-- end of table -->\n"
    page = (
        f"<!-- table of docs/results.json -->\n{end}\nwords\n\n"
        f"<!-- table of docs/speed.json -->\n\n{end}"
    )
    filled = with_tables(page)
    assert "\n\nwords\n\n" in filled and filled.count("<!-- end of table -->") == 2
    assert "| pruned |" in filled and "| classic int8 |" in filled
    assert with_tables(filled) == filled


def test_times_of_other_networks_are_not_taken_for_ours(monkeypatch):
    def with_peers(name: str, read: Callable = read) -> dict:
        record = read(name)
        if name == "other_runtimes":
            slow = {"network": "another", "median_ms": 1e6, "validation_mean_iou": None}
            record["rows"] += [row | slow for row in record["rows"]]
        return record

    aims = table_of_aims()
    monkeypatch.setattr(sys.modules[__name__], "read", with_peers)
    assert table_of_aims() == aims


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_links_and_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


if __name__ == "__main__":
    for written_page in pages():
        text = written_page.read_text(encoding="utf-8")
        written_page.write_text(with_tables(text), encoding="utf-8")
