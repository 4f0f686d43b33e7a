"""The charts of a result, as SVG and as PNG."""

from __future__ import annotations

import re
import sys
from itertools import combinations
from pathlib import Path

import pytest

from gpubackprop.bench.charts import Chart, charts, figure, save_plot, svg
from gpubackprop.bench.page import to_html
from gpubackprop.errors import ArgumentError, DataError, MissingExtraError
from tests.bench.samples import result


def test_a_png_with_a_row_for_each_network(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    one = result({"cpu": [1e-5, 1e-3], "cuda:0": [1e-4, 1e-4]}, [1, 100])
    two = result({"cpu": [1e-5, 1e-3], "cuda:0": [1e-4, 1e-4]}, [1, 100], network="9-9-9")
    save_plot(one, tmp_path / "one.png")
    one.cases += two.cases
    save_plot(one, tmp_path / "two.png")
    first, second = (image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert second.shape[0] == 2 * first.shape[0]
    assert first[..., :3].std() > 0.05, "there is something to see"


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4, 5, 6, 7, 8], [16, 20], [4**i for i in range(9)]])
def test_no_words_lie_on_others_or_on_the_curves(sizes: list[int]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.text import Text

    labels = ["cpu@1:float64", "cpu@16:float64", "cuda:0:float64", "cuda:0:tf32", "cuda:0:bf16"]
    # Each is the fastest somewhere.
    times = {label: [1e-5 * (2**i + n / 4**i) for n in sizes] for i, label in enumerate(labels)}
    drawn = figure(result(times, sizes, spread=0.001))
    drawn.draw_without_rendering()
    boxes = {}
    for words in drawn.findobj(lambda a: isinstance(a, Text) and a.get_visible() and a.get_text().strip()):
        box = words.get_window_extent()
        if box.width:
            boxes[f"{words.get_text()} {id(words)}"] = box
    assert any("cuda:0:bf16 from" in name for name in boxes) == (sizes[-1] == 4**8)
    for axes in drawn.axes:
        boxes[f"curves {id(axes)}"] = axes.get_window_extent()
    pairs = [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert pairs == []


def test_nothing_to_draw_and_nowhere_to_draw_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(ArgumentError, match="nothing to plot"):
        save_plot(result({"cpu": [None]}, [1]), tmp_path / "x.png")
    with pytest.raises(DataError, match="cannot be written"):
        save_plot(result({"cpu": [1.0]}, [1]), tmp_path / "no" / "x.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda: figure(result({"cpu": [1.0]}, [1])), lambda: to_html(result({"cpu": [1.0]}, [1]))):
        with pytest.raises(MissingExtraError, match=r"gpubackprop\[plot\]"):
            draw()


def test_points_lie_where_their_logarithms_are() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    drawn = svg(Chart("t", "y", str, {"s": [(x, x, x, x) for x in (1.0, 10.0, 100.0)]}))
    path = re.search(r'd="M ([^L"]*L[^L"]*L[^L"]*)"[^>]*stroke: #0072b2', drawn)
    assert path is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split()) for p in path[1].split("L"))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    assert y2 < y1 < y0


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.02], [0.5, 3.0], [1e-7, 1e3]])
def test_every_axis_has_labels_inside(values: list[float]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    points = [(i + 1, v, v, v) for i, v in enumerate(values)]
    drawn = svg(Chart("t", "y", lambda v: f"tick {v:g}", {"s": points}))
    places = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>tick', drawn)]
    assert 2 <= len(places) <= 9
    height = re.search(r'viewBox="0 0 \S+ (\S+)"', drawn)
    assert height is not None
    assert all(0 < y < float(height[1]) for y in places)


@pytest.mark.parametrize("times", [[1.02e-3, 1.1e-3], [1.001e-3, 1.004e-3], [1e-5, 3e-5], [1e-6, 1.0]])
def test_no_two_labels_of_an_axis_are_the_same(times: list[float]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    both = result({"cpu": times, "cuda:0": [1.2 * t for t in times]}, [16, 20], spread=0.001)
    for chart in charts(both, "8-4-2"):
        labels = re.findall(r"text-anchor: end[^>]*>([^<]+)<", svg(chart))
        assert len(set(labels)) == len(labels) >= 2, chart.title


def test_lines_differ_by_more_than_their_colour() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    drawn = figure(result({f"cpu@{i}": [1e-5 * i, 1e-3] for i in range(1, 5)}, [1, 100]))
    lines = [line for line in drawn.axes[0].lines if line.get_marker() not in ("_", "|") and len(line.get_xdata()) == 2]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines if line.get_linestyle() != "None"}
    assert len(looks) == 4
    assert charts(result({"cpu": [None]}, [1]), "8-4-2") == []


def test_text_is_text_and_no_markup_and_no_formula() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    drawn = svg(Chart('<b>&"', "$y$", str, {"<script>": [(1.0, 1.0, 1.0, 1.0)]}))
    assert 'aria-label="&lt;b&gt;&amp;&quot;"' in drawn
    assert "&lt;script&gt;" in drawn
    assert "$y$" in drawn
    assert "<script" not in drawn
