"""A result as one HTML page that holds everything it needs: readable on a phone, on a screen and on paper."""

from __future__ import annotations

from html import escape
from typing import Any

from gpubackprop.bench import text
from gpubackprop.bench.charts import charts, svg
from gpubackprop.bench.result import NOTES, Result

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's content security policy: it may load nothing but its own style."""


def to_html(result: Result) -> str:
    """The page. Every text that comes from the result is escaped. Raises MissingExtraError without matplotlib."""
    title = f"Training steps: {', '.join(result.networks) or 'nothing measured'}"
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    said = "".join(f'<p class="advice">{escape(line)}</p>' for line in result.advice())
    said += "".join(f'<p class="warning">{escape(line)}</p>' for line in result.warnings())
    failed = "".join(f"<li><b>{escape(who)}</b>: {escape(why)}</li>" for who, why in result.failures())
    reading = _definitions({name: f"{note}." for name, note in NOTES.items()}, "notes")
    sections = [f"<header><h1>{escape(title)}</h1>{said}</header>"]
    sections += [_network(result, network) for network in result.networks]
    sections += [f"<section><h2>Without figures</h2><ul>{failed}</ul></section>"] if failed else []
    sections += [f"<section><h2>How to read it</h2>{reading}</section>", _facts(result)]
    return head + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"


def _network(result: Result, network: str) -> str:
    figures = "".join(f"<figure>{svg(chart)}</figure>" for chart in charts(result, network))
    tables = "".join(_table(shown) for shown in result.tables(network))
    return f"<section>\n<h2>{escape(network)}</h2>\n<div class=charts>{figures}</div>\n{tables}</section>"


def _table(shown: text.FigureTable, caption: bool = True) -> str:
    """A <table> with the first column as the lines' names, and a line of its own above those of each batch size."""
    title = f"<caption>{escape(shown.title)}</caption>\n" if caption else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in shown.columns)
    body = ""
    for batch, lines in shown.groups:
        body += "<tbody>\n"
        if batch is not None:
            span = f'scope="rowgroup" colspan="{len(shown.columns)}"'
            body += f'<tr class="batch"><th {span}>batch {batch:,}</th></tr>\n'
        body += "".join(_line(line) for line in lines) + "</tbody>\n"
    return f"<div class=wide><table>\n{title}<thead><tr>{head}</tr></thead>\n{body}</table></div>\n"


def _line(line: text.Line) -> str:
    cells = "".join(f"<td>{escape(said)}</td>" for said in line.texts[1:])
    name = escape(line.texts[0]).replace(":", ":<wbr>")
    kind = ' class="fastest"' if line.marked else ""
    return f'<tr{kind}><th scope="row">{name}</th>{cells}</tr>\n'


def _facts(result: Result) -> str:
    machine = dict(result.machine)
    described = machine.pop("devices", {})
    machine["memory"] = text.size(machine.get("memory"))
    return (
        f"<section><h2>What the devices can do at best</h2>{_table(result.ceilings(), caption=False)}</section>"
        f"<section><h2>Machine</h2>{_definitions({**described, **machine})}</section>"
        f"<section><h2>Settings</h2>{_definitions(result.settings)}</section>"
    )


def _definitions(facts: dict[str, Any], kind: str = "facts") -> str:
    def shown(value: object) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    lines = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(shown(v))}</dd>" for k, v in facts.items())
    return f'<dl class="{kind}">{lines}</dl>'


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --rule: #d4d4d4; --ground: #ffffff; --tint: #eef4f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a8a8a8; --rule: #444444; --ground: #161616; --tint: #1d2a33 }
  .chart { filter: invert(1) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.45 system-ui, sans-serif }
main { max-width: 68rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere }
.advice { font-size: 1.1rem; border-left: .25rem solid #0072b2; padding: .4rem .8rem; margin: .5rem 0; background: var(--tint) }
.warning { border-left: .25rem solid #d55e00; padding: .4rem .8rem; margin: .5rem 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20.5rem), 1fr)); gap: 1rem }
figure { margin: 0 }
.chart { width: 100%; height: auto; display: block }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .95rem }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
caption::first-letter { text-transform: uppercase }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--rule); font-weight: 400; white-space: nowrap }
thead th { color: var(--soft); white-space: normal; vertical-align: bottom }
th:first-child { text-align: left }
tr.batch th { color: var(--soft); padding-top: .7rem }
tr.fastest > * { font-weight: 600; background: var(--tint) }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dl.notes dt, dl.facts dt { color: var(--soft) }
dl.facts dd { margin: 0; overflow-wrap: anywhere }
dl.notes dd { margin: 0 0 .6rem }
ul { padding-left: 1.2rem }
@media screen and (max-width: 40rem) {
  table { font-size: .82rem }
  th, td { padding: .3rem .2rem }
  th[scope=row] { white-space: normal; overflow-wrap: break-word }
  dl.facts { display: block }
  dl.facts dd { margin: 0 0 .5rem }
}
@media print {
  :root { --ink: #000000; --soft: #333333; --rule: #999999; --ground: #ffffff; --tint: #ffffff; color-scheme: light }
  body { font-size: 10pt }
  main { max-width: none; padding: 0 }
  .charts { grid-template-columns: 1fr 1fr }
  figure, tr, .advice, tbody { break-inside: avoid }
  .wide { overflow: visible }
  h2, caption { break-after: avoid }
  thead { display: table-header-group }
}
"""
