"""The page as text: whole, escaped, and with nothing to fetch."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from gpubackprop.bench.page import POLICY, to_html
from gpubackprop.bench.result import Result
from tests.bench.samples import result

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

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
    assert tags.count("svg") == 3
    assert not {"script", "img", "link", "iframe", "image"} & set(tags)
    # What refers to something refers to a part of the page itself; the only addresses are the names of SVG's own vocabulary.
    assert not re.search(r"""\ssrc\s*=|href\s*=(?!"#)|url\((?!#)|@import""", page)
    assert set(re.findall(r'\S+?="https?:', page)) == {'xmlns="http:', 'xmlns:xlink="http:'}
    assert len(re.findall("https?:", page)) == len(re.findall(r'xmlns(?::xlink)?="http:', page))
    names = [a["id"] for _, a in elements.found if "id" in a]
    assert len(set(names)) == len(names)
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
