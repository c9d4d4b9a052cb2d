"""The pages' tables are those of the committed records of real runs.

`python tests/repo/test_readme.py` rewrites them.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("benchmarks", "campaigns"))]
README = ROOT / "README.md"
TABLE = re.compile(
    r"(<!-- (?:short )?table of (docs/\S+\.json|what was aimed at|int8 by processor) -->\n)"
    r"(?:.*?\n)??"
    r"(<!-- end of table -->)",
    re.DOTALL,
)
AIMS = "what was aimed at"
PROCESSORS = "int8 by processor"
PAIR = ("float32", "int8")


EVERY_PAGE = [README, *sorted((ROOT / "docs").glob("*.md"))]
RECORDS = sorted((ROOT / "docs").glob("*.json"))


def pages() -> list[Path]:
    """Every page that has a table of ours, the README among them."""
    return [path for path in EVERY_PAGE if TABLE.search(path.read_text(encoding="utf-8"))]


def read(name: str) -> dict:
    return json.loads((ROOT / "docs" / f"{name}.json").read_text())


def table_of_aims(read_record: Callable[[str], dict] = read) -> str:
    """What each kind of compression saved and cost, beside what we set out to reach.

    Args:
        read_record: returns a record of docs/ by its name without the suffix.
    """
    names = "results", "results_channels", "results_small", "speed", "other_runtimes"
    results, channels, small, speed, others = map(read_record, names)
    rows, fewer, preset = (
        {row["name"]: row for row in record["models"]} for record in (results, channels, small)
    )
    files = {row["name"]: row for row in speed["files"]}
    ms = {
        (row["runtime"], row["threads"]): row["median_ms"]
        for row in others["rows"]
        if row["precision"] == "int8" and row["validation_mean_iou"] is not None  # no peer's
    }

    def faster(slow: str, quick: str, key: str = "median_ms") -> list[float]:
        return [a / b for a, b in zip(files[slow][key], files[quick][key])]

    def ahead(runtime: str, threads: int) -> float:
        return ms[runtime, threads] / ms["LiteRT", threads]

    sparsity = results["stages"]["pruned"]["metrics"]["sparsity"]
    drop = rows["pruned_float32"]["mean_iou"] - rows["int8"]["mean_iou"]
    again = faster("classic float32", "int8", "after_another_ms")
    times, iou, share = "{:.2f} times", "{:.4f}", "{:.0%}"
    return aims_as_table(
        ("mean IoU of the original", 0.8, 0.81, iou, rows["original"]["mean_iou"]),
        ("mean IoU of its int8 file", 0.795, 0.805, iou, rows["int8"]["mean_iou"]),
        ("what int8 loses against its float32 source", 0.0015, 0.0005, iou, drop),
        ("zeros in the pruned kernels", 0.6, 0.7, share, sparsity),
        ("what they lose", 0.003, 0.002, iou, rows["pruned"]["mean_iou_drop"]),
        (
            "int8 with fewer channels against float32 with all",
            *(2.5, 3.0, times, *faster("float32", "channels int8")),
        ),
        ("what fewer channels lose", 0.005, 0.003, iou, fewer["pruned"]["mean_iou_drop"]),
        ("int8 against float32", 1.5, 2.0, times, *faster("float32", "int8")),
        ("dynamic range against float32", 1.15, 1.3, times, *faster("float32", "dynamic")),
        ("int8 file, MB", 1.4, 0.9, "{:.2f}", rows["int8"]["bytes"] / 1e6),
        ("the same after gzip, MB", 1.0, 0.5, "{:.2f}", rows["int8"]["gzip_bytes"] / 1e6),
        (
            "int8 against the classic U-Net's float32",
            *(43.0, 70.0, times, *faster("classic float32", "int8")),
        ),
        ("the same right after another file", 35.0, 55.0, times, *again),
        ("int8 against OpenVINO's, 1 thread", 1.15, 1.3, times, ahead("OpenVINO", 1)),
        ("the same, 2 threads", 1.25, 1.4, times, ahead("OpenVINO", 2)),
        (
            "int8 against ONNX Runtime's, 1 and 2 threads",
            *(1.0, 1.3, times, *(ahead("ONNX Runtime", threads) for threads in (1, 2))),
        ),
        (
            "int8 time of the small preset, of the default's",
            *(0.6, 0.45, share, *(1 / times for times in faster("int8", "small int8"))),
        ),
        ("mean IoU of the small preset", 0.78, 0.785, iou, preset["original"]["mean_iou"]),
        ("mean IoU of its int8 file", 0.78, 0.785, iou, preset["int8"]["mean_iou"]),
    )


def aims_as_table(*aims: tuple) -> str:
    """Rows of (what, least, aim, format, measured ...), and which of least and aim is reached."""
    lines = ["| what | least | aim | measured | reached |", "| --- | ---: | ---: | ---: | --- |"]
    for what, *limits, form, measured in [(*aim[:4], aim[4:]) for aim in aims]:
        least, aim = map(form.format, limits)
        shown = [form.format(value) for value in measured]
        cells = what, least, aim, " and ".join(shown), reached(shown, least, aim)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reached(shown: list[str], least: str, aim: str) -> str:
    """Which of the two all figures reach; less is better where the aim is less."""
    least, aim, *values = (float(re.match(r"-?[\d.]+", text)[0]) for text in (least, aim, *shown))
    sign = 1 if aim > least else -1
    enough, far = ([sign * value >= sign * limit for value in values] for limit in (least, aim))
    return "aim" if all(far) else "least" if all(enough) else "in part" if any(enough) else "**no**"


def table(record: dict, short: bool = False) -> str:
    """The table of a record of evaluation.py, of a benchmark, or of a campaign of faults."""
    import against_other_runtimes
    import campaign
    import compare_files

    from pipeline.report.tables import readme_table, short_table

    if "models" in record:
        return (short_table if short else readme_table)(record).strip()
    if "taken" in record:
        from tests.helpers import taken_packages

        return taken_packages.markdown(record)
    if "campaign" in record:
        return campaign.markdown(record)
    return (compare_files if "files" in record else against_other_runtimes).markdown(record)


def table_of_processors() -> str:
    """Time of the default network's float32 and int8 files on each kind of processor measured."""
    results, faster, amx = map(read, ("results", "speed_before", "peers_128_amx"))
    rows = {row["name"]: row for row in results["models"]}
    files = {row["name"]: row for row in faster["files"]}
    ms = {
        row["precision"]: row["median_ms"]
        for row in amx["rows"]
        if (row["network"], row["runtime"], row["threads"]) == ("compact_unet default", "LiteRT", 1)
    }
    sets = ", ".join(results["environment"]["instruction_sets"])
    measured = (
        (
            f"{results['environment']['cpu']}: {sets}",
            *(rows[name]["latency_ms"]["median"] for name in PAIR),
        ),
        ("a faster AMD EPYC, AVX-512 VNNI", *(files[name]["median_ms"][0] for name in PAIR)),
        ("Intel Xeon, AVX-512 VNNI and AMX", *(ms[name] for name in PAIR)),
    )
    lines = [
        "| processor | float32, ms | int8, ms | float32 / int8 |",
        "| --- | ---: | ---: | ---: |",
    ]
    return "\n".join(
        [*lines, *(f"| {cpu} | {a:.2f} | {b:.2f} | {a / b:.2f} |" for cpu, a, b in measured)]
    )


