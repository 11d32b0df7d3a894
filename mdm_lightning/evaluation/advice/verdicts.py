"""What a check of proposals found, in words, rows and a file."""

from collections.abc import Iterator, Sequence

from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, TabulatedSchedule
from mdm_lightning.evaluation.advice.checks import Checked
from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.description import describe
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.tables import markdown_table

UNVERIFIED = "Predicted only: nothing was generated to check it."


def verdict(checked: Checked) -> str:
    """What to use for a step budget, by how much it is better, and how sure that is."""
    baseline, outcome = checked.proposals[0], checked.outcome
    metric = checked.metric.replace("_", " ")
    found = outcome.confirmation
    if found is None:
        n, mean = len(outcome.runners[0].scores), checked.sign * outcome.runners[0].mean
        return f"{checked.steps} steps: keep {baseline.label}: nothing was ahead of it ({metric} {mean:.4g}, n = {n})."
    winner = checked.proposals[outcome.winner]
    ends = sorted((checked.sign * found.low, checked.sign * found.high))
    numbers = (
        f"{metric} {checked.sign * found.winner:.4g} against {checked.sign * found.baseline:.4g}, a difference of "
        f"{checked.sign * found.gain:+.4g} (95 % interval {ends[0]:.4g} to {ends[1]:.4g}, paired, n = {found.n} fresh "
        f"instances, one-sided p = {found.p:.2g})"
    )
    if outcome.sure:
        return f"{checked.steps} steps: use {winner.label}: {numbers}."
    return f"{checked.steps} steps: keep {baseline.label}: {winner.label} won the race, but it is not sure: {numbers}."


def verdict_text(found: Sequence[Checked], sampler: Sampler, passes: int, path: str) -> str:
    """The verdicts, each with a table of its race, and how to use them."""
    words = [f"Proposals for the order {describe(sampler.order)}, checked on other instances:", ""]
    words += [f"- {verdict(checked)}" for checked in found]
    header = ["steps", "candidate", "proposed by", "score", "instances", ""]
    rows = []
    for checked in found:
        ranked = sorted(
            zip(checked.proposals, checked.outcome.runners, strict=True),
            key=lambda pair: (-len(pair[1].scores), -pair[1].mean),
        )
        for proposal, runner in ranked:
            score = f"{checked.sign * runner.mean:.4g}"
            end = "left, significantly behind" if runner.left else ""
            cells = [proposal.label, ", ".join(proposal.sources), score, str(len(runner.scores)), end]
            rows.append([str(checked.steps), *cells])
    words += ["", f"The race ({found[0].metric.replace('_', ' ')}):", "", markdown_table(header, rows, left=3)]
    samples = sum(checked.outcome.evaluations for checked in found)
    cost = sum(checked.outcome.evaluations * checked.steps for checked in found)
    words.append(
        f"\nCost: {passes:,} forward passes of single sequences for the profiles, at most {cost:,} for the check "
        f"({samples:,} sequences)."
    )
    used = found[0].use
    count = {"Expected": "expected", "LargestRemainder": "largest_remainder"}.get(type(used.sampler.count).__name__)
    rounding = f" count={count}" if count else ""
    words.append(
        f"Use it: schedule=advised schedule.family=verified advice={path}{rounding} sampler.steps={found[0].steps}"
    )
    return "\n".join(words)


def verdict_rows(found: Sequence[Checked], data: str) -> Iterator[Row]:
    """The gain over the baseline of what is advised, per step budget: 0 where the baseline is kept."""
    for checked in found:
        confirmed = checked.outcome.confirmation
        settings = {"data": data, "steps": checked.steps, **_describe(checked)}
        better = "higher" if checked.sign > 0 else "lower"
        if confirmed is None:
            baseline = checked.outcome.runners[0]
            yield Row(f"advised_{checked.metric}", checked.sign * baseline.mean, None, len(baseline.scores), settings)
            continue
        score = confirmed.winner if checked.outcome.sure else confirmed.baseline
        yield Row(f"advised_{checked.metric}", checked.sign * score, None, confirmed.n, settings)
        gain = checked.sign * confirmed.gain
        yield Row("winner_minus_linear", gain, confirmed.stderr, confirmed.n, settings, better)


def as_json(checked: Checked) -> dict[str, object]:
    """A verdict as it stands in ``advice.json``."""
    schedule, count = checked.use.sampler.schedule, type(checked.use.sampler.count).__name__
    if isinstance(schedule, BetaSchedule):
        content: dict[str, object] = {"beta": [schedule.alpha, schedule.beta]}
    elif isinstance(schedule, TabulatedSchedule):
        content = {"alphas": list(schedule.alphas)}
    else:
        assert isinstance(schedule, LinearSchedule)
        content = {"beta": [0.5, 0.5]}
    return {**content, "count": count, "sure": checked.outcome.sure, "verdict": verdict(checked)}


def _describe(checked: Checked) -> dict[str, str]:
    winner = checked.proposals[checked.outcome.winner]
    return {"use": checked.use.label, "winner": winner.label, "order": describe(checked.use.sampler.order)}
