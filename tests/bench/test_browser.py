"""The page in a real browser: nothing wider than a phone, no small print, no request, and pages of paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from gpubackprop.bench.page import POLICY, to_html
from tests.bench.samples import result

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome", "chrome") if shutil.which(b)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")

SIZES = [1, 16, 256, 4096, 65536]

# Looks at the page inside a frame of a phone's width, which media queries and layout go by.
FRAME = """<!doctype html><body style="margin:0"><pre id="said"></pre>
<iframe srcdoc="{page}" style="width:{width}px;height:800px;border:0"></iframe>
<script>
document.querySelector("iframe").onload = event => {{
  const d = event.target.contentDocument, w = event.target.contentWindow;
  const size = e => {{
    const font = parseFloat(w.getComputedStyle(e).fontSize), svg = e.closest("svg.chart");
    return svg ? font * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : font;
  }};
  const texts = [...d.querySelectorAll("h1,h2,p,td,th,li,dt,dd,svg.chart text")].filter(e => e.textContent.trim());
  const outside = [...d.querySelectorAll("svg.chart text")].filter(e => {{
    const t = e.getBoundingClientRect(), s = e.closest("svg").getBoundingClientRect();
    return t.left < s.left - 1 || t.right > s.right + 1 || t.top < s.top - 1 || t.bottom > s.bottom + 1;
  }});
  document.getElementById("said").textContent = JSON.stringify({{
    width: w.innerWidth, content: d.documentElement.scrollWidth, smallest: Math.min(...texts.map(size)),
    outside: outside.map(e => e.textContent), columns: new Set([...d.querySelectorAll("figure")].map(
      e => Math.round(e.getBoundingClientRect().left))).size,
    tables: [...d.querySelectorAll(".wide")].map(e => e.scrollWidth - e.clientWidth),
  }});
}};
</script>"""


def page() -> str:
    times = {
        "cpu@1": [2e-5 + 6e-6 * n for n in SIZES],
        "cpu@16": [5e-5 + 1.1e-6 * n for n in SIZES],
        "cuda:0": [1e-4 + 5e-8 * n for n in SIZES],
        "cuda:0:tf32": [9.5e-5 + 1.3e-8 * n for n in SIZES],
    }
    found = result(times, SIZES, transfer={"cuda:0": 2e-4}, network="784-512-256-10", phases=True)
    cell = found.cases[2].cells["cuda:0"]
    cell.failed, cell.timings = "wrong result: gradient 0.weight is off by 1.2e-02 of its norm", {}
    return to_html(found)


def browse(tmp_path: Path, *arguments: str) -> str:
    assert BROWSER is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=5000"
    command = [BROWSER, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def looked_at(tmp_path: Path, width: int) -> dict[str, Any]:
    inside = page().replace("&", "&amp;").replace('"', "&quot;")
    (tmp_path / "frame.html").write_text(FRAME.format(page=inside, width=width), encoding="utf-8")
    dom = browse(tmp_path, "--window-size=1600,1000", "--dump-dom", (tmp_path / "frame.html").as_uri())
    said = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert said is not None
    found: dict[str, Any] = json.loads(unescape(said[1]))
    assert found["width"] == width
    return found


def test_on_a_phone(tmp_path: Path) -> None:
    found = looked_at(tmp_path, 390)
    assert found["content"] <= 390, "the page scrolls to the side"
    assert found["smallest"] >= 11
    assert found["outside"] == []
    assert found["columns"] == 1
    assert max(found["tables"]) <= 0, "a table scrolls to the side"


def test_on_a_screen(tmp_path: Path) -> None:
    found = looked_at(tmp_path, 1400)
    assert found["content"] <= 1400
    assert found["columns"] == 3
    assert found["outside"] == []
    assert found["smallest"] >= 10


def test_on_paper(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(), encoding="utf-8")
    browse(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri())
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    pages = re.search(rb"/Count (\d+)", pdf)
    assert pages is not None
    assert 2 <= int(pages[1]) <= 8


def test_the_policy_keeps_scripts_and_requests_out(tmp_path: Path) -> None:
    """What slips through the escaping still could do nothing: the browser itself refuses."""
    script = "<script>document.documentElement.dataset.ran = 'yes'</script><img src=x onerror='document.title=1'>"
    (tmp_path / "page.html").write_text(page().replace("</main>", f"{script}</main>"), encoding="utf-8")
    uri = (tmp_path / "page.html").as_uri()
    assert "data-ran" not in browse(tmp_path, "--dump-dom", uri)
    open_page = (tmp_path / "page.html").read_text(encoding="utf-8").replace(POLICY, "")
    (tmp_path / "page.html").write_text(open_page, encoding="utf-8")
    assert "data-ran" in browse(tmp_path, "--dump-dom", uri), "without the policy it would have run"
