"""Rows of the report: written by the process of a part, one JSON object a line, and read by the one that collects."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import SupportsFloat


@dataclass(frozen=True)
class Row:
    """What was measured: figures by their names, which say the unit."""

    part: str
    what: str
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Where a part writes its rows."""

    part: str
    path: Path

    def row(self, what: str, *notes: str, **figures: SupportsFloat) -> None:
        """Adds a row. Names of figures are written with ``_`` for spaces, and ``_per_`` for a slash."""
        named = {name.replace("_per_", "/").replace("_", " "): float(value) for name, value in figures.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Row(self.part, what, named, "; ".join(notes)))) + "\n")
        print(f"{self.part}: {what}: {'; '.join([_figures(named), *notes])}", flush=True)


def read_rows(path: Path) -> list[Row]:
    """The rows written so far; a line that is still being written is not read."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [Row(**json.loads(line)) for line in whole.splitlines()]


def write_json(path: Path, settings: Mapping[str, object], rows: list[Row]) -> None:
    """Replaces the file at once, so that whoever reads it finds it whole."""
    partial = path.with_name(f".{path.name}.partial")
    content = {"settings": dict(settings), "rows": [asdict(row) for row in rows]}
    partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    os.replace(partial, path)


def table(settings: Mapping[str, object], rows: list[Row]) -> str:
    """Markdown for benchmarks/README.md."""
    head = [", ".join(f"{name} {value}" for name, value in settings.items()), ""]
    head += ["| part | what | figures |", "| --- | --- | --- |"]
    return "\n".join([*head, *(f"| {row.part} | {row.what} | {_cell(row)} |" for row in rows)])


def _cell(row: Row) -> str:
    return "; ".join(text for text in (_figures(row.figures), row.note.replace("|", "\\|")) if text)


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_number(name, value)}" for name, value in figures.items())


def _number(name: str, value: float) -> str:
    if name.startswith(("share", "FLOPs utilisation")) and math.isfinite(value):
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
