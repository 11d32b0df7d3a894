"""Advice on schedules: what the file says is what the profile found, and what the sampler then does."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mdm_lightning.checkpoint.advice import advised_sampler, warn_of_another_model
from mdm_lightning.data.source import Verdict
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import LinearSchedule, SineSchedule, TabulatedSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.advise import Advise
from mdm_lightning.evaluation.advice.checks import ByLikelihood, ByTask
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.predicted import advise, advised_schedule, predicted_gap
from mdm_lightning.evaluation.advice.proposals import propose, shortlist
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.description import configuration
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.files import to_json
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import (
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    FixedCount,
    LargestRemainder,
    RevealCount,
)
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import (
    Confidence,
    Entropy,
    LeftToRight,
    MaxProbability,
    Random,
    RevealOrder,
    StaticOrder,
)
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.spaced import MinimumDistance
from mdm_lightning.sampling.tokens import TokenSampler
from tests.diffusion.profiles import smooth_profile
from tests.diffusion.tables import uniform_denoiser

from .corpora import text_subject
from .test_likelihood import distribution_subject
from .test_profile_evaluation import Kept
from .test_task import task_subject

BUDGETS = (1, 2, 3)


def sampler(count: RevealCount | None = None, order: RevealOrder | None = None, **options) -> Sampler:
    return Sampler(SineSchedule(), count or Binomial(), order or Random(), **options)


def run(count: RevealCount, order: RevealOrder | None = None) -> tuple[Subject, Kept, list[Row]]:
    subject, outputs = distribution_subject(4), Kept()
    subject.outputs, subject.fingerprint = outputs, "abc"
    evaluation = Advise(Profile(sequences=None), sampler(count, order), BUDGETS, Paths(sequences=16))
    return subject, outputs, list(evaluation(subject))


@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_the_advice_file_holds_the_advice(tmp_path, count):
    """Read back for every budget: the schedules that the measured profile says are best, to the last bit."""
    _, outputs, _ = run(count)
    (tmp_path / "advice.json").write_text(outputs.files["advice.json"])
    (tmp_path / "profile.json").write_text(outputs.files["profile.json"])
    profile = LossProfile.load(tmp_path / "profile.json", "abc")
    for steps in BUDGETS:
        best = (
            profile.best_beta(steps)
            if isinstance(count, Binomial)
            else profile.best_beta_of_counts(steps, count.rounding)
        )
        assert advised_schedule(str(tmp_path / "advice.json"), steps) == best
        optimum = advised_schedule(str(tmp_path / "advice.json"), steps, "optimal")
        assert isinstance(optimum, TabulatedSchedule)
        assert list(optimum.alphas) == list(profile.optimal_schedule(steps).alphas)


@pytest.mark.parametrize("length", [5, 40])
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_the_sampler_reveals_the_optimal_counts(length, steps):
    """With the optimal schedule and the count Expected, at every step exactly as many positions as were advised."""
    profile = smooth_profile(length, 5)
    schedule = advise(profile, sampler(Expected()), steps).optimum
    denoiser = uniform_denoiser(length, 2) if length == 5 else None
    if denoiser is None:
        everywhere = torch.ones(3, length, dtype=torch.bool)
        plan = Expected().plan(schedule, torch.full((3,), steps), everywhere, SequenceNoise(0, range(3)))
        revealed = plan.quota().tolist()
    else:
        canvas = torch.full((3, length), denoiser.mask_id)
        samples = Sampler(schedule, Expected(), Random(), steps=steps)(denoiser, canvas, SequenceNoise(0, range(3)))
        revealed = [row.bincount(minlength=steps).tolist() for row in samples.revealed_at]
    assert revealed == [profile.best_counts(steps).tolist()] * 3


@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_rows_and_text(count):
    """The gaps are those of the profile; what was chosen is scored by others, and never with fewer sequences."""
    subject, outputs, rows = run(count)
    assert [row.metric for row in rows] == ["predicted_gap"] * 4 * len(BUDGETS)
    for steps in BUDGETS:
        gaps = {row.settings["schedule"]: row.value for row in rows if row.settings["steps"] == steps}
        _, *others = gaps
        assert others == ["Linear", "SquaredSine", "optimal counts"]
    assert all(row.n == len(subject.data.validation) and row.better == "lower" for row in rows)
    text = outputs.texts["advice"]
    assert text.endswith("evaluation=generation sampler=advised sampler.steps=1 advice=advice.json")
    assert "chosen on one half" in text
    assert "Predicted cost" not in text
    assert "Predicted only" in run(count, Entropy())[1].texts["advice"]
    assert outputs.figures == ["advised grids", "predicted landscape"]


@pytest.mark.parametrize("steps", [2, 8, 31, 40])
@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_the_best_beta_is_no_worse_than_what_it_is_compared_with(count, steps):
    """By the profile that chose it; where single sequences are known, others score it."""
    measured = smooth_profile(40, 9)
    profile = LossProfile(40, measured.counts, measured.values, measured.covariance)
    same = advise(profile, sampler(count), steps)
    best, *rivals = same.gaps.values()
    assert all(best.value <= rival.value + 1e-9 for rival in rivals)
    if isinstance(count, Expected):
        assert same.optimal_gap.value <= best.value + 1e-9
    others = advise(measured, sampler(count), steps)
    assert (same.cross_fitted, others.cross_fitted) == (False, True)
    assert (others.best, others.optimum) == (same.best, same.optimum)
    assert others.optimal_gap.value >= same.optimal_gap.value - 1e-9


def counted(profile: LossProfile, counts: list[int]) -> float:
    """sum of n_k h_{r_k} less the sum of all h_r."""
    revealed = np.cumsum([0, *counts])[:-1]
    return sum(n * profile.per_count[r] for n, r in zip(counts, revealed, strict=True) if n) - profile.per_count.sum()


def test_predicted_gaps():
    profile = smooth_profile(12, 12)
    for steps in (1, 4, 7):
        by_hand = [round(12 * float(SineSchedule().alpha_t(torch.tensor(k / steps)))) for k in range(steps + 1)]
        gap = predicted_gap(profile, sampler(Expected()), steps)
        assert gap is not None
        assert gap.value == pytest.approx(counted(profile, np.diff(by_hand).tolist()))
        assert predicted_gap(profile, sampler(), steps) == profile.gap(SineSchedule(), steps)
    llada = predicted_gap(profile, Sampler(LinearSchedule(), LargestRemainder(), Random()), 5)
    assert llada is not None
    assert llada.value == pytest.approx(counted(profile, [3, 3, 2, 2, 2]))


def test_one_position_per_pass_costs_nothing():
    profile = smooth_profile(12, 12)
    for one_by_one, steps in ((sampler(FirstHitting()), 3), (sampler(FirstHitting()), None)):
        gap = predicted_gap(profile, one_by_one, steps)
        assert gap is not None
        assert gap.value == pytest.approx(0, abs=1e-9)
    # Without a budget: a step for each position.
    assert predicted_gap(profile, sampler(), None) == profile.gap(SineSchedule(), 12)


@pytest.mark.parametrize(
    "unpredictable",
    [
        sampler(EntropyBounded()),
        sampler(ConfidenceThreshold()),
        sampler(RemaskCapped(0.1)),
        sampler(RemaskRescaled(0.5)),
        sampler(blocks=Blocks(4)),
    ],
    ids=str,
)
def test_a_profile_says_nothing_of_some_samplers(unpredictable):
    assert predicted_gap(smooth_profile(12, 12), unpredictable, 4) is None
    with pytest.raises(NotApplicable, match="neither adaptive nor remasking counts, nor blocks"):
        next(iter(Advise(Profile(), unpredictable, [4])(distribution_subject(1))))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read advice="),
        ("no json", "is no advice.json"),
        ("[1, 2]", "is no advice.json"),
        ('{"version": 1, "length": 4}', "is no advice.json"),
        ('{"16": [0.5, 0.5]}', "is no advice.json"),
        ('{"model": {"name": "a"}}', "is no advice.json"),
        ('{"16": {"beta": [0.5]}}', "holds no schedule for 16 steps"),
        ('{"16": {"beta": [0.5, "a"]}}', "holds no schedule for 16 steps"),
        (
            json.dumps({"4": {}, "8": {}}),
            r"is for 4, 8 steps, not for 16: .* ask for evaluation=advise evaluation.steps=\[16\]",
        ),
    ],
)
def test_files_that_are_no_advice(tmp_path, content, words):
    if content is not None:
        (tmp_path / "advice.json").write_text(content)
    with pytest.raises(UserError, match=words):
        advised_schedule(str(tmp_path / "advice.json"), 16)


def test_advice_must_be_named():
    with pytest.raises(UserError, match="needs advice=FILE"):
        advised_schedule(None, 8)


@pytest.mark.parametrize("steps", [[], [0], [4, -1]])
def test_budgets_must_be_positive(steps):
    with pytest.raises(ValueError, match="steps must be positive"):
        Advise(Profile(), sampler(), steps)


def checked_run(subject: Subject, chosen: Sampler, **options) -> tuple[Kept, list[Row]]:
    subject.outputs = outputs = Kept()
    evaluation = Advise(
        Profile(sequences=40),
        chosen,
        (1, 2),
        Paths(sequences=40),
        Race(instances=100, first=50, confirm=100),
        ByTask(),
        ByLikelihood(),
    )
    return outputs, list(dataclasses.replace(evaluation, **options)(subject))


@pytest.mark.parametrize("order", [Confidence(), Random()])
def test_advice_for_a_task_is_checked_by_its_rule(tmp_path, order):
    """Whatever wins, linear is named, and what the file holds is what the verdict says to use."""
    chosen = Sampler(LinearSchedule(), Expected(), order, TokenSampler(temperature=1.0), steps=2)
    outputs, rows = checked_run(task_subject({"aaa": 3.0, "bbb": 1.0, "aab": 2.0, "aba": 1.0}), chosen)
    text = outputs.texts["advice"]
    known = json.loads(outputs.files["advice.json"])
    (tmp_path / "advice.json").write_text(outputs.files["advice.json"])
    for steps in (1, 2):
        name = type(order).__name__
        assert f"- {steps} steps: keep {name} with Linear" in text or f"- {steps} steps: use {name} with " in text
        verified = known[str(steps)]
        advised = advised_sampler(str(tmp_path / "advice.json"), steps)
        assert dataclasses.replace(advised, schedule=chosen.schedule, count=chosen.count, steps=2) == chosen
        assert advised.steps == steps
        if not verified["sure"]:
            assert (advised.schedule, advised.count) == (LinearSchedule(), chosen.count)
        assert f"{verified['verdict']}" in text
    assert {row.settings["steps"] for row in rows if row.metric == "advised_accuracy"} == {1, 2}
    assert "The race (accuracy)" in text
    assert text.endswith("evaluation=task sampler=advised sampler.steps=1 advice=advice.json")


def test_instances_of_the_profile_check_nothing():
    """The prompt decides everything. The instances of race and confirmation lie behind those of the profile."""
    seen: list[range] = []

    @dataclasses.dataclass(frozen=True)
    class Watching(ByTask):
        def __call__(self, sampler, sequences):
            inner = super().__call__(sampler, sequences)

            def evaluation(subject):
                seen.append(range(subject.first, subject.first + sequences))
                return inner(subject)

            return evaluation

    chosen = Sampler(LinearSchedule(), Expected(), MaxProbability(), TokenSampler(temperature=1.0))
    subject = task_subject({"aaa": 1.0, "bbb": 1.0}, problems=300)
    _, rows = checked_run(subject, chosen, by_task=Watching())
    assert min(unit.start for unit in seen) == 40
    assert subject.first == 0
    score = next(row for row in rows if row.metric == "advised_accuracy" and row.settings["steps"] == 2)
    assert score.value == 1


@pytest.mark.parametrize("order", [Entropy(), LeftToRight()])
def test_advice_on_text_is_checked_by_the_samplers_own_likelihood(order):
    chosen = Sampler(LinearSchedule(), Expected(), order, TokenSampler())
    outputs, rows = checked_run(distribution_subject(4), chosen)
    assert "The race (policy nats per token)" in outputs.texts["advice"]
    assert any(row.metric == "advised_policy_nats_per_token" for row in rows)
    greedy = dataclasses.replace(chosen, tokens=TokenSampler(temperature=0.0))
    assert "Nothing can check this" in checked_run(distribution_subject(4), greedy)[0].texts["advice"]
    assert "Predicted only" in checked_run(distribution_subject(4), chosen, race=None)[0].texts["advice"]


def test_the_theorem_is_about_tokens_drawn_as_predicted():
    """In random order nothing is left to check; at another temperature the denoiser's own profile is a guess."""
    plain = Sampler(LinearSchedule(), Expected(), Random(), TokenSampler())

    def said(tokens: TokenSampler) -> str:
        return checked_run(distribution_subject(4), dataclasses.replace(plain, tokens=tokens))[0].texts["advice"]

    assert "The race" not in said(TokenSampler())
    assert "Nothing can check this" not in said(TokenSampler())
    assert "The race (policy nats per token)" in said(TokenSampler(temperature=0.7))
    for tokens in (TokenSampler(temperature=0.0), TokenSampler(top_p=0.9), TokenSampler(top_k=1)):
        assert "Nothing can check this" in said(tokens)


