"""Tables of static orders that are measured: against walks with the same keys, and against the loss profile."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdm_lightning.data.tasks.toy import Distribution
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NotApplicable, Subject
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.sampling.count import Expected, FirstHitting
from mdm_lightning.sampling.order import LeftToRight, Random, StaticOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.spaced import Dilated, MinimumDistance, Spaced
from tests.sampling.toys import TinyDenoiser, random_distribution

from .corpora import Rows, text_subject

LENGTH, SEQUENCES = 9, 12
ORDERS: list[StaticOrder] = [Random(), LeftToRight(), Dilated(), Spaced(), MinimumDistance(3)]


class Holes(Rows):
    """Sequences of which three positions are given, other ones in each."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        batch["maskable"] = batch["maskable"].clone()
        for row, index in enumerate(indices):
            batch["maskable"][row, [index % 3, 3 + index % 2, 8]] = False
        return batch


def subject_of(rows: Rows) -> Subject:
    subject = text_subject(["a"], ["a"])
    data = replace(subject.data, validation=rows, length=rows.tokens.shape[1])
    length = rows.tokens.shape[1]
    return replace(subject, denoiser=TinyDenoiser(3, length, seed=3), length=length, prepare=lambda: data, seed=5)


TOKENS = np.random.default_rng(0).integers(0, 3, size=(SEQUENCES, LENGTH))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("rows", [Rows(TOKENS), Holes(TOKENS)], ids=["all", "holes"])
def test_the_tables_costs_are_those_of_walks(order, rows):
    """Of the same sequences and keys, at every schedule and budget, with one batch or several."""
    subject = subject_of(rows)
    table = OrderCosts(order, batch_size=5).measure(subject)
    n = table.length
    for schedule, steps in ((LinearSchedule(), 3), (BetaSchedule(0.9, 0.3), 2), (BetaSchedule(0.3, 0.9), 4)):
        sampler = Sampler(schedule, Expected(), order, steps=steps)
        (row, *_) = Likelihood(Policy(sampler))(subject)
        assert n * np.array(row.scores) == pytest.approx(table.per_sequence(Expected().counts(schedule, steps, n)))
    (row, *_) = Likelihood(Policy(Sampler(LinearSchedule(), FirstHitting(), order)))(subject)
    assert n * row.value == pytest.approx(table.score([1] * n).value)


def test_random_order_has_the_loss_profile():
    """For an exact denoiser, 4,000 sequences from its distribution: within five standard errors at several budgets."""
    target = random_distribution(4, 3, seed=8)
    law = Distribution([list(x) for x in target], list(target.values()), 3)
    profile = LossProfile.from_distribution(law.sequences, law.probabilities)
    drawn = np.random.default_rng(0).choice(len(target), 4_000, p=list(target.values()))
    subject = subject_of(Rows(np.array(law.sequences)[drawn]))
    subject = replace(subject, denoiser=ExactDenoiser(law.sequences, law.probabilities))
    table = OrderCosts(Random(), sequences=None, batch_size=500).measure(subject)
    for counts in ([4], [1, 3], [2, 2], [1, 1, 1, 1]):
        estimate = table.score(counts)
        assert abs(estimate.value - profile.nelbo_of_counts(counts).value) < 5 * estimate.stderr


def test_few_anchors_are_those_of_a_profile():
    table = OrderCosts(Spaced(), anchors=4).measure(subject_of(Rows(TOKENS)))
    whole = OrderCosts(Spaced()).measure(subject_of(Rows(TOKENS)))
    assert table.anchors.tolist() == [0, 2, 6, 8]
    assert table.per_sequence([2, 4, 3]) == pytest.approx(whole.per_sequence([2, 4, 3]))


def test_sequences_of_unequal_lengths_have_no_table():
    class Unequal(Rows):
        def __getitems__(self, indices):
            batch = super().__getitems__(indices)
            batch["maskable"] = batch["maskable"].clone()
            batch["maskable"][:, 0] = False
            batch["maskable"][0, 1] = indices[0] == 0
            return batch

    with pytest.raises(NotApplicable, match="differ in length"):
        OrderCosts(Spaced(), batch_size=4).measure(subject_of(Unequal(TOKENS)))


def test_impossible_tokens_are_named():
    subject = subject_of(Rows(TOKENS))
    subject.denoiser = ExactDenoiser([[0] * LENGTH, [1] * LENGTH], vocab_size=3)
    with pytest.raises(UserError, match=r"position \d of validation sequence \d+ .* probability zero"):
        OrderCosts(LeftToRight()).measure(subject)
    assert math.isfinite(OrderCosts(LeftToRight()).measure(subject_of(Rows(TOKENS))).score([LENGTH]).value)


def test_the_benchmark_of_orders_prints_what_was_measured(monkeypatch):
    """Its tables, on a toy: differences are those of walks, gaps those of tables."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    orders = importlib.import_module("orders")
    subject = subject_of(Rows(TOKENS))
    lines = orders.compare_orders(orders.measure(subject, SEQUENCES, 0, [2])).splitlines()
    assert len(lines) == 2 + len(orders.SCHEDULES)
    one, other = (
        orders.walked(subject, Sampler(LinearSchedule(), Expected(), order, steps=2), SEQUENCES)
        for order in (orders.ORDERS[1], Random())
    )
    assert f"| {other.mean():.3f} | {orders.difference(one, other)} |" in lines[2]
    text = orders.compare_counts(subject, SEQUENCES, [2])
    table = OrderCosts(Random(), anchors=LENGTH).measure(subject)
    gap = table.gap(Expected().counts(LinearSchedule(), 2, LENGTH))
    assert f"| 2 | Random | {gap.value / LENGTH:.3f} ± {gap.stderr / LENGTH:.3f} |" in text
    assert "AscendingSizes (4 steps)" in text
