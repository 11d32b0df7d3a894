"""The columns of a sweep's table: cells that differ in the schedule only, and how each compares with linear."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    holm,
    normal_interval,
    normal_test,
    sign_flip_test,
    standard_error,
)
from mdm_lightning.report.race import RaceRecord
from mdm_lightning.report.records import NFE, NOT_AT_ALL, Cell, Objective, Stage, Sweep, stands_for_linear

SIGNIFICANT = 0.05
ROUNDING = 1e-9  # relative difference of exact numbers that are equal

Others = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Difference:
    """A score minus another, in the metric's units.

    Attributes:
        value: the difference of the means.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided p-value of no difference.
        corrected: the p-value after Holm's correction for all comparisons of the column.
        paired: instance by instance, rather than from two standard errors.
        stderr: standard error of the value.
        exact: of two numbers that have no error: it is what it is, or nothing.
    """

    value: float
    low: float
    high: float
    p: float
    corrected: float
    paired: bool
    stderr: float
    exact: bool = False

    @property
    def significant(self) -> bool:
        return self.corrected < SIGNIFICANT


@dataclass(frozen=True)
class Entry:
    """A cell in the running: its score, and its difference from the column's reference."""

    cell: Cell
    row: Row
    difference: Difference | None = None

    @property
    def label(self) -> str:
        return self.cell.label

    @property
    def value(self) -> float:
        return self.row.value

    @property
    def exact(self) -> bool:
        return self.row.exact

    @property
    def stderr(self) -> float | None:
        if self.exact:
            return 0.0
        if self.row.stderr is None and self.row.scores is not None:
            return standard_error(self.row.scores)
        return self.row.stderr

    @property
    def errs(self) -> bool:
        """Whether the score has an error, and one that is known."""
        return not self.exact and self.stderr is not None


@dataclass(frozen=True)
class Column:
    """The cells of one stage and step budget whose other axes agree.

    Attributes:
        objective: what they are judged by.
        others: the other axes.
        stage: "grid", "race" or "refined".
        steps: the step budget; None for a step per masked position.
        bound: the step budget is the most that the sampler may take: it decides itself.
        entries: the cells with a finite score, at least one.
        reference: the entry that the others are compared with: the linear schedule, Beta(0.5, 0.5) which equals it, or
            the best hand-made schedule; None without any.
        race: how the race of these cells ended, if they are one's and it has.
        unmeasured: cells of the same kind that a prediction has ruled out.
    """

    objective: Objective
    others: Others
    stage: Stage
    steps: int | None
    bound: bool
    entries: Sequence[Entry]
    reference: Entry | None
    race: RaceRecord | None = None
    unmeasured: Sequence[Cell] = ()

    @property
    def standing(self) -> Sequence[Entry]:
        """The entries that no race has sorted out: in a race that has not ended, those with the most instances."""
        if self.stage != "race":
            return self.entries
        most = max(entry.row.n for entry in self.entries)
        return [e for e in self.entries if (e.label not in self.race.left if self.race else e.row.n == most)]

    @property
    def best(self) -> Entry:
        return max(self.standing, key=lambda entry: self.objective.sign * entry.value)

    @property
    def near_best(self) -> frozenset[str]:
        """The schedules within one standard error (the best's own) of the best: what the tables print bold. Without an
        error: its equals, but for rounding."""
        best, sign = self.best, self.objective.sign
        bar = sign * best.value - (ROUNDING * abs(best.value) if self.exact else best.stderr or 0)
        return frozenset(entry.label for entry in self.standing if sign * entry.value >= bar)

    @property
    def exact(self) -> bool:
        """Nothing here has an error: what is better is certain."""
        return all(entry.exact for entry in self.entries)

    @property
    def n(self) -> int:
        """Instances behind each score, the fewest if they differ."""
        return min(entry.row.n for entry in self.entries)

    @property
    def budget(self) -> str:
        """The step budget in words."""
        if self.steps is None:
            return "as many steps as it takes" if self.bound else "one step per token"
        return f"{'at most ' * self.bound}{self.steps} step{'s' * (self.steps != 1)}"

    def passes(self, entry: Entry) -> float | None:
        """Forward passes per sequence that an entry took."""
        row = entry.cell.row(NFE, self.objective.task)
        return None if row is None else row.value

    def entry(self, label: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.label == label), None)


def columns(sweep: Sweep, objective: Objective) -> list[Column]:
    """The columns of a sweep, compared with their references; cells without a finite score are left out."""
    task: Others = () if objective.task is None else (("task", objective.task),)
    grouped: dict[tuple[Others, Stage, int | None, bool], list[Entry]] = {}
    for cell in sweep.finished:
        row = cell.row(objective.metric, objective.task)
        if row is not None and math.isfinite(row.value):
            key = (*task, *cell.others), cell.stage, cell.steps, cell.bound
            grouped.setdefault(key, []).append(Entry(cell, row))
    order = sorted(grouped, key=lambda key: (key[0], key[1], key[2] is None, key[2] or 0, key[3]))
    races = {race.column: race for race in sweep.races}
    left_out: dict[object, list[Cell]] = {}
    for cell in sweep.unmeasured:
        left_out.setdefault(((*task, *cell.others), cell.steps, cell.bound), []).append(cell)

    def column(others: Others, stage: Stage, steps: int | None, bound: bool) -> Column:
        entries, kind = grouped[others, stage, steps, bound], (others, steps, bound)
        unmeasured = left_out.get(kind, ()) if stage != "refined" else ()
        return Column(
            objective, others, stage, steps, bound, entries, _reference(entries, objective), races.get(kind), unmeasured
        )

    bare = [column(*key) for key in order]
    # In a race who is compared on how much depends on the scores: tests would not mean what they say.
    pairs = [(entry, column.reference) for column in bare if column.stage != "race" for entry in column.entries]
    compared = iter(differences([(a, b) for a, b in pairs if b is not None and a is not b]))
    return [_with_differences(column, compared) for column in bare]