def test_samplers_of_one_order_are_told_apart():
    """By what else they do; and the theorem is said to be about one of them only."""
    plain = Sampler(LinearSchedule(), Expected(), Random(), TokenSampler())
    cool = dataclasses.replace(plain, tokens=TokenSampler(temperature=0.7))
    text = checked_run(distribution_subject(4), plain, steps=(2,), orders=[cool], racers=4)[0].texts["advice"]
    names = [line.split(" with ")[0] for line in text.splitlines() if " with Linear, Expected |" in line]
    assert set(names) == {"| 2 | Random", "| 2 | Random (temperature 0.7)"}
    bound = "the K-step NELBO, a proved bound on the likelihood under every schedule"
    assert f"- Random: {bound}\n" in text
    assert f"- Random (temperature 0.7): {bound}; of tokens drawn as they are predicted, and so a guess here" in text


class Pairs:
    """Two pairs of equal letters."""

    prompt_length = 0

    def check(self, tokens):
        first, second, third, fourth = tokens.tolist()
        return Verdict(valid=True, correct=first == second and third == fourth)


def pairs_subject() -> Subject:
    """The denoiser knows that the pairs are equal, and that nothing else is known."""
    texts = ["aaaa", "aabb", "bbaa", "bbbb"] * 100
    return dataclasses.replace(text_subject(texts, texts, distribution=texts[:4]), task=Pairs())


