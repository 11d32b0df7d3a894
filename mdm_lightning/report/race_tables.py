"""How the races of a sweep ended, as a table."""

from collections import Counter
from collections.abc import Sequence

from mdm_lightning.report.columns import Column
from mdm_lightning.report.race import RaceRecord
from mdm_lightning.report.tables import MISSING, Item, Table


def race_table(columns: Sequence[Column]) -> Table | None:
    """How the races ended and what they saved; None if none has."""
    raced = [(column, column.race) for column in columns if column.stage == "race" and column.race is not None]
    if not raced:
        return None
    caption = (
        "Races: after the first instances, and whenever their number has doubled, schedules that are significantly "
        "behind the leader leave (paired permutation tests, Bonferroni's correction: the best of a budget leaves with "
        f"probability at most {raced[0][1].level:g}). Cost of the race against that of all its schedules on all "
        "instances, without the confirmation of the winner on fresh ones"
    )
    header = ["budget", "led at the end", "left the race", "instances", "forward passes", "saved"]
    return Table("Races", caption, header, [[*map(Item, _race_row(*one))] for one in raced])


def _race_row(column: Column, race: RaceRecord) -> list[str]:
    measured, every = sum(entry.row.n for entry in column.entries), race.instances * len(column.entries)
    passes = [(per, entry.row.n) for entry in column.entries if (per := column.passes(entry)) is not None]
    spent, whole = sum(per * n for per, n in passes), sum(per * race.instances for per, _ in passes)
    cost = f"{spent:,.0f} of {whole:,.0f}" if whole else MISSING
    return [
        column.budget, race.winner, _departures(column, race), f"{measured:,} of {every:,}", cost,
        f"{1 - measured / every:.0%}",
    ]  # fmt: skip


def _departures(column: Column, race: RaceRecord) -> str:
    """``12 after 25, 3 after 50; 2 stayed``."""
    numbers = Counter(race.left[entry.label] for entry in column.entries if entry.label in race.left)
    left = ", ".join(f"{count} after {n}" for n, count in sorted(numbers.items())) or "none"
    return f"{left}; {len(column.entries) - numbers.total()} stayed"
