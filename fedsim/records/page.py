"""The HTML of a report: one page, its style inside, readable on a telephone, on a screen and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from fedsim.records.charts import Chart

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #595959; --line: #d0d0d0; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: #fff;
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
.scroll { overflow-x: auto; margin: .75rem 0; } .scroll:focus { outline: 2px solid #0b5394; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
         vertical-align: top; }
th { border-bottom-color: var(--soft); } .name { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; max-width: 34rem; break-inside: avoid; } figcaption { font-weight: 600; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
p, li { overflow-wrap: anywhere; } summary { cursor: pointer; padding: .25rem 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .75rem; background: #f5f5f5; font-size: .8125rem; } code { font-size: .8125rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding-right: .5rem; }
  th, .name { white-space: normal; overflow-wrap: anywhere; } code { font-size: inherit; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 7pt; line-height: 1.25; columns: 3; }
  h2, figcaption, summary { break-after: avoid; } tr { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; } details::details-content { content-visibility: visible; } }
"""


def page(title: str, body: str) -> str:
    """A whole document; ``body`` is made of ``section``."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """Empty without content."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>\n" if content else ""


def figures(drawn: Iterable[Chart]) -> str:
    """Charts side by side, as many as fit. Empty without charts."""
    parts = [f"<figure>\n<figcaption>{escape(one.title)}</figcaption>\n{one.svg()}</figure>\n" for one in drawn]
    return f'<div class="figures">\n{"".join(parts)}</div>\n' if parts else ""


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], names: int, code: int | None = None) -> str:
    """The first ``names`` columns are text; column ``code`` is something to type. Scrolls where it is too wide."""
    left = {*range(names), code}

    def line(cells: Sequence[str], tag: str) -> str:
        done = []
        for number, cell in enumerate(cells):
            kind = ' class="name"' if number in left else ""
            scope = ' scope="col"' if tag == "th" else ""
            text = f"<code>{escape(cell)}</code>" if number == code and tag == "td" else escape(cell)
            done.append(f"<{tag}{scope}{kind}>{text}</{tag}>")
        return f"<tr>{''.join(done)}</tr>\n"

    body = "".join(line(row, "td") for row in rows)
    head = f"<thead>\n{line(header, 'th')}</thead>\n"
    return f'<div class="scroll" tabindex="0">\n<table>\n{head}<tbody>\n{body}</tbody>\n</table>\n</div>\n'


def definitions(entries: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in entries.items())}</dl>\n"


def details(title: str, content: str) -> str:
    """Content that is opened by a click."""
    return f"<details><summary>{escape(title)}</summary>\n{content}</details>\n"
