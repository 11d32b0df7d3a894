"""The verdict of a sweep: per step budget, which schedule to use, by how much, and how sure that is.

Every schedule of a column is tested against the linear one, and the p-values are corrected among themselves (Holm), so
that a verdict names a falsely better schedule with probability at most 5 %. The correction stops at the column: each
budget is a decision of its own, taken by whoever has that budget.
"""

from dataclasses import dataclass, replace
from statistics import median

from mdm_lightning.evaluation.statistics import detectable_difference, instances_needed
from mdm_lightning.report.columns import Column, Entry
from mdm_lightning.report.notation import decimals, ends, number, p_value, score, signed, words
from mdm_lightning.report.records import ANY

OPTIMISTIC = (
    "Chosen on the instances that it is scored on, so its score and its lead are optimistic; "
    "sweep.refine=k measures the best again on fresh instances."
)


@dataclass(frozen=True)
class Verdict:
    """The verdict of a column.

    Attributes:
        column: what it rests on.
        use: the entry to use.
        sure: it is distinguishably better than the reference, or all numbers are exact.
        advice: the decision, in a few words.
        evidence: the sentences that support it.
    """

    column: Column
    use: Entry
    sure: bool
    advice: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.column.budget}: {self.advice}. {self.evidence}"


def verdict(column: Column) -> Verdict:
    """Judges a column.

    The schedule to use is the best of those that are distinguishably better than the reference; without any, the
    reference.
    """
    found, ruled_out = _verdict(column), len(column.unmeasured)
    if not ruled_out:
        return found
    words = f"{ruled_out} schedule{' was' if ruled_out == 1 else 's were'} not measured, being predicted to be worse."
    return replace(found, evidence=f"{found.evidence} {words}")


def _verdict(column: Column) -> Verdict:
    reference, sign = column.reference, column.objective.sign
    if reference is None:
        return _without_reference(column)
    rivals = [entry for entry in column.entries if entry is not reference]
    if not rivals:
        measured = f"{words(column.objective.metric)} {_score(column, reference)}{_size(column)}."
        ignored = f"the schedule does not matter: {reference.cell.sampler} does not look at it"
        advice = ignored if reference.cell.schedule == ANY else f"only {reference.label} was measured"
        return Verdict(column, reference, column.exact, advice, measured)
    if column.stage == "race":
        return _raced(column, reference)
    tested = [(entry, entry.difference) for entry in rivals if entry.difference is not None]
    if not tested:
        return _untested(column, reference)
    better = [entry for entry, difference in tested if difference.significant and sign * difference.value > 0]
    worse = [entry for entry, difference in tested if difference.significant and sign * difference.value < 0]
    if better:
        return _better(column, reference, max(better, key=lambda entry: sign * entry.value), len(tested))
    return _no_better(column, reference, len(worse), tested=len(tested))


def _better(column: Column, reference: Entry, chosen: Entry, tested: int) -> Verdict:
    rest = len(column.near_best - {chosen.label})
    near = "as good" if column.exact else "within one standard error of the best"
    fresh = f"Measured on fresh instances, {_among(column, reference)}."
    sentences = [
        _comparison(column, chosen, reference, tested),
        f"{_count(rest)} {near}." if rest else "",
        "" if column.exact else OPTIMISTIC if column.stage == "grid" else fresh,
    ]
    return Verdict(column, chosen, True, f"use {chosen.label}", " ".join(filter(None, sentences)))


def _no_better(column: Column, reference: Entry, worse: int, *, tested: int) -> Verdict:
    name, best = _name(reference), column.best
    if column.exact:
        advice = f"keep {reference.label}: no schedule is better"
        equal = tested - worse
        found = f"{worse} of {tested} {'is' if worse == 1 else 'are'} worse" + (f", {equal} equal." if equal else ".")
        measured = f"{words(column.objective.metric)} {_score(column, reference)}, exact."
        return Verdict(column, reference, True, advice, f"{found} {measured[:1].upper()}{measured[1:]}")
    if worse:
        advice = f"keep {reference.label}: no schedule is distinguishably better than {name} with n = {column.n}"
        found = f"{worse} of {tested} {'is' if worse == 1 else 'are'} distinguishably worse ({_correction(tested)})."
    else:
        advice = f"no schedule is distinguishable from {name} with n = {column.n}"
        found = f"Keep {reference.label}, or decide by something else."
    if best is reference:
        lead = f"It also has the best {words(column.objective.metric)}, {_score(column, best)}."
    else:
        lead = f"The best score is {best.label}'s: {_comparison(column, best, reference, tested)}"
    return Verdict(column, reference, False, advice, f"{found} {lead} {_power(column, tested)}")