def test_orders_race_each_other():
    """Where pairs of neighbours are equal, what is revealed at once must not hold both of a pair: an order that takes
    them apart solves the task in two steps, and the sampler's own order from left to right cannot."""

    @dataclasses.dataclass(frozen=True)
    class Apart(StaticOrder):
        def ranks(self, generated, noise):
            return torch.tensor([[0, 2, 1, 3]]).expand(len(generated), 4)

    own = Sampler(LinearSchedule(), Expected(), LeftToRight(), TokenSampler())
    others = [Apart(), dataclasses.replace(own, order=Random()), MaxProbability()]
    outputs, rows = checked_run(pairs_subject(), own, steps=(2,), orders=others, racers=8)
    text = outputs.texts["advice"]
    assert (
        "- 2 steps: use Apart with Linear, Expected, not LeftToRight with Linear, Expected: accuracy 1 against" in text
    )
    for order in ("Apart", "LeftToRight", "MaxProbability", "Random"):
        assert sum(line.startswith(f"| 2 | {order} with") for line in text.splitlines()) in (1, 2)
    predicted = [row for row in rows if row.metric == "predicted_cost" and row.settings["schedule"] == "Linear"]
    costs = {row.settings["order"]: row.value for row in predicted if row.settings["profile"] != "loss profile"}
    assert costs["Apart"] == pytest.approx(np.log(2) / 2)
    assert costs["LeftToRight"] == pytest.approx(np.log(2))
    assert json.loads(outputs.files["advice.json"])["2"]["sampler"]["order"] == {
        "_target_": f"{Apart.__module__}.{Apart.__qualname__}"
    }


