"""What profiles predict and what a check of proposals found, in words, rows and a file."""

from collections.abc import Iterator, Mapping, Sequence

from mdm_lightning.evaluation.advice.checks import Checked
from mdm_lightning.evaluation.advice.costs import Costs, Prediction
from mdm_lightning.evaluation.advice.predicted import taken
from mdm_lightning.evaluation.advice.proposals import Proposal
from mdm_lightning.evaluation.base import Row
from mdm_lightning.tables import markdown_table

UNDECIDABLE = (
    "Nothing can check this: a sampler that is greedy, or leaves tokens out (top-k, top-p, banned ones), gives most "
    "sequences no probability, and the data have no rule to judge by."
)
NOT_ASKED = "Predicted only: nothing was asked for that could check it."


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
        return f"{checked.steps} steps: use {winner.label}, not {baseline.label}: {numbers}."
    return f"{checked.steps} steps: keep {baseline.label}: {winner.label} won the race, but it is not sure: {numbers}."


def predictions_text(said: Sequence[tuple[Costs, Prediction]]) -> str:
    """What the profiles say before anything is checked, in nats per token, and what that is worth."""
    header = ["steps", "order", "profile", "linear", "best Beta", "best counts", "on those that chose them"]
    rows = []
    for costs, one in said:
        chosen = (one.linear, one.best_beta, one.best_counts)
        cells = [f"{estimate.value / costs.length:.4f} ± {estimate.stderr / costs.length:.4f}" for estimate in chosen]
        rows.append([str(one.steps), one.order, one.profile, *cells, f"{one.flattered / costs.length:.4f}"])
    words = [
        "Predicted cost, nats per token. The best Beta schedule and the best counts are chosen on one half of the "
        "sequences and scored on the other, both ways:",
        "",
        markdown_table(header, rows, left=3),
        "",
    ]
    basis = {costs.order: costs.basis for costs, _ in said}
    words += [f"- {order}: {worth}" for order, worth in basis.items()]
    return "\n".join(words)


def unchecked_text(why: str, proposals: Mapping[int, Sequence[Proposal]]) -> str:
    """What the profiles propose, where nothing checks it."""
    words = [why, ""]
    for steps, found in proposals.items():
        words += [f"- {steps} steps: {one.label} (proposed by {', '.join(one.sources)})" for one in found]
    return "\n".join(words)


def verdict_text(found: Sequence[Checked], left_out: Mapping[int, Sequence[Proposal]], costs: Sequence[Costs]) -> str:
    """The verdicts, each with a table of its race, and what that cost."""
    words = ["Checked on other instances:", "", *(f"- {verdict(checked)}" for checked in found), ""]
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
    words += [f"The race ({found[0].metric.replace('_', ' ')}):", "", markdown_table(header, rows, left=3), ""]
    words += _worth(found)
    for checked in found:
        if others := left_out[checked.steps]:
            labels, most = "; ".join(one.label for one in others), len(checked.proposals)
            words.append(f"- {checked.steps} steps: left out of the race, as {most} better ones were in it: {labels}")
    words.append(_cost(found, costs))
    return "\n".join(words)


def _worth(found: Sequence[Checked]) -> list[str]:
    """What the scores of the orders are, where they are likelihoods."""
    kinds = {
        proposal.order: kind
        for checked in found
        for proposal, kind in zip(checked.proposals, checked.kinds, strict=True)
        if kind
    }
    if not kinds:
        return []
    words = [f"- what is scored of {order}: {kind}" for order, kind in kinds.items()]
    bounded = any(kind.startswith("bound") for kind in kinds.values())
    return words + (["- an order with a bound may be better than its score, not worse"] if bounded else [])


def _cost(found: Sequence[Checked], costs: Sequence[Costs]) -> str:
    """What profiles, race and confirmation took."""
    race = confirmation = sequences = again = 0
    for checked in found:
        outcome, blocks = checked.outcome, max(one.blocks for one in costs)
        passes = [proposal.passes(blocks) for proposal in checked.proposals]
        race += sum(p * len(runner.scores) for p, runner in zip(passes, outcome.runners, strict=True))
        sequences += sum(len(runner.scores) for runner in outcome.runners)
        if outcome.confirmation is not None:
            confirmation += outcome.confirmation.n * (passes[outcome.winner] + passes[0])
            again += 2 * outcome.confirmation.n
    return (
        f"\nCost in forward passes of single sequences: {sum(one.passes for one in costs):,} for the profiles, "
        f"{race:,} for the race ({sequences:,} sequences), {confirmation:,} to confirm winner and baseline on fresh "
        f"instances ({again:,} sequences); at most, where chance or length decides how many steps are empty."
    )


def verdict_rows(found: Sequence[Checked], data: str) -> Iterator[Row]:
    """The gain over the baseline of what is advised, per step budget: 0 where the baseline is kept."""
    for checked in found:
        confirmed = checked.outcome.confirmation
        winner = checked.proposals[checked.outcome.winner]
        settings = {"data": data, "steps": checked.steps, "use": checked.use.label, "winner": winner.label}
        better = "higher" if checked.sign > 0 else "lower"
        if confirmed is None:
            baseline = checked.outcome.runners[0]
            yield Row(f"advised_{checked.metric}", checked.sign * baseline.mean, None, len(baseline.scores), settings)
            continue
        score = confirmed.winner if checked.outcome.sure else confirmed.baseline
        yield Row(f"advised_{checked.metric}", checked.sign * score, None, confirmed.n, settings)
        gain = checked.sign * confirmed.gain
        yield Row("winner_minus_baseline", gain, confirmed.stderr, confirmed.n, settings, better)


def as_json(checked: Checked) -> dict[str, object]:
    """A verdict as it stands in ``advice.json``."""
    return {**taken(checked.use.sampler), "sure": checked.outcome.sure, "verdict": verdict(checked)}