def preferred(table: Sequence[Column]) -> list[Column]:
    """For each step budget the column to decide by: fresh instances if there are any, else the grid."""
    chosen: dict[tuple[Others, str], Column] = {}
    for column in table:
        rivals = [entry for entry in column.entries if entry is not column.reference]
        if column.stage == "grid" or rivals:
            chosen[column.others, column.budget] = column  # the grid comes first
    return list(chosen.values())


def sections(table: Sequence[Column]) -> dict[Others, list[Column]]:
    """The columns by what the other axes say."""
    parts: dict[Others, list[Column]] = {}
    for column in table:
        parts.setdefault(column.others, []).append(column)
    return parts


def stages(section: Sequence[Column]) -> list[list[Column]]:
    """The columns of a section by stage, the grid first."""
    parts: dict[str, list[Column]] = {}
    for column in section:
        parts.setdefault(column.stage, []).append(column)
    return list(parts.values())


def differences(pairs: Sequence[tuple[Entry, Entry]]) -> list[Difference | None]:
    """First minus second, for each pair; None where neither exactness nor scores nor standard errors allow for a test.

    p-values are not corrected yet.
    """
    results: list[Difference | None] = [None] * len(pairs)
    by_size: dict[int, list[int]] = {}
    for position, (a, b) in enumerate(pairs):
        if a.exact and b.exact:
            results[position] = _exact(a.value, b.value)
        elif _finite_scores(a) and _finite_scores(b) and a.row.n == b.row.n > 1:
            by_size.setdefault(a.row.n, []).append(position)
        else:
            results[position] = _unpaired(a, b)
    for positions in by_size.values():
        scores = np.array([(pairs[position][0].row.scores, pairs[position][1].row.scores) for position in positions])
        paired = scores[:, 0] - scores[:, 1]
        low, high = bootstrap_interval(paired)
        # Enough patterns for p-values that many comparisons cannot correct out of sight.
        tests = sign_flip_test(paired, resamples=max(RESAMPLES, 100 * len(paired)))
        errors = paired.std(1, ddof=1) / paired.shape[1] ** 0.5
        for position, *numbers in zip(positions, paired.mean(1), low, high, tests, errors, strict=True):
            value, start, end, p, stderr = map(float, numbers)
            results[position] = Difference(value, start, end, p, p, paired=True, stderr=stderr)
    return results


def corrected(found: Sequence[Difference | None]) -> list[Difference | None]:
    """The differences, those that there are, with p-values corrected among themselves."""
    p = iter(holm(np.array([difference.p for difference in found if difference is not None])).tolist())
    return [None if difference is None else replace(difference, corrected=next(p)) for difference in found]


def _exact(a: float, b: float) -> Difference:
    """Of two numbers without an error: certain, or nothing but rounding."""
    value = 0.0 if math.isclose(a, b, rel_tol=ROUNDING) else a - b
    p = float(value == 0)
    return Difference(value, value, value, p, p, paired=True, stderr=0.0, exact=True)


def _unpaired(a: Entry, b: Entry) -> Difference | None:
    if a.stderr is None or b.stderr is None:
        return None
    value, stderr = np.array([a.value - b.value]), np.array([math.hypot(a.stderr, b.stderr)])
    interval: Interval = normal_interval(value, stderr)
    p = float(normal_test(value, stderr)[0])
    ends = float(interval.low[0]), float(interval.high[0])
    return Difference(float(value[0]), *ends, p, p, paired=False, stderr=float(stderr[0]))


def _finite_scores(entry: Entry) -> bool:
    return entry.row.scores is not None and all(map(math.isfinite, entry.row.scores))


def _reference(entries: Sequence[Entry], objective: Objective) -> Entry | None:
    """Linear; else its equal, Beta(1/2, 1/2); else the best hand-made schedule; else None."""
    eligible = [entry for entry in entries if stands_for_linear(entry.cell) < NOT_AT_ALL]
    ranked = sorted(eligible, key=lambda entry: (stands_for_linear(entry.cell), -objective.sign * entry.value))
    return next(iter(ranked), None)


def _with_differences(column: Column, compared: Iterator[Difference | None]) -> Column:
    """The column with its share of the differences, whose p-values are corrected among themselves."""
    if column.reference is None or column.stage == "race":
        return column
    taken = [None if entry is column.reference else next(compared) for entry in column.entries]
    pairs = zip(column.entries, corrected(taken), strict=True)
    entries = [entry if difference is None else replace(entry, difference=difference) for entry, difference in pairs]
    return replace(column, entries=entries)
