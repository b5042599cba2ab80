"""The HTML of a report: sections from plain values, with everything inside the page."""
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lib.report.examples import Example

STYLE = """
:root { --ink: #1e293b; --soft: #64748b; --line: #e2e8f0; --paper: #ffffff; --back: #f1f5f9; --bar: #bfdbfe; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans",
  sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.9rem; margin: 8px 0 4px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 12px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 12px; } .soft { color: var(--soft); font-size: .9rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 20px; margin-top:
  16px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0 0; }
.facts div { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px; }
.facts b { display: block; font-size: 1.35rem; line-height: 1.3; overflow-wrap: anywhere; }
.facts b.long { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%;
  font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper); } tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat left center / var(--part) 70%; }
td.bar { min-width: 76px; width: 13%; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 20px; }
.plots figure, .row figure { margin: 0; } .plots img { width: 100%; height: auto; display: block; }
.row { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 8px; }
.row img { width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .8rem; text-align: center; padding-top: 2px; }
.example { padding: 14px 0; border-top: 1px solid var(--line); } .example:first-of-type { border-top: 0; }
.example header { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; margin-bottom: 8px; }
.tag { background: var(--back); border-radius: 999px; padding: 1px 10px; font-size: .85rem; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 8px; font-size: .9rem; }
.legend i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px; vertical-align:
  -2px; }
details { border-top: 1px solid var(--line); padding: 8px 0; } summary { cursor: pointer; font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--back); border-radius: 8px; padding: 10px;
  font-size: .8rem; }
@media (max-width: 640px) { main { padding: 12px 8px 40px; } section { padding: 14px 12px; }
  .row { grid-template-columns: repeat(3, 1fr); } .facts { grid-template-columns: 1fr 1fr; gap: 8px; }
  .facts b { font-size: 1.1rem; } .facts b.long { font-size: .9rem; } th, td { padding: 5px 4px; }
  table { font-size: .8rem; } .head th { white-space: normal; } }
"""


def page(title: str, sub_title: str, facts: Mapping[str, str], sections: Iterable[str]) -> str:
    """The whole page: a heading, figures in boxes, and sections."""
    boxes = ''.join(f'<div><span class="soft">{escape(name)}</span>{_fact(value)}</div>'
                    for name, value in facts.items())
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            '<meta name="generator" content="lib.report">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n<body>'
            f'<main><h1>{escape(title)}</h1><p class="soft">{escape(sub_title)}</p><div class="facts">{boxes}</div>\n'
            + '\n'.join(sections) + '</main></body></html>\n')


def _fact(value: str) -> str:
    """A figure for a box; a long name is smaller, and breaks where its parts end."""
    text = re.sub('([:_])', r'\1<wbr>', escape(value))
    return f'<b class="long">{text}</b>' if len(value) > 10 else f'<b>{text}</b>'


def section(title: str, *parts: str, note: str = '') -> str:
    """A section of HTML parts, with a plain text below its heading."""
    text = f'<p class="soft">{escape(note)}</p>' if note else ''
    return f'<section><h2>{escape(title)}</h2>{text}{"".join(parts)}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence[str | float | None]], bars: bool = False) -> str:
    """A table; numbers get one decimal and, if asked for, a bar as percent; None is a dash."""
    def cell(value: str | float | None) -> str:
        if isinstance(value, str):
            return f'<td>{escape(value)}</td>'
        if value is None:
            return '<td>&ndash;</td>'
        bar = f' class="bar" style="--part:{value:.1f}%"' if bars else ''
        return f'<td{bar}>{value:.1f}</td>'

    heads = ''.join(f'<th>{escape(name)}</th>' for name in head)
    body = ''.join(f'<tr>{"".join(map(cell, row))}</tr>' for row in rows)
    return f'<div class="wide"><table><tr class="head">{heads}</tr>{body}</table></div>'


def plots(pictures: Mapping[str, str]) -> str:
    """Plots (data URIs) by title."""
    return '<div class="plots">' + ''.join(
        f'<figure><h3>{escape(title)}</h3><img src="{uri}" alt="{escape(title)}"></figure>'
        for title, uri in pictures.items()) + '</div>'


def example_rows(shown: Sequence[Example], colours: Mapping[str, str]) -> str:
    """A legend, and for each image its pictures in a row; on a phone in rows of three."""
    legend = ''.join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
                     for name, colour in colours.items())
    columns = max(len(example.pictures) for example in shown)
    text = [f'<div class="legend">{legend}</div>']
    for example in shown:
        why = f'<span class="tag">{escape(example.why)}</span>' if example.why else ''
        figures = ''.join(f'<figure><img src="{uri}" alt="{escape(title)}"><figcaption>{escape(title)}</figcaption>'
                          '</figure>' for title, uri in example.pictures.items())
        text.append(f'<div class="example"><header>{why}<b>{escape(example.name)}</b><span class="soft">'
                    f'{escape(", ".join(example.classes) or "no class")}</span></header>'
                    f'<div class="row" style="--columns:{columns}">{figures}</div></div>')
    return ''.join(text)


def folded(title: str, text: str) -> str:
    """Text that opens with a click."""
    return f'<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'