MADE_OF_SEVERAL = {AIMS: table_of_aims, PROCESSORS: table_of_processors}


def with_tables(text: str) -> str:
    """A page's text with every marked table made anew from the record that it names."""

    def anew(match: re.Match) -> str:
        name = match[2].removeprefix("docs/").removesuffix(".json")
        short = match[1].startswith("<!-- short")
        made = MADE_OF_SEVERAL[name]() if name in MADE_OF_SEVERAL else table(read(name), short)
        return f"{match[1]}{made}\n{match[3]}"

    return TABLE.sub(anew, text)


def test_readme_has_a_table():
    assert README in pages()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_are_those_of_the_recorded_runs(page):
    text = page.read_text(encoding="utf-8")
    assert len(TABLE.findall(text)) == text.count("table of")  # none misspelt
    assert text == with_tables(text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_recorded_runs_are_real_and_whole(page):
    for _, record, _ in TABLE.findall(page.read_text(encoding="utf-8")):
        evaluation = {} if record in MADE_OF_SEVERAL else json.loads((ROOT / record).read_text())
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


def test_aims_are_called_reached_if_every_value_reaches_them():
    made = aims_as_table(
        ("more is better", 1.0, 2.0, "{:.1f} times", 2.04, 1.96),
        ("less is better", 0.5, 0.4, "{:.0%}", 0.45, 0.5),
        ("one of two", 1.0, 2.0, "{:.1f}", 0.9, 1.1),
        ("neither", 0.003, 0.002, "{:.4f}", 0.0031),
    )
    assert made.splitlines()[2:] == [
        "| more is better | 1.0 times | 2.0 times | 2.0 times and 2.0 times | aim |",
        "| less is better | 50% | 40% | 45% and 50% | least |",
        "| one of two | 1.0 | 2.0 | 0.9 and 1.1 | in part |",
        "| neither | 0.0030 | 0.0020 | 0.0031 | **no** |",
    ]


def test_times_of_other_networks_are_not_taken_for_ours():
    def with_peers(name: str) -> dict:
        record = read(name)
        if name == "other_runtimes":
            slow = {"network": "another", "median_ms": 1e6, "validation_mean_iou": None}
            record["rows"] += [row | slow for row in record["rows"]]
        return record

    assert table_of_aims(with_peers) == table_of_aims()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_committed_records_name_no_folder_of_the_machine_they_were_made_on(record):
    assert not re.findall(r'"(?:/|~|[A-Za-z]:\\)[^"]*"', record.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_links_and_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for script in re.findall(r"python ([\w/]+\.py)", text):
        # The handed-over folder has its own.
        assert any((folder / script).exists() for folder in (ROOT, ROOT / "pipeline/deploy")), (
            script
        )


if __name__ == "__main__":
    for written_page in pages():
        text = written_page.read_text(encoding="utf-8")
        written_page.write_text(with_tables(text), encoding="utf-8")