def _power(column: Column, tested: int) -> str:
    """What this sweep could have found, and what it would take to show the best candidate's lead."""
    errors = [entry.difference.stderr for entry in column.entries if entry.difference is not None]
    found = detectable_difference(median(errors), tested)
    digits = decimals([column])
    words = f"With n = {column.n}, a true difference of {number(found, digits)} would be found with probability 80 %"
    best = column.best.difference
    lead = None if best is None else instances_needed(best.value, best.stderr, column.n, tested)
    return (
        f"{words}; to show one of {number(abs(best.value), digits)} takes n = {lead:,}."
        if best and lead
        else f"{words}."
    )


def _raced(column: Column, reference: Entry) -> Verdict:
    """Of a race without a confirmation on fresh instances: nothing was ahead of the reference, or it goes on."""
    metric, best = words(column.objective.metric), column.best
    measured = f"{metric} {_score(column, best)}, n = {best.row.n}"
    if column.race is None:
        return Verdict(column, reference, False, "the race has not ended", f"Ahead is {best.label}: {measured}.")
    if column.race.winner != reference.label:
        evidence = f"{best.label} won the race ({measured}); it has not been confirmed on fresh instances."
        return Verdict(column, reference, False, f"keep {reference.label} until the race is confirmed", evidence)
    evidence = (
        f"Of {len(column.entries) - 1} rivals {len(column.race.left)} left the race, significantly behind its leader; "
        f"at its end nothing was ahead of {_name(reference)}: {measured}."
    )
    return Verdict(column, reference, False, f"keep {reference.label}: no schedule won against it", evidence)


def _without_reference(column: Column) -> Verdict:
    best = column.best
    tested = (
        "" if column.exact else "; nothing was tested, for want of a linear or other hand-made schedule to compare with"
    )
    evidence = f"{words(column.objective.metric)} {_score(column, best)}{_size(column)}{tested}."
    return Verdict(column, best, column.exact, f"{best.label} has the best score", evidence)


def _untested(column: Column, reference: Entry) -> Verdict:
    best, digits = column.best, decimals([column])
    evidence = (
        f"{words(column.objective.metric)} {number(best.value, digits)}, against {number(reference.value, digits)} for "
        f"{_name(reference)}; without scores or standard errors nothing can be said on how sure that is."
    )
    return Verdict(column, best, False, f"{best.label} has the best score", evidence)


def _comparison(column: Column, entry: Entry, reference: Entry, tested: int) -> str:
    """``accuracy 0.623 ± 0.034 against 0.554 ± 0.035 for linear: +0.069 (95 % interval 0.031 to 0.107, ...).``"""
    scores = f"{words(column.objective.metric)} {_score(column, entry)} against {_score(column, reference)}"
    if entry.difference is None:
        return f"{scores} for {_name(reference)}, which cannot be tested."
    digits, difference = decimals([column]), entry.difference
    costs = _costs(column, entry, reference)
    if difference.exact:
        return f"{scores} for {_name(reference)}: {signed(difference.value, digits)}, exact.{costs}"
    how = "paired" if difference.paired else "unpaired, from the standard errors"
    alone = " taken alone" if tested > 1 else ""
    span = f"95 % interval {ends(difference, digits)}{alone}, {how}, n = {column.n}"
    sure = f"{p_value(difference.corrected)} {_correction(tested)}"
    return f"{scores} for {_name(reference)}: {signed(difference.value, digits)} ({span}; {sure}).{costs}"


def _costs(column: Column, entry: Entry, reference: Entry) -> str:
    """What the two cost, where it is not the same."""
    own, other = column.passes(entry), column.passes(reference)
    if own is None or other is None or abs(own - other) < 0.01 * other:
        return ""
    return f" It took {own:.3g} forward passes, against {other:.3g}."


def _size(column: Column) -> str:
    return ", exact" if column.exact else f", n = {column.n}"


def _correction(tested: int) -> str:
    if tested == 1:
        return "in the only comparison"
    return f"after Holm's correction for {tested} comparisons"


def _among(column: Column, reference: Entry) -> str:
    rivals = len(column.entries) - 1
    if rivals == 1:
        return f"as the only rival of {reference.label}"
    return f"where it is the best of {rivals} rivals of {reference.label}"


def _name(reference: Entry) -> str:
    """The reference, with a word of explanation where it is not the linear schedule by name."""
    if reference.cell.schedule == "linear":
        return reference.label
    equal = reference.cell.alpha is not None
    return (
        f"{reference.label} ({'which is the linear schedule' if equal else 'the best hand-made one; none is linear'})"
    )


def _count(rest: int) -> str:
    return f"{rest} other schedule{' is' if rest == 1 else 's are'}"


def _score(column: Column, entry: Entry) -> str:
    return score(entry, decimals([column]))
