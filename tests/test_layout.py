"""Aligned text, and what notebooks show of networks and reports."""

from __future__ import annotations

import re

import numpy as np

import gpubackprop as gb
from gpubackprop.layout import aligned, html
from gpubackprop.pipeline.report import Report
from gpubackprop.proofs.explain import explain


def test_columns_stand_below_each_other() -> None:
    assert aligned([("a", "bb", "c"), ("long", "1", "10")], "<>") == ["a     bb   c", "long   1  10"]


def test_markup_in_text_is_text() -> None:
    page = html(["<i>&"], [("<b>",), ('"<u>',)])
    assert "&lt;i&gt;&amp;" in page
    assert not re.search("<[ibu]>", page)


def test_networks_and_reports_show_themselves() -> None:
    net = gb.mlp([2, 3, 2], activation="tanh", loss="cross_entropy", device="cpu", dtype="float64")
    x, y = np.eye(2), np.array([0, 1])
    for thing, word in (
        (net, "parameters"),
        (gb.gradcheck(net, x, y), "analytic"),
        (explain(net, x, y), "chain rule"),
        (gb.Trainer(net).fit(x, y, epochs=2), "learning_rate"),
        (gb.check_parity(net, x, y, ["cpu", "strict"], 2), "forward"),
        (Report({"<m>": 1.0}, x, None), "&lt;m&gt;"),
    ):
        page = thing._repr_html_()  # type: ignore[attr-defined]
        assert word in page
        assert "<td" in page
        assert not re.findall(r"<(?!/?(?:div|table|thead|tbody|tr|th|td)\b)", page)
