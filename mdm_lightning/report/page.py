"""The report as one HTML page that needs nothing else: pictures and styles are inside it."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mdm_lightning.report.markup import html_table
from mdm_lightning.report.prediction import UNCOVERED
from mdm_lightning.report.records import Sweep
from mdm_lightning.report.tables import Table
from mdm_lightning.report.verdict import Verdict

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 70rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 0.6rem; }
h1 { margin-top: 0; }
.verdict { border-left: 4px solid #b8b8b8; padding: 0.1rem 0 0.1rem 1rem; margin: 0.9rem 0; }
.sure { border-color: #009e73; }
.verdict p { margin: 0.2rem 0; }
.note { color: #555; font-size: 0.9rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #555; padding-bottom: 0.4rem; }
th, td { padding: 0.15rem 0.7rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: normal; }
thead th { border-bottom: 1px solid #1c1c1c; border-top: 2px solid #1c1c1c; font-weight: normal; }
tbody tr:last-child > * { border-bottom: 2px solid #1c1c1c; }
tbody tr:hover { background: #f3f3f3; }
th.text, td.text, dd { white-space: normal; text-align: left; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.2rem; font-size: 0.9rem; }
dt { color: #555; }
dd { margin: 0; font-family: ui-monospace, monospace; }
"""
EXACT = (
    "The numbers are computed, not estimated: they have no error, and which schedule is better is certain. Differences "
    "of less than 1e-9 of a number are rounding, and count as none."
)
METHOD = (
    "Differences are taken instance by instance: all schedules complete the same instances with the same noise. "
    "Intervals are BCa bootstrap intervals of the mean difference, from 10,000 resamples of the instances; p-values "
    "are those of the paired permutation (sign-flip) test, with 10,000 sign patterns or more. They are corrected by "
    "Holm's method for the schedules compared within a step budget, so that a verdict names a falsely better schedule "
    "with probability at most 5 %; the intervals are not corrected. Cells without scores per instance are compared by "
    "their standard errors, unpaired."
)


@dataclass(frozen=True)
class Section:
    """What the page says about the cells whose other axes agree.

    Attributes:
        title: the other axes, or empty.
        verdicts: one per step budget.
        scores: a table per stage, the decisive stage first.
        costs: forward passes, where they are not what the step budgets say.
        details: other tables, folded away.
        prediction: the tables of the predicted gaps, or none.
        covered: the theorem behind the predictions covers the sampler.
        pictures: figures by name, as PNG.
    """

    title: str
    verdicts: Sequence[Verdict]
    scores: Sequence[Table]
    costs: Sequence[Table]
    details: Sequence[Table]
    prediction: Sequence[Table]
    covered: bool
    pictures: Mapping[str, bytes]


def page(sweep: Sweep, title: str, sections: Sequence[Section], overviews: Sequence[Table]) -> str:
    """The page.

    Args:
        sweep: for what failed, and for how it was run.
        title: heading of the page.
        sections: one per combination of the other axes.
        overviews: a table of all sections that are judged by the same, if there are several.
    """
    body = [f"<h1>{html.escape(title)}</h1>", _progress(sweep)]
    body += map(html_table, overviews)
    body += [_heading(section, "What to use") + _verdicts(section.verdicts) for section in sections]
    for section in sections:
        body.append(_heading(section, "Scores") + html_table(section.scores[0]))
        body += map(html_table, section.costs[:1])
        body += [_picture(name, png) for name, png in section.pictures.items()]
        body += [_folded(table) for table in (*section.scores[1:], *section.costs[1:], *section.details)]
        if section.prediction:
            note = "" if section.covered else f'<p class="note">{html.escape(UNCOVERED)}</p>'
            body.append("<h3>Predicted without sampling</h3>" + note)
            body += [html_table(table) for table in section.prediction]
    body += [
        _failures(sweep),
        "<h2>How it was run</h2>",
        _settings(sweep),
        *(f'<p class="note">{html.escape(text)}</p>' for text in _methods(sections)),
    ]
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>'
    content = "\n".join(filter(None, body))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'


def _methods(sections: Sequence[Section]) -> list[str]:
    exact = {verdict.column.exact for section in sections for verdict in section.verdicts}
    return [EXACT] * (True in exact) + [METHOD] * (exact != {True})


def _progress(sweep: Sweep) -> str:
    failed = f", {len(sweep.failed)} failed" if sweep.failed else ""
    seconds = sum(cell.seconds for cell in sweep.cells)
    return f'<p class="note">{len(sweep.finished)} cells finished{failed}; {seconds:,.0f} s of measuring.</p>'


def _heading(section: Section, text: str) -> str:
    title = f"{text}: {section.title}" if section.title else text
    return f"<h2>{html.escape(title)}</h2>"


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    blocks = []
    for verdict in verdicts:
        kind = "verdict sure" if verdict.sure else "verdict"
        advice = html.escape(f"{verdict.column.budget}: {verdict.advice}.")
        blocks.append(f'<div class="{kind}"><p><b>{advice}</b></p><p>{html.escape(verdict.evidence)}</p></div>')
    return "\n".join(blocks)


def _picture(name: str, png: bytes) -> str:
    image = f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return f"<h3>{html.escape(name.capitalize())}</h3>\n{image}"


def _folded(table: Table) -> str:
    return f"<details><summary>{html.escape(table.title)}</summary>{html_table(table)}</details>"


def _failures(sweep: Sweep) -> str:
    unusable = sweep.unusable()
    if not unusable:
        return ""
    rows = []
    for cell, reason in unusable:
        axes = ", ".join(f"{axis}={value}" for axis, value in cell.axes.items())
        rows.append(
            f"<tr><th>{html.escape(cell.label)}</th><td>{cell.stage}</td><td>{cell.steps or 'one per token'}</td>"
            f'<td class="text">{html.escape(axes)}</td><td class="text">{html.escape(reason)}</td></tr>'
        )
    names = '<th>schedule</th><th>stage</th><th>steps</th><th class="text">overrides</th><th class="text">reason</th>'
    head = f"<tr>{names}</tr>"
    table = f"<table><thead>{head}</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table>"
    return f'<h2>Cells without a result</h2><div class="wide">{table}</div>'


def _settings(sweep: Sweep) -> str:
    entries = []
    for name, value in sweep.settings.items():
        if name == "agreed":  # for the machine: what a resumed sweep must not change
            continue
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        entries.append(f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(text)}</dd>")
    return f"<dl>{''.join(entries)}</dl>"
