"""Where evaluations leave their results: files that are whole at any time, the loggers, and the screen."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from mdm_lightning.evaluation.base import Row, Settings
from mdm_lightning.files import replacing, to_json, write_atomically
from mdm_lightning.tables import markdown_table
from mdm_lightning.training.dashboards import TensorBoard, verbatim

LONGEST_SERIES = 20  # rows of one metric that are worth printing


class Results:
    """The rows, figures and texts of an evaluation run. Every row is on disk as soon as it is there.

    Args:
        folder: for ``results.csv``, ``results.json``, figures and pages.
        loggers: TensorBoard and others.
        step: optimizer step of the checkpoint, for the loggers.
    """

    def __init__(self, folder: Path, loggers: Sequence[Logger], step: int) -> None:
        self.folder = folder
        self.loggers = loggers
        self.step = step
        self.rows: dict[str, list[Row]] = {}
        self.texts: dict[str, str] = {}

    def add(self, evaluation: str, row: Row) -> None:
        rows = self.rows.setdefault(evaluation, [])
        if row.tag not in (known.tag for known in rows) and math.isfinite(row.value):
            for logger in self.loggers:
                logger.log_metrics({f"{evaluation}/{row.tag}": row.value}, self.step)
        rows.append(row)
        write_atomically(self.folder / "results.csv", self._csv())
        write_atomically(self.folder / "results.json", self._json())

    def figure(self, name: str, figure: Figure) -> None:
        with replacing(self.folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150)
        for board in self._boards():
            board.log_figure(name, figure, self.step)

    def text(self, name: str, text: str, *, markdown: bool = False) -> None:
        self.texts[name] = text
        for board in self._boards():
            board.log_text(name, text if markdown else verbatim(text), self.step)

    def file(self, name: str, content: str) -> str:
        write_atomically(self.folder / name, content)
        return str(self.folder / name)

    def close(self) -> None:
        """Shows the tables, and lets the loggers write what they still hold."""
        for board in self._boards():
            board.log_layout()
            for name, rows in self.rows.items():
                board.log_text(f"results/{name}", table(name, rows), self.step)
        for logger in self.loggers:
            logger.finalize("success")

    def report(self) -> str:
        """Texts and tables, to print."""
        texts = [
            f"{name}:\n" + "\n".join("  | " + line for line in text.splitlines()) for name, text in self.texts.items()
        ]
        return "\n\n".join([*texts, *(table(name, rows) for name, rows in self.rows.items())])

    def _boards(self) -> list[TensorBoard]:
        return [logger for logger in self.loggers if isinstance(logger, TensorBoard)]

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["evaluation", "metric", "value", "stderr", "n", "better", "settings"])
        for evaluation, rows in self.rows.items():
            for row in rows:
                writer.writerow([evaluation, *row[:4], row.better or "", _words(row.settings)])
        return text.getvalue()

    def _json(self) -> str:
        return to_json(
            [{"evaluation": name, **row.plain()._asdict()} for name, rows in self.rows.items() for row in rows]
        )


def table(evaluation: str, rows: Sequence[Row]) -> str:
    """The rows of one evaluation as a Markdown table, the settings on which they agree above it.

    Of the others, as many become columns as it takes to tell the rows apart.
    """
    values: dict[str, set[str | int | float]] = {}
    for row in rows:
        for name, value in row.settings.items():
            values.setdefault(name, set()).add(value)
    agreed = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
    heading = f"**{evaluation}**" + (f" ({_words(agreed)})" if agreed else "")
    if max(Counter(row.metric for row in rows).values()) > LONGEST_SERIES:
        return f"{heading}: {len(rows)} rows, in results.csv"
    apart: list[str] = []
    for name in (name for name in values if name not in agreed):
        if len({(row.metric, *_choose(row, apart)) for row in rows}) < len(rows):
            apart.append(name)
    errors = [_error(row) for row in rows]
    column = ["std. error"] if any(errors) else []
    header = ["metric", *apart, "value", *column, "n"]
    cells = [
        [row.metric, *_choose(row, apart), f"{row.value:.5g}", *([error] if column else []), str(row.n)]
        for row, error in zip(rows, errors, strict=True)
    ]
    return f"{heading}\n\n{markdown_table(header, cells, left=1 + len(apart))}"


def _error(row: Row) -> str:
    if row.exact:
        return "exact"
    return "" if row.stderr is None else f"{row.stderr:.2g}"


def _choose(row: Row, names: Sequence[str]) -> list[str]:
    return [str(row.settings.get(name, "")) for name in names]


def _words(settings: Settings) -> str:
    return "; ".join(f"{name}: {value}" for name, value in settings.items())
