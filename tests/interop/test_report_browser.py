"""The report in a real browser: no error, every picture there, nothing wider than the window."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from pipeline.base.artifacts import MODELS, MODELS_DIR
from pipeline.report import gallery, page
from tests.helpers.runs import trained

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]

# Put into a copy of the page, before everything else, so that it hears every error.
LISTENER = """<script>
window.faults = [];
for (const kind of ["error", "warn"]) {
  const original = console[kind];
  console[kind] = (...words) => { window.faults.push(words.join(" ")); original(...words); };
}
addEventListener("error", event => window.faults.push(
  "error: " + (event.message || event.target.outerHTML.slice(0, 100))), true);
addEventListener("securitypolicyviolation", event => window.faults.push(
  "not inside the page: " + event.blockedURI));
</script>
<meta http-equiv="Content-Security-Policy" content="default-src data: 'unsafe-inline'">
"""
# A headless window is at least 500 pixels wide, hence frames. Frame and page are one document:
# no origins to cross.
FRAME = """<!doctype html><meta charset="utf-8"><body><pre id="findings">none</pre><script>
const page = PAGE, findings = {}, widths = WIDTHS;
let left = widths.length;
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {  // which waits for pictures
    const inner = frame.contentDocument, pictures = [...inner.images];
    const missing = pictures.filter(picture => !picture.complete || !picture.naturalWidth);
    const wide = [...inner.body.querySelectorAll("*")].filter(element =>
      !element.parentElement.closest(".scroll, .card") &&
      element.getBoundingClientRect().right > width + 1);
    findings[width] = {
      faults: frame.contentWindow.faults,
      width: inner.documentElement.scrollWidth, room: inner.documentElement.clientWidth,
      pictures: pictures.length, missing: missing.map(picture => picture.alt),
      wide: wide.map(element => element.outerHTML.slice(0, 80)).slice(0, 5)};
    if (--left === 0) {
      document.getElementById("findings").textContent = JSON.stringify(findings);
    }
  };
  frame.srcdoc = page;
  document.body.append(frame);
}
</script></body>
"""


def look(page, folder, widths=(375, 1280)):
    """What the browser finds in a page, for each width in pixels."""
    heard = page.replace("<head>", "<head>" + LISTENER, 1)
    frame = folder / "frame.html"
    literal = json.dumps(heard).replace("</", "<\\/").replace("<!--", "<\\!--")
    frame.write_text(FRAME.replace("WIDTHS", json.dumps(widths)).replace("PAGE", literal, 1))
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--window-size=1400,1000", f"--user-data-dir={folder / 'profile'}"),
        *("--virtual-time-budget=20000", "--dump-dom", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = re.search(r'<pre id="findings">(.*?)</pre>', done.stdout, re.DOTALL).group(1)
    assert text != "none", f"the page did not load:\n{done.stderr[-2000:]}"
    return json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.fixture
def html(numbers, tmp_path):
    """A report with every part, and with names and photos as wide as they come."""
    for name in ("original", "pruned"):
        trained(tmp_path, name)
    stale = "models/int8_quantized_model.tflite was made from another pruned_model.h5"
    numbers["models"][5]["stale"] = stale
    layers = {f"block{k}_project": {"weights": 512, "sparsity": k / 30} for k in range(30)}
    numbers["stages"]["pruned"]["metrics"]["layers"] = layers
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    cells = [gallery.stacked([picture, picture], f"picture {k}", "0.512") for k in range(8)]
    photos = {
        "what": "synthetic test picture",
        "number": 6,
        "colours": [("pet", (242, 142, 43)), ("wrong pixel", (230, 0, 126))],
        "head": ["synthetic test picture", "photo, ground truth", *MODELS],
        "rows": [
            {"rank": "better than 40%", "called": f"images/{'a_name_' * 9}.png", "cells": cells}
        ],
    }
    return page.page(numbers, tmp_path, photos)


def check(findings):
    for width, found in findings.items():
        assert found["faults"] == [], width
        assert found["pictures"] >= 7, width
        assert found["missing"] == [], width
        assert found["width"] <= found["room"] == int(width), found["wide"]


def test_report_in_a_browser(html, tmp_path):
    check(look(html, tmp_path))


@pytest.mark.parametrize("folder", ["", "demo"], ids=["models", "models/demo"])
def test_report_of_the_last_evaluation(tmp_path, folder):
    path = MODELS_DIR / folder / "report.html"
    if not path.exists():
        pytest.skip(f"{path} has not been made")
    check(look(path.read_text(encoding="utf-8"), tmp_path))


def test_the_check_itself_finds_faults(tmp_path):
    bad = (
        '<html><head></head><body><p style="width:2000px">wide</p>'
        '<img src="data:image/png;base64,AAAA" alt="broken">'
        '<img src="http://127.0.0.1:9/x.png" alt="outside">'
        '<script>console.error("oh")</script></body></html>'
    )
    found = look(bad, tmp_path, (375,))["375"]
    assert found["width"] > found["room"]
    assert found["missing"] == ["broken", "outside"]
    assert any("oh" in fault for fault in found["faults"])
    assert any("not inside the page" in fault for fault in found["faults"])
