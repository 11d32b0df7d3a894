"""How numbers are written in a report."""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from mdm_lightning.report.columns import Column, Difference, Entry


def decimals(table: Iterable[Column]) -> int:
    """Decimals that show two digits of a typical standard error; four of a typical score where there is no error."""
    entries = [entry for column in table for entry in column.entries]
    errors = [entry.stderr for entry in entries if entry.stderr]
    sizes = errors or [abs(entry.value) for entry in entries if entry.value]
    if not sizes:
        return 1
    return min(6, max(0, (1 if errors else 3) - math.floor(math.log10(median(sizes)))))


def score(entry: Entry, digits: int) -> str:
    """``0.623 ± 0.034``; an exact score alone."""
    error = f" ± {entry.stderr:.{digits}f}" if entry.errs else ""
    return number(entry.value, digits) + error


def number(value: float, digits: int) -> str:
    """With a minus sign rather than a hyphen, and no negative zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    plus = "+" if round(value, digits) > 0 else ""
    return plus + number(value, digits)


def interval(difference: Difference, digits: int) -> str:
    """``+0.069 (0.031 to 0.107)``; an exact difference alone."""
    if difference.exact:
        return signed(difference.value, digits)
    return f"{signed(difference.value, digits)} ({ends(difference, digits)})"


def ends(difference: Difference, digits: int) -> str:
    """``0.031 to 0.107``."""
    return f"{number(difference.low, digits)} to {number(difference.high, digits)}"


def p_value(p: float) -> str:
    """``p = 0.0039``."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def conditions(others: Iterable[tuple[str, str]]) -> str:
    """The other axes of a section: ``sampler = llada, order = random``; empty without any."""
    return ", ".join(f"{axis} = {value}" for axis, value in others)


def errors_in_words(columns: Sequence[Column]) -> tuple[str, str]:
    """How scores are written, and which of them are bold: neither speaks of errors where there are none."""
    entries = [entry for column in columns for entry in column.entries]
    if not any(entry.errs for entry in entries):
        return "", "the column's best"
    errors = " ± standard error"
    if any(entry.stderr is None for entry in entries):
        errors += " where it is known"
    if any(entry.exact for entry in entries):
        errors += ", exact scores alone"
    return errors, "within one standard error of the column's best"


def words(metric: str) -> str:
    return metric.replace("_", " ")


def stage(columns: Sequence[Column]) -> str:
    """``grid (n = 200)``; ``grid (exact)``."""
    if all(column.exact for column in columns):
        return f"{columns[0].stage} (exact)"
    sizes = sorted({entry.row.n for column in columns for entry in column.entries})
    span = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    fresh = ", fresh instances" if columns[0].stage == "refined" else ""
    return f"{columns[0].stage} (n = {span}{fresh})"
