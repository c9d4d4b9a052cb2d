"""The list of file names beside a prepared data set."""

import csv


def listed(models_dir):
    """Path of the list in a models folder, and its file names by split."""
    (path,) = (models_dir / "dataset").glob("examples-*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_split = {}
    for row in rows:
        names = by_split.setdefault(row["split"], [])
        assert int(row["number"]) == len(names), "numbers are 0, 1, 2 ... without gaps"
        names.append(row["picture"])
    return path, by_split
