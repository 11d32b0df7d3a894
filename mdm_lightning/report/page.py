"""The report of a sweep as one HTML page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mdm_lightning.report.html import render
from mdm_lightning.report.records import Sweep
from mdm_lightning.report.tables import Table
from mdm_lightning.report.verdict import Verdict

EXACT = (
    "The numbers are computed, not estimated: they have no error, and which schedule is better is certain. Differences "
    "of less than 1e-9 of a number are rounding, and count as none."
)
METHOD = (
    "Differences are taken instance by instance: all schedules complete the same instances with the same noise. "
    "Intervals are BCa bootstrap intervals of the mean difference, from 10,000 resamples of the instances; p-values "
    "are those of the paired permutation (sign-flip) test, with 10,000 sign patterns or more. They are corrected by "
    "Holm's method for the schedules compared within a step budget, so that a verdict names a falsely better schedule "
    "with probability at most 5 %; the intervals are not corrected. Cells without scores per instance are compared by "
    "their standard errors, unpaired."
)


@dataclass(frozen=True)
class Section:
    """What the page says about the cells whose other axes agree.

    Attributes:
        title: the other axes, or empty.
        verdicts: one per step budget.
        scores: a table per stage, the decisive stage first.
        races: how the races of the cells ended, if they raced.
        costs: forward passes, where they are not what the step budgets say.
        details: other tables, folded away.
        prediction: the tables of the predictions, or none.
        notes: what the predictions are worth.
        pictures: figures by name, as PNG.
    """

    title: str
    verdicts: Sequence[Verdict]
    scores: Sequence[Table]
    races: Sequence[Table]
    costs: Sequence[Table]
    details: Sequence[Table]
    prediction: Sequence[Table]
    notes: Sequence[str]
    pictures: Mapping[str, bytes]

    @property
    def folded(self) -> list[Table]:
        """The tables that open on a click."""
        return [*self.scores[1:], *self.costs[1:], *self.details]


def page(sweep: Sweep, title: str, sections: Sequence[Section], overviews: Sequence[Table]) -> str:
    """The page.

    Args:
        sweep: for what failed, and for how it was run.
        title: heading of the page.
        sections: one per combination of the other axes.
        overviews: a table of all sections that are judged by the same, if there are several.
    """
    return render(
        "sweep.html",
        title=title,
        progress=_progress(sweep),
        overviews=overviews,
        sections=sections,
        unusable=sweep.unusable(),
        settings=_settings(sweep),
        methods=_methods(sections),
    )


def _methods(sections: Sequence[Section]) -> list[str]:
    exact = {verdict.column.exact for section in sections for verdict in section.verdicts}
    return [EXACT] * (True in exact) + [METHOD] * (exact != {True})


def _progress(sweep: Sweep) -> str:
    failed = f", {len(sweep.failed)} failed" if sweep.failed else ""
    if sweep.unmeasured:
        failed += f", {len(sweep.unmeasured)} not measured because of their predictions"
    seconds = sum(cell.seconds for cell in sweep.cells)
    return f"{len(sweep.finished)} cells finished{failed}; {seconds:,.0f} s of measuring."


def _settings(sweep: Sweep) -> dict[str, str]:
    """How the sweep was run, but for what is there for the machine: what a resumed sweep must not change."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in sweep.settings.items()
        if name != "agreed"
    }