def test_orders_of_text_are_compared_by_likelihood():
    """In one race, and the text says whose likelihood is exact, whose a bound, and what was proved before."""
    chosen = Sampler(LinearSchedule(), Expected(), Random(), TokenSampler())
    found = Advise(
        Profile(sequences=40), chosen, (3,), Paths(sequences=40), Race(instances=60, first=30, confirm=60),
        by_likelihood=ByLikelihood(), orders={"entropy": Entropy(), "left": LeftToRight()}, racers=6,
    )  # fmt: skip
    subject = distribution_subject(4)
    subject.outputs = outputs = Kept()
    list(found(subject))
    text = outputs.texts["advice"]
    assert "- Random: the K-step NELBO, a proved bound" in text
    assert "- LeftToRight: the likelihood of every counts, exact" in text
    assert "- Entropy: one path for all schedules, a bet" in text
    assert "- what is scored of Random: bound: mean over random orders or counts" in text
    assert "- what is scored of Entropy: exact" in text
    findings = found.find(subject)
    (checked,) = findings.checked
    assert len(checked.proposals) <= 6
    assert findings.left_out[3]
    line = next(line for line in text.splitlines() if "left out of the race" in line)
    assert all(one.label in line for one in findings.left_out[3])
    assert checked.proposals[0].label == "Random with Linear, Expected"
    assert set(checked.kinds) == {"exact", "bound: mean over random orders or counts"}
    noisy = dataclasses.replace(found, orders=[Confidence(noise=1.0)])
    with pytest.raises(UserError, match="by likelihood is not possible: walk: the order Confidence with noise"):
        noisy.find(subject)


