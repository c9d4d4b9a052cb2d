"""The page needs no other file, names every model and every fault, and escapes every name."""

import base64
import csv
import json
import re
import shlex

import numpy as np
import pytest

import data_preparation
import quantization
from pipeline.base import commands
from pipeline.base.artifacts import MODELS, record_path, write_record
from pipeline.base.identity import NO_SETTINGS
from pipeline.report import gallery, page
from tests.helpers.runs import trained

SPARSITY = "Sparsity of each pruned layer"


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the charts empty, for tests of something else: each takes half a second to draw."""

    def chart(caption, draw, *args, name="", **kwargs):
        return {"picture": "data:,", "caption": caption, "name": name}

    monkeypatch.setattr(page, "chart", chart)


def outside_addresses(text):
    """Addresses that a browser would have to fetch; XML namespaces in pictures are none."""
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:|#)[^\s\"'>)]+", text)
    return addresses + re.findall(r"https?://[^\s\"'<]+", re.sub(r"data:[^\"']*", "", text))


def test_report_needs_no_other_file_and_names_every_model(numbers, tmp_path):
    trained(tmp_path, "original")
    numbers["models"][4]["stale"] = "made from another <file>"
    html = page.page(numbers, tmp_path)
    assert "{{" not in html and "{%" not in html
    assert outside_addresses(html) == []
    assert "<script" not in html
    assert all(f">{name}<" in html or f">{name} (stale)<" in html for name in MODELS)
    assert "made from another &lt;file&gt;" in html
    assert "Oxford &lt;Pets&gt;" in html
    assert "--epochs 10" in html and "cd" * 32 in html
    assert "ynthetic" not in html
    numbers["dataset"]["synthetic"] = True
    assert "Synthetic data" in page.page(numbers, tmp_path)


def test_markup_in_names_is_escaped(numbers, tmp_path, undrawn):
    evil = '"><script>alert(1)</script>&'
    for row in numbers["models"]:
        row |= {"name": f"{row['name']}{evil}", "stale": evil}
    numbers["dataset"]["source"] = numbers["environment"]["cpu"] = evil
    numbers["environment"]["versions"] = {evil: evil}
    numbers["stages"]["pruned"]["settings"]["data_dir"] = evil
    layers = {f"{evil}{k}": {"weights": 512, "sparsity": k / 4} for k in range(3)}
    numbers["stages"]["pruned"]["metrics"]["layers"] = layers
    cell = gallery.stacked([np.zeros((8, 8, 3), np.uint8)], evil, evil)
    photos = {
        "what": evil,
        "number": 1,
        "colours": [(evil, (1, 2, 3))],
        "head": [evil, evil],
        "rows": [{"rank": evil, "called": evil, "cells": [cell]}],
    }
    html = page.page(numbers, tmp_path, photos)
    assert "<script" not in html
    assert '">&lt;script' not in html  # nor does a name end the attribute that it stands in
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;") > 20


def test_photos_are_on_the_page_only_if_there_are_any(numbers, tmp_path, undrawn):
    cell = gallery.stacked([np.zeros((8, 8, 3), np.uint8)], "a photo of a cat", "0.512")
    photos = {
        "what": "test photo",
        "number": 6,
        "colours": [("pet", (1, 2, 3))],
        "head": ["test photo", "photo, ground truth"],
        "rows": [{"rank": "worst 1", "called": "images/p1.jpg", "cells": [cell]}],
    }
    html = page.page(numbers, tmp_path, photos)
    assert "Worst and other test photos" in html and 'alt="a photo of a cat"' in html
    assert 'worst 1<br><span class="file">images/<wbr>p1.jpg</span>' in html and ">0.512<" in html
    assert "background:rgb(1, 2, 3)" in html
    assert "Worst and other" not in page.page(numbers, tmp_path)


# --- charts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "drawn"),
    [((0.7, 0.7, 0.7), False), ((0.7, 0.7001), False), ((0.7, 0.5, 0.9), True), ((), False)],
    ids=["equal", "rounded", "different", "none"],
)
def test_chart_of_sparsity_only_where_layers_differ(numbers, tmp_path, undrawn, shares, drawn):
    layers = {f"layer{k}": {"weights": 512, "sparsity": share} for k, share in enumerate(shares)}
    numbers["stages"]["pruned"]["metrics"] = {"layers": layers} if layers else {}
    html = page.page(numbers, tmp_path)
    assert html.count(f"<figcaption>{SPARSITY}") == drawn


def test_charts_are_pictures_inside_the_page(numbers, tmp_path):
    html = page.page(numbers, tmp_path)
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert len(pictures) == 5  # confusion, size, latency, classes, memory
    numbers["dataset"]["class_names"] = [f"class {k}" for k in range(20)]
    assert page.page(numbers, tmp_path).count("data:image/svg") == 4  # too many for a chart
    assert all(b"<svg" in base64.b64decode(picture) for picture in pictures)
    assert "Peak memory" in html
    numbers["models"][0]["memory_bytes"] = None  # a system that does not tell
    html = page.page(numbers, tmp_path)
    assert "Peak memory" not in html and ">unknown<" in html


def test_curves_are_drawn_for_stages_with_a_history(numbers, tmp_path, undrawn):
    assert "<h2>Training</h2>" not in page.page(numbers, tmp_path)
    trained(tmp_path, "pruned")
    html = page.page(numbers, tmp_path)
    assert "<h2>Training</h2>" in html
    assert 'aria-label="Pruning and fine-tuning"' in html and 'aria-label="Training"' not in html


def test_chart_that_fails_costs_neither_the_page_nor_the_others(
    numbers, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise TypeError("no axes\nto draw on")

    monkeypatch.setattr(page, "trade_off", fail)
    monkeypatch.setattr(page, "curves", fail)
    trained(tmp_path, "original")
    html = page.page(numbers, tmp_path)
    assert html.count("data:image/svg") == 3  # confusion, classes, memory
    assert "Latency against mean IoU. This chart could not be drawn: no axes<" in html
    assert html.count("could not be drawn") == 3
    output = capsys.readouterr().out
    assert output.count("note: the chart ") == 3 and "to draw on" not in output


def test_curves_are_drawn_from_the_record_or_from_the_table_of_an_older_version(numbers, tmp_path):
    trained(tmp_path, "original")
    from_table = page.page(numbers, tmp_path)
    table = tmp_path / "original_training.csv"
    with table.open(encoding="utf-8", newline="") as file:
        history = [
            {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
        ]
    table.unlink()
    assert "<h2>Training</h2>" not in page.page(numbers, tmp_path)
    record = record_path(tmp_path, "original")
    content = json.loads(record.read_text(encoding="utf-8"))
    write_record(record, content | {"history": history})
    assert page.page(numbers, tmp_path) == from_table


def test_name_that_is_no_utf8_stops_no_page(numbers, tmp_path, undrawn):
    numbers["dataset"]["source"] = "data/caf\udce9"
    html = page.page(numbers, tmp_path)
    assert b"data/caf?" in html.encode("utf-8")


def test_same_numbers_same_page(numbers, tmp_path):
    trained(tmp_path, "original")
    assert page.page(numbers, tmp_path) == page.page(numbers, tmp_path)


def test_every_class_has_its_share_beside_its_iou(numbers, tmp_path):
    numbers["models"][0]["iou"]["border"] = None
    html = page.page(numbers, tmp_path)
    row = re.search(r"<tr><th scope=.row.>border</th>(.*?)</tr>", html)[1]
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[:4] == ["12.00%", "3,669", "-", "0.510"] and len(cells) == 2 + len(MODELS)
    assert "left out of the mean" in html


# --- where the numbers come from ------------------------------------------------------------


def test_command_in_the_report_repeats_the_settings(tmp_path):
    settings = vars(quantization.parse(["--models-dir", str(tmp_path), "--qat", "--epochs", "2"]))
    recorded = {key: value for key, value in settings.items() if key not in NO_SETTINGS}
    command = page.stage_command(tmp_path, "int8", recorded)
    assert command.startswith(f"{commands.python()} quantization.py --models-dir {tmp_path} ")
    assert "--qat" in command and "--sensitivity" not in command and "None" not in command
    assert vars(quantization.parse(command.split()[2:])) == settings
    own = ["--data", "my photos", "--names", "road,car", "--image-size", "480x352"]
    own += ["--label-mapping", "255:1,7:ignore", "--models-dir", str(tmp_path)]
    settings = vars(data_preparation.parse(own))
    recorded = {key: value for key, value in settings.items() if key not in NO_SETTINGS}
    command = page.stage_command(tmp_path, "dataset", json.loads(json.dumps(recorded)))
    assert vars(data_preparation.parse(shlex.split(command)[2:])) == settings


def test_page_says_what_the_numbers_mean_and_how_they_were_taken(numbers, tmp_path, undrawn):
    html = page.page(numbers, tmp_path)
    assert "(+: loss, -: gain)" in html.split("<h2>Findings")[0], "the caption of the table"
    assert "Recommended file: " in html and "Warning: IoU drop on the class border: " in html
    assert "ab" * 32 in html and "mean IoU of 0.2000" in html
    assert f"This evaluation: {commands.python()} evaluation.py" in html and "numpy 2." in html


def test_curves_of_another_training_than_the_models_are_left_out(numbers, tmp_path):
    """A run that is stopped before its end leaves such a table."""
    trained(tmp_path, "original")
    trained(tmp_path, "pruned")
    html = page.page(numbers, tmp_path)
    assert 'aria-label="Pruning and fine-tuning"' in html and 'aria-label="Training"' in html
    with (tmp_path / "original_training.csv").open("a") as file:
        file.write("3,nonsense\n")
    html = page.page(numbers, tmp_path)
    assert 'aria-label="Pruning and fine-tuning"' in html and 'aria-label="Training"' not in html
