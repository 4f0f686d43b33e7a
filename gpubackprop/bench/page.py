"""A result as one HTML page that holds everything it needs: readable on a phone, on a screen and on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import inf
from typing import Any

from gpubackprop.bench import columns, units
from gpubackprop.bench.chart import Point, Series, line_chart, sample
from gpubackprop.bench.crossover import advice, rounded, winners
from gpubackprop.bench.results import Result, Timing
from gpubackprop.bench.style import STYLE
from gpubackprop.bench.table import warnings

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may load: nothing but its own style."""


def to_html(result: Result) -> str:
    """The page. Every text that comes from the result is escaped."""
    title = f"Training steps: {', '.join(result.networks) or 'nothing measured'}"
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    sections = [f"<header><h1>{escape(title)}</h1>{_lead(result)}</header>", _legend(result)]
    sections += [_network(result, network) for network in result.networks]
    sections += [_failed(result), _reading(), _facts(result)]
    return head + "\n".join(s for s in sections if s) + "\n</main>\n</body>\n</html>\n"


def _lead(result: Result) -> str:
    text = "".join(f'<p class="advice">{escape(line)}</p>' for line in advice(result))
    return text + "".join(f'<p class="warning">{escape(line)}</p>' for line in warnings(result))


def _legend(result: Result) -> str:
    entries = "".join(f"<li>{sample(i)} {escape(label)}</li>" for i, label in enumerate(result.labels))
    return f'<ul class="legend">{entries}</ul>'


def _network(result: Result, network: str) -> str:
    charts = "".join(f"<figure>{svg}</figure>" for svg in _charts(result, network) if svg)
    tables = "".join(by_batch(shown) for shown in columns.tables(result, network))
    names, lines = columns.crossing(result, network)
    if lines:
        tables = table("Crossovers, and the measured sizes around them", names, lines) + tables
    return f"<section>\n<h2>{escape(network)}</h2>\n<div class=charts>{charts}</div>\n{tables}</section>"


# -- charts -------------------------------------------------------------------------------------------------------


def _charts(result: Result, network: str) -> list[str]:
    cases = result.of(network)
    marks = [(n, f"{label} from {rounded(n)}") for n, label in winners(cases, result.labels)[1:]]

    def series(value: Callable[[int, Timing, Timing | None], Point]) -> list[Series]:
        lines = []
        for i, label in enumerate(result.labels):
            timed = [(c.batch_size, c.timing(label), c.timing(result.labels[0])) for c in cases]
            lines.append(Series(label, [value(n, t, first) for n, t, first in timed if t and t.low > 0], i))
        return lines

    def ratio(n: int, t: Timing, first: Timing | None) -> Point:
        base = first.median if first else inf
        return Point(n, base / t.median, base / t.high, base / t.low)

    charts = [
        line_chart(
            f"{network}: seconds a step",
            series(lambda n, t, _: Point(n, t.median, t.low, t.high)),
            y_label="time a step",
            y_text=lambda v: units.seconds(v, 1),
            marks=marks,
        ),
        line_chart(
            f"{network}: samples a second",
            series(lambda n, t, _: Point(n, n / t.median, n / t.high, n / t.low)),
            y_label="samples a second",
            y_text=lambda v: units.quantity(v, digits=1),
        ),
    ]
    if len(result.labels) > 1 and all(c.timing(result.labels[0]) for c in cases):
        charts.append(
            line_chart(
                f"{network}: times as fast as {result.labels[0]}",
                series(ratio),
                y_label=f"times as fast as {result.labels[0]}",
                y_text=lambda v: f"{v:.3g}",
            )
        )
    return charts


# -- tables -------------------------------------------------------------------------------------------------------


def by_batch(shown: columns.Table) -> str:
    """A <table> with a row of its own above the lines of each batch size."""
    groups = [
        f'<tr class="batch"><th scope="rowgroup" colspan="{len(shown.columns)}">batch {batch:,}</th></tr>\n'
        + "".join(_line(line, "fastest" if line[0].endswith("*") else "") for line in lines)
        for batch, lines in shown.groups
    ]
    return _table(shown.title, shown.columns, [f"<tbody>\n{group}</tbody>\n" for group in groups])


def table(title: str, names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A <table> with the first column as the rows' names."""
    return _table(title, names, ["<tbody>\n", *(_line(line) for line in lines), "</tbody>\n"])


def _table(title: str, names: Sequence[str], body: Iterable[str]) -> str:
    caption = f"<caption>{escape(title)}</caption>\n" if title else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return f"<div class=wide><table>\n{caption}<thead><tr>{head}</tr></thead>\n{''.join(body)}</table></div>\n"


def _line(texts: Sequence[str], kind: str = "") -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts[1:])
    name = escape(texts[0]).replace(":", ":<wbr>")
    return f'<tr class="{kind}"><th scope="row">{name}</th>{cells}</tr>\n'


def _failed(result: Result) -> str:
    lines = "".join(f"<li><b>{escape(who)}</b>: {escape(why)}</li>" for who, why in columns.failures(result))
    return f"<section><h2>Without figures</h2><ul>{lines}</ul></section>" if lines else ""


def _reading() -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(note)}.</dd>" for name, note in columns.NOTES.items())
    return f'<section><h2>How to read it</h2><dl class="notes">{lines}</dl></section>'


def _facts(result: Result) -> str:
    machine = dict(result.machine)
    described = machine.pop("devices", {})
    machine["memory"] = units.size(machine.get("memory"))
    return (
        f"<section><h2>What the devices can do at best</h2>{table('', *columns.ceilings(result))}</section>"
        f"<section><h2>Machine</h2>{_definitions({**described, **machine})}</section>"
        f"<section><h2>Settings</h2>{_definitions(result.settings)}</section>"
    )


def _definitions(facts: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    lines = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(shown(v))}</dd>" for k, v in facts.items())
    return f'<dl class="facts">{lines}</dl>'