def test_the_cost_is_what_was_scored():
    """Counted by hand: every runner's instances times its passes, and the winner's and baseline's confirmation."""
    chosen = Sampler(LinearSchedule(), Expected(), Random(), TokenSampler(), steps=2)
    own = dataclasses.replace(chosen, order=LeftToRight())
    passes = {"race": 0, "confirm": 0}

    @dataclasses.dataclass(frozen=True)
    class Counting(ByTask):
        def __call__(self, sampler, sequences):
            inner = super().__call__(sampler, sequences)

            def evaluation(subject):
                rows = list(inner(subject))
                used = next(row for row in rows if row.metric == "forward_passes")
                passes["confirm" if subject.first >= 140 else "race"] += round(used.value * sequences)
                return iter(rows)

            return evaluation

    outputs, _ = checked_run(pairs_subject(), own, by_task=Counting(), orders=[chosen.order])
    text = outputs.texts["advice"]
    assert f"{passes['race']:,} for the race" in text
    assert f"{passes['confirm']:,} to confirm" in text


@pytest.mark.parametrize("racers", [3, 5, 8])
def test_the_best_proposals_race(racers):
    """The first choice of each profile before any second one."""
    rng = np.random.default_rng(4)
    costs = {name: StepCosts(rng.exponential(size=(9, 10))) for name in ("one", "two", "three")}
    proposals = propose(sampler(Expected(), Confidence()), 3, costs, 9)
    kept = shortlist(proposals, costs, racers)
    assert len(kept) == min(racers, len(proposals))
    for cost in costs.values():
        best = min(proposals, key=lambda one: cost.score(one.counts or ()))
        assert best in kept


