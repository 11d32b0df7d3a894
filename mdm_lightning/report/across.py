"""What a sweep's other axes do (samplers, orders, ...): all at their reference schedule, on the same instances."""

from collections.abc import Sequence

from mdm_lightning.report.columns import Column, corrected, differences, preferred
from mdm_lightning.report.notation import conditions, decimals, interval, score, stage, words
from mdm_lightning.report.tables import MISSING, Item, Table


def across_table(parts: Sequence[Sequence[Column]]) -> Table | None:
    """What every section but the first scores more than the first, by step budget, with p-values that are corrected
    within a budget; None if there is nothing to compare.

    Their reference schedules are compared, not the best of each: a best one is chosen on the instances that it is
    scored on.

    Args:
        parts: sections that are judged by the same.
    """
    found = [{c.budget: c for c in preferred(part) if c.reference is not None and c.stage != "race"} for part in parts]
    first, *others = found if found else [{}]
    budgets = [b for b, own in first.items() if any(b in o and o[b].stage == own.stage for o in others)]
    every = [one[b] for one in found for b in budgets if b in one]
    if not budgets:
        return None
    digits, objective = decimals(every), first[budgets[0]].objective
    rows = [[Item(conditions(part[0].others))] for part in parts]
    for budget in budgets:
        baseline = first[budget]
        assert baseline.reference is not None
        rows[0].append(Item(score(baseline.reference, digits)))
        rivals = [o[budget] if budget in o and o[budget].stage == baseline.stage else None for o in others]
        for row, item in zip(rows[1:], _items(baseline, rivals, digits), strict=True):
            row.append(item)
    exact = all(column.exact for column in every)
    sure = "bold: not equal" if exact else "95 % intervals; bold: p < 0.05 after Holm's correction within the column"
    caption = (
        f"{words(objective.name)} ({objective.better} is better) minus that of {conditions(parts[0][0].others)}, whose "
        f"score stands in the first row, each with its reference schedule (linear, where it was measured), "
        f"{stage(every)}; {sure}"
    )
    return Table("Compared with each other", caption, ["", *budgets], rows)


def _items(baseline: Column, rivals: Sequence[Column | None], digits: int) -> list[Item]:
    """The differences of a budget."""
    ours = baseline.reference
    pairs = [(rival.reference, ours) for rival in rivals if rival is not None and rival.reference is not None]
    known = iter(corrected(differences([(a, b) for a, b in pairs if b is not None])))
    found = [None if rival is None else next(known) for rival in rivals]
    return [Item(MISSING) if one is None else Item(interval(one, digits), one.significant) for one in found]
