"""The page as text: whole, escaped, and with nothing to fetch."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from gpubackprop.bench.chart import Point, Series, line_chart, sample
from gpubackprop.bench.page import POLICY, to_html
from gpubackprop.bench.results import Result
from tests.bench.samples import result

SIZES = [1, 16, 256, 4096]
EVIL = "<script>alert(1)</script>&\"'"


def page_result() -> Result:
    return result({"cpu@1": [1e-5 * n for n in SIZES], "cuda:0": [2e-4 + 1e-7 * n for n in SIZES]}, SIZES, phases=True)


class Elements(HTMLParser):
    """Every tag with its attributes, the text, and whether tags are closed in their order."""

    VOID = ("meta", "line", "circle", "path", "wbr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_fetches_nothing() -> None:
    page = to_html(page_result())
    elements = Elements(page)
    assert elements.open == []
    tags = [tag for tag, _ in elements.found]
    assert tags.count("svg") == 3 + 2
    assert not {"script", "img", "link", "iframe", "image", "use"} & set(tags)
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?:", page)
    assert any(a.get("content") == POLICY for tag, a in elements.found if tag == "meta")
    assert any(a.get("name") == "viewport" for tag, a in elements.found if tag == "meta")
    assert "@media print" in page


def test_the_page_says_what_the_terminal_says() -> None:
    text = "".join(Elements(to_html(page_result())).text)
    for figure in (
        "160 us",
        "cuda:0 from about",
        "cuda:0 overtakes cpu@1",
        "A processor, 2 cores",
        "repeats",
        "8.00 GiB",
    ):
        assert figure in text


def test_everything_from_a_file_is_escaped() -> None:
    found = page_result()
    found.machine[EVIL] = EVIL
    found.machine["devices"] = {EVIL: EVIL}
    found.settings[EVIL] = [EVIL, EVIL]
    for case in found.cases:
        case.network = EVIL
        case.cells[EVIL] = case.cells.pop("cpu@1")
    found.cases[0].cells["cuda:0"].failed = EVIL
    found.cases[0].cells["cuda:0"].timings = {}
    column = found.contenders[0]
    column.label = column.how = column.failed = EVIL
    page = to_html(found)
    assert "<script" not in page
    elements = Elements(page)
    assert elements.open == []
    assert {"script", "alert"}.isdisjoint(tag for tag, _ in elements.found)
    assert any(EVIL in text for text in elements.text)


def test_a_page_without_figures() -> None:
    empty = result({"cpu": [1.0]}, [1])
    empty.cases.clear()
    empty.interrupted = True
    page = to_html(empty)
    assert "nothing had been measured yet" in page
    assert Elements(page).open == []


def test_points_lie_where_their_logarithms_are() -> None:
    points = [Point(x, x, x, x) for x in (1.0, 10.0, 100.0)]
    svg = line_chart("t", [Series("s", points, 0)], y_label="y", y_text=str)
    path = re.search(r'class="line" d="M([^"]*)"', svg)
    assert path is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split()) for p in path[1].split("L"))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    assert y2 < y1 < y0


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.02], [0.5, 3.0], [1e-7, 1e3]])
def test_every_axis_has_labels_inside(values: list[float]) -> None:
    points = [Point(i + 1, v, v, v) for i, v in enumerate(values)]
    svg = line_chart("t", [Series("s", points, 0)], y_label="y", y_text=lambda v: f"tick {v:g}")
    places = [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="end">tick', svg)]
    assert 2 <= len(places) <= 9
    assert all(0 < y < 250 for y in places)


def test_lines_differ_by_more_than_their_colour() -> None:
    svgs = [re.sub(r"s\d", "", sample(i)) for i in range(4)]
    assert len(set(svgs)) == 4
    assert line_chart("t", [], y_label="y", y_text=str) == ""
