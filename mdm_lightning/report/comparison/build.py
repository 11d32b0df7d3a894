"""A comparison as text, as a page, and as files."""

import io
from collections.abc import Callable
from pathlib import Path

from mdm_lightning.files import replacing, write_atomically
from mdm_lightning.report.comparison.comparison import Comparison
from mdm_lightning.report.comparison.tables import curves_figure, tables, verdicts
from mdm_lightning.report.html import render
from mdm_lightning.report.markup import markdown
from mdm_lightning.tables import escape_markdown, plain_line

MARKDOWN = "comparison.md"
PAGE = "comparison.html"
FIGURE = "curves.png"
DPI = 130


def comparison_text(comparison: Comparison, escape: Callable[[str], str] = plain_line) -> str:
    """The verdicts and all tables, for a terminal or, escaped, as Markdown."""
    sentences = "".join(f"- {escape(sentence)}\n" for sentence in verdicts(comparison))
    return "\n".join([sentences, *(markdown(table, escape) for table in tables(comparison))])


def comparison_page(comparison: Comparison) -> str:
    """One HTML page that needs nothing else."""
    png = _curves(comparison)
    return render(
        "comparison.html",
        title=f"Comparison of {' and '.join(model.name for model in comparison.models)}",
        verdicts=verdicts(comparison),
        tables=tables(comparison),
        pictures={} if png is None else {"curves of training": png},
        measured={str(name): value for name, value in comparison.models[0].rows[0].settings.items()},
    )


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes ``comparison.md``, ``comparison.html`` and, if the runs have logs, ``curves.png`` into a folder.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MARKDOWN, comparison_text(comparison, escape_markdown))
    write_atomically(folder / PAGE, comparison_page(comparison))
    png = _curves(comparison)
    if png is not None:
        with replacing(folder / FIGURE) as file:
            file.write(png)
    return folder / PAGE


def _curves(comparison: Comparison) -> bytes | None:
    figure = curves_figure(comparison)
    if figure is None:
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
