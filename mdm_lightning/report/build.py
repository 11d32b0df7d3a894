"""Building the report of a sweep folder: tables, figures, and one page with all of it.

Built again from the same cells, every file is the same to the last byte.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mdm_lightning.files import replacing, write_atomically
from mdm_lightning.report.across import across_table
from mdm_lightning.report.columns import Column, columns, preferred, sections, stages
from mdm_lightning.report.figures import section_figures
from mdm_lightning.report.markup import escape_latex, latex, markdown
from mdm_lightning.report.notation import conditions, words
from mdm_lightning.report.page import Section, page
from mdm_lightning.report.prediction import predictions
from mdm_lightning.report.prediction_tables import agreement_table, prediction_table
from mdm_lightning.report.race_tables import race_table
from mdm_lightning.report.records import Sweep
from mdm_lightning.report.tables import (
    Table,
    comparison_table,
    cost_table,
    difference_table,
    overview_table,
    results_csv,
    score_table,
)
from mdm_lightning.report.verdict import verdict
from mdm_lightning.tables import escape_markdown

REPORT = "report.html"
FIGURES = "figures"
DPI = 130


Show = Callable[[str, Figure], object]


def _nowhere(name: str, figure: Figure) -> None:
    """Shows a figure to nobody."""


def build_report(folder: Path, show: Show = _nowhere) -> Path:
    """Writes ``results.csv``, ``table.md``, ``table.tex``, ``figures/*.png`` and ``report.html`` into a sweep folder.

    Args:
        folder: of a sweep.
        show: receives every figure, with its name.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder holds no sweep, a file in it is corrupt, or the named metric does not judge the cells.
    """
    sweep = Sweep.load(folder)
    objectives = sweep.objectives()
    judged = [list(sections(columns(sweep, objective)).values()) for objective in objectives]
    parts = [part for of_one in judged for part in of_one]
    described = [_section(part, show) for part in parts]
    summaries = [table(of_one) for of_one in judged for table in (overview_table, across_table)]
    overviews = [table for table in summaries if table is not None]
    (folder / FIGURES).mkdir(exist_ok=True)
    for section in described:
        for name, png in section.pictures.items():
            with replacing(folder / FIGURES / f"{_file_name(name, section.title)}.png") as file:
                file.write(png)
    write_atomically(folder / "results.csv", results_csv(sweep))
    write_atomically(folder / "table.md", _markdown(described, overviews))
    write_atomically(folder / "table.tex", _latex(parts, overviews))
    names = ", ".join(words(objective.name) for objective in objectives)
    write_atomically(folder / REPORT, page(sweep, f"Schedule sweep: {names}".removesuffix(": "), described, overviews))
    return folder / REPORT


def _section(part: Sequence[Column], show: Show) -> Section:
    latest_first = stages(part)[::-1]
    # The grid has the most schedules to rank.
    predicted = [found for column in latest_first[-1] if (found := predictions(column))]
    beside = [found for found in (own[0] for own in predicted) if found.predictor == predicted[0][0].predictor]
    every = [prediction for found in predicted for prediction in found]
    compared = [table for stage in latest_first if (table := difference_table(stage)) is not None]
    title, figures = conditions(part[0].others), section_figures(part)
    pictures = _pictures(figures)  # first: whoever is shown a figure may change it
    for name, figure in figures.items():
        show(f"{name} ({title})" if title else name, figure)
    return Section(
        title=title,
        verdicts=[verdict(column) for column in preferred(part)],
        scores=[score_table(stage) for stage in latest_first],
        races=[table for stage in latest_first if (table := race_table(stage)) is not None],
        costs=[table for stage in latest_first if (table := cost_table(stage)) is not None],
        details=[*compared, *(comparison_table(column) for stage in latest_first for column in stage)],
        prediction=[prediction_table(beside), agreement_table(every)] if every else [],
        notes=list(dict.fromkeys(found.note for found in every if found.note)),
        pictures=pictures,
    )


def _pictures(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    pictures = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        pictures[name] = buffer.getvalue()
    return pictures


def _markdown(described: Sequence[Section], overviews: Sequence[Table]) -> str:
    """The verdicts and the score tables, later stages first."""
    blocks = [markdown(overview) for overview in overviews]
    for section in described:
        if section.title:
            blocks.append(f"## {escape_markdown(section.title)}\n")
        blocks.append("".join(f"- {escape_markdown(str(verdict))}\n" for verdict in section.verdicts))
        blocks += [markdown(table) for table in (*section.scores, *section.races, *section.costs, *section.prediction)]
    return "\n".join(blocks)


def _latex(parts: Sequence[Sequence[Column]], overviews: Sequence[Table]) -> str:
    """The score tables, later stages first."""
    blocks = [latex(overview) for overview in overviews]
    for part in parts:
        for columns_of_stage in reversed(stages(part)):
            blocks.append(f"% {escape_latex(conditions(part[0].others))}\n" if part[0].others else "")
            blocks.append(latex(score_table(columns_of_stage)))
    return "\n".join(blocks)


def _file_name(name: str, title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", f"{name} {title}".lower()).strip("_.")