def test_a_sampler_is_read_as_it_was_written(tmp_path):
    """With everything that is not a default; and nothing of somebody else's is built."""
    chosen = Sampler(
        TabulatedSchedule([0.0, 0.25, 1.0]), LargestRemainder(), MinimumDistance(3),
        TokenSampler(temperature=0.5, top_k=4, banned=(1, 2)), Blocks(8), Guidance(1.5), 2, tempered_evidence=True,
    )  # fmt: skip
    path = tmp_path / "advice.json"
    path.write_text(to_json({"2": {"sampler": configuration(chosen)}}))
    assert advised_sampler(str(path), 2) == chosen
    with pytest.raises(UserError, match="is for 2 steps, not for 3"):
        advised_sampler(str(path), 3)
    with pytest.raises(UserError, match="has no beta schedule for 2 steps"):
        advised_schedule(str(path), 2)
    for part, value in (
        ("order", 5),
        ("schedule", {"_target_": "mdm_lightning.sampling.order.Random"}),
        ("steps", True),
        ("tempered_evidence", "no"),
        ("tokens", {"_target_": "mdm_lightning.sampling.tokens.TokenSampler", "banned": ["a"]}),
        ("blocks", {"_target_": "mdm_lightning.sampling.blocks.Blocks", "length": 2.5}),
    ):
        path.write_text(to_json({"2": {"sampler": configuration(chosen) | {part: value}}}))
        with pytest.raises(UserError, match=rf"advice\.json.*{part}"):
            advised_sampler(str(path), 2)
    hostile = configuration(chosen) | {"order": {"_target_": "os.system", "command": "touch touched"}}
    for content in (hostile, hostile["order"], {"_target_": "mdm_lightning.sampling.order.Random"}, [], None):
        path.write_text(to_json({"2": {"sampler": content}}))
        with pytest.raises(UserError, match=r"advice\.json"):
            advised_sampler(str(path), 2)


def test_advice_names_its_model(tmp_path, caplog):
    """That of another model is warned of; an older file says that it does not know."""
    caplog.set_level("INFO")
    _, outputs, _ = run(Expected())
    path = tmp_path / "advice.json"
    path.write_text(outputs.files["advice.json"])
    warn_of_another_model(str(path), "mine", "abc")
    assert not caplog.messages
    warn_of_another_model(str(path), "mine", "def")
    assert "was found for another model" in caplog.messages[-1]
    path.write_text(json.dumps({"2": {"beta": [1, 1]}}))
    warn_of_another_model(str(path), "mine", "def")
    assert "does not say which model" in caplog.messages[-1]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_check_needs_other_sequences(tmp_path):
    chosen = Sampler(LinearSchedule(), Expected(), Confidence(), TokenSampler(temperature=0.0))
    with pytest.raises(UserError, match=r"needs other validation sequences than the 40 .* has 10 left"):
        checked_run(task_subject({"aaa": 1.0, "bbb": 1.0}, problems=50), chosen)
    _, outputs, _ = run(Expected(), Entropy())
    (tmp_path / "advice.json").write_text(outputs.files["advice.json"])
    with pytest.raises(UserError, match="has no sampler for 2 steps: it was not checked"):
        advised_sampler(str(tmp_path / "advice.json"), 2)


def test_proposals_are_told_apart_by_their_counts():
    """Equal counts are one candidate, whoever proposes them; the first is linear with the sampler's own count."""
    costs = StepCosts(np.random.default_rng(0).exponential(size=(7, 8)))
    chosen = sampler(LargestRemainder(), Confidence())
    proposals = propose(chosen, 3, {"one": costs, "another": costs}, 7)
    assert proposals[0].sampler.schedule == LinearSchedule()
    assert proposals[0].counts == (3, 2, 2)
    keys = [tuple(m for m in proposal.counts or () if m) for proposal in proposals]
    assert len(set(keys)) == len(keys)
    assert any(proposal.sources == ("one", "another") for proposal in proposals)
    best = tuple(m for m in costs.best_counts(3).tolist() if m)
    assert best in keys
    for proposal in proposals:
        count = proposal.sampler.count
        assert isinstance(count, FixedCount)
        assert tuple(count.counts(proposal.sampler.schedule, 3, 7).tolist()) == proposal.counts
    in_blocks = propose(chosen, 7, {"one": costs}, 7, blocks=2)
    assert all(len(proposal.counts or ()) == 3 and proposal.sampler.steps == 7 for proposal in in_blocks)
