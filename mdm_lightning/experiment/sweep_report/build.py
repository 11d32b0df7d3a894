"""Building the report of a sweep folder: tables, figures, and one page with all of it.

Built again from the same cells, every file is the same to the last byte.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mdm_lightning.data.atomic import replacing, write_atomically
from mdm_lightning.experiment.sweep_report.columns import Column, columns, preferred, sections, stages
from mdm_lightning.experiment.sweep_report.figures import section_figures
from mdm_lightning.experiment.sweep_report.markup import escape_latex, escape_markdown, latex, markdown
from mdm_lightning.experiment.sweep_report.notation import conditions, words
from mdm_lightning.experiment.sweep_report.page import Section, page
from mdm_lightning.experiment.sweep_report.prediction import prediction
from mdm_lightning.experiment.sweep_report.records import Sweep
from mdm_lightning.experiment.sweep_report.tables import (
    Table,
    agreement_table,
    comparison_table,
    difference_table,
    overview_table,
    prediction_table,
    results_csv,
    score_table,
)
from mdm_lightning.experiment.sweep_report.verdict import verdict

REPORT = "report.html"
FIGURES = "figures"
DPI = 130


def build_report(folder: Path) -> Path:
    """Writes ``results.csv``, ``table.md``, ``table.tex``, ``figures/*.png`` and ``report.html`` into a sweep folder.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder holds no sweep, a file in it is corrupt, or the named metric does not judge the cells.
    """
    sweep = Sweep.load(folder)
    objective = sweep.objective()
    parts = [] if objective is None else list(sections(columns(sweep, objective)).values())
    described = [_section(part) for part in parts]
    overview = overview_table(parts)
    (folder / FIGURES).mkdir(exist_ok=True)
    for section in described:
        for name, png in section.pictures.items():
            with replacing(folder / FIGURES / f"{_file_name(name, section.title)}.png") as file:
                file.write(png)
    write_atomically(folder / "results.csv", results_csv(sweep))
    write_atomically(folder / "table.md", _markdown(described, overview))
    write_atomically(folder / "table.tex", _latex(parts, overview))
    title = "Schedule sweep" if objective is None else f"Schedule sweep: {words(objective.metric)}"
    write_atomically(folder / REPORT, page(sweep, title, described, overview))
    return folder / REPORT


def _section(part: Sequence[Column]) -> Section:
    latest_first = stages(part)[::-1]
    # The grid has the most schedules to rank.
    predictions = [found for column in latest_first[-1] if (found := prediction(column)) is not None]
    compared = [table for stage in latest_first if (table := difference_table(stage)) is not None]
    return Section(
        title=conditions(part[0].others),
        verdicts=[verdict(column) for column in preferred(part)],
        scores=[score_table(stage) for stage in latest_first],
        details=[*compared, *(comparison_table(column) for stage in latest_first for column in stage)],
        prediction=[prediction_table(predictions), agreement_table(predictions)] if predictions else [],
        covered=all(found.covered for found in predictions),
        pictures=_pictures(section_figures(part)),
    )


def _pictures(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    pictures = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        pictures[name] = buffer.getvalue()
    return pictures


def _markdown(described: Sequence[Section], overview: Table | None) -> str:
    """The verdicts and the score tables, later stages first."""
    blocks = [] if overview is None else [markdown(overview)]
    for section in described:
        if section.title:
            blocks.append(f"## {escape_markdown(section.title)}\n")
        blocks.append("".join(f"- {escape_markdown(str(verdict))}\n" for verdict in section.verdicts))
        blocks += [markdown(table) for table in (*section.scores, *section.prediction)]
    return "\n".join(blocks)


def _latex(parts: Sequence[Sequence[Column]], overview: Table | None) -> str:
    """The score tables, later stages first."""
    blocks = [] if overview is None else [latex(overview)]
    for part in parts:
        for columns_of_stage in reversed(stages(part)):
            blocks.append(f"% {escape_latex(conditions(part[0].others))}\n" if part[0].others else "")
            blocks.append(latex(score_table(columns_of_stage)))
    return "\n".join(blocks)


def _file_name(name: str, title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", f"{name} {title}".lower()).strip("_.")
