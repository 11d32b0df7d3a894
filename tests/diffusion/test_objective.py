"""Distributions of the NELBO estimator: what does not depend on the schedule, and exact values by enumeration."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking, MaskedBatch, apply_mask
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    LinearSchedule,
    MaskSchedule,
    PolynomialSchedule,
    SineSchedule,
    SquaredSineSchedule,
    TabulatedSchedule,
)
from mdm_lightning.diffusion.timesteps import StratifiedTimes, UniformTimes

from .tables import (
    SCHEDULES,
    TABULATED,
    all_masks,
    conditionals_of,
    exact_nelbo,
    name_of,
    random_denoiser,
    uniform_denoiser,
    z_score,
)

N, D = 4, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_dit(length: int = N, vocab_size: int = D) -> DiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(vocab_size, length, hidden_size=16, depth=2, heads=2, cond_dim=8)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def masked_batch(x: Tensor, masked: Tensor, alpha: Tensor, weight: Tensor, mask_id: int) -> MaskedBatch:
    return apply_mask(x, masked, torch.ones_like(masked), mask_id, alpha, weight)


def draw(process, x: Tensor, copies: int, mask_id: int, seed: int = 0) -> MaskedBatch:
    tokens = x.expand(copies, -1)
    return process(tokens, torch.ones_like(tokens, dtype=torch.bool), mask_id, generator(seed))


def expected_nelbo(denoiser: Denoiser, schedule: MaskSchedule, x: Tensor) -> float:
    """The estimator's exact expectation: all masks enumerated, time integrated by double-exponential quadrature."""
    knots = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 1.0]) if schedule in TABULATED else torch.tensor([0.0, 1.0])
    step = 0.1
    u = torch.arange(-3.4, 3.4, step, dtype=torch.float64)
    share, width = torch.special.expit(math.pi * u.sinh()), knots.diff()[:, None]
    t = (knots[:-1, None] + width * share).flatten()
    dt = (width * step * math.pi * u.cosh() * share * torch.special.expit(-math.pi * u.sinh())).flatten()
    alpha, share, weight = schedule.alpha_t(t), schedule.masked_t(t), schedule.weight_t(t)
    # Where t rounds to 1 or 1 - alpha to 0 nothing is masked; what is cut off there is below 1e-9.
    use = (t < 1) & (share > 0) & torch.isfinite(weight)
    alpha, share, weight, dt = alpha[use], share[use], weight[use], dt[use]
    masks = all_masks(len(x))
    count = masks.sum(1)
    probability = alpha[:, None] ** (len(x) - count) * share[:, None] ** count
    times, patterns = len(alpha), len(masks)
    batch = masked_batch(
        x.expand(times * patterns, -1),
        masks.repeat(times, 1),
        alpha.repeat_interleave(patterns),
        torch.ones(times * patterns, 1),  # the weight may leave float32's range where its probability is tiny
        denoiser.mask_id,
    )
    nats = nelbo(denoiser, batch).per_sequence.detach().double().view(times, patterns)
    return float((dt * weight * (probability * nats).sum(1)).sum())


X = torch.tensor([2, 0, 0, 1])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
@pytest.mark.parametrize("make", [random_denoiser, random_dit])
def test_expectation_is_the_exact_nelbo_under_every_schedule(schedule, make):
    denoiser = make(N, D)
    assert expected_nelbo(denoiser, schedule, X) == pytest.approx(exact_nelbo(denoiser, X), rel=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_uniform_denoiser_costs_n_log_d_under_every_schedule(schedule):
    assert expected_nelbo(uniform_denoiser(N, D), schedule, X) == pytest.approx(N * math.log(D), rel=1e-6)


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
def test_uniform_denoiser_costs_n_log_d_in_every_count_draw(times):
    denoiser = uniform_denoiser(N, D)
    estimate = nelbo(denoiser, draw(CountMasking(times), X, 500, denoiser.mask_id))
    torch.testing.assert_close(estimate.per_sequence, torch.full((500,), N * math.log(D)))


FINITE_VARIANCE = [
    # The estimator's variance is finite where 1 - alpha vanishes faster than (1 - t) and dalpha grows slower
    # than t^(-1/2); elsewhere a z-score means nothing, and the enumeration above must do.
    SineSchedule(),
    SquaredSineSchedule(),
    PolynomialSchedule(2.0),
    BetaSchedule(1.0, 1.0),
    BetaSchedule(0.7, 0.9),
]


@pytest.mark.parametrize(
    "process",
    [
        *(IndependentMasking(schedule, UniformTimes()) for schedule in FINITE_VARIANCE),
        CountMasking(UniformTimes()),
    ],
    ids=lambda p: repr(p).split(" object")[0],
)
@pytest.mark.parametrize("make", [uniform_denoiser, random_denoiser])
def test_draws_agree_with_the_exact_nelbo(process, make):
    """20,000 draws within five standard errors: fails by chance once in 1.7 million for each case."""
    denoiser = make(N, D)
    with torch.no_grad():
        estimate = nelbo(denoiser, draw(process, X, 20_000, denoiser.mask_id))
    if make is uniform_denoiser and isinstance(process, CountMasking):
        return  # no variance at all: tested exactly above
    assert abs(z_score(estimate.per_sequence, exact_nelbo(denoiser, X))) < 5


@pytest.mark.parametrize("process", [IndependentMasking(SquaredSineSchedule(), StratifiedTimes()),
                                     CountMasking(StratifiedTimes())])  # fmt: skip
def test_stratified_batches_agree_with_the_exact_nelbo(process):
    """150 batches of 32: their means within five standard errors."""
    denoiser = random_denoiser(N, D)
    with torch.no_grad():
        means = torch.stack(
            [nelbo(denoiser, draw(process, X, 32, denoiser.mask_id, seed)).per_sequence.mean() for seed in range(150)]
        )
    assert abs(z_score(means, exact_nelbo(denoiser, X))) < 5


def small_distribution() -> dict[tuple[int, ...], float]:
    states = list(itertools.product(range(3), repeat=3))
    weights = np.random.default_rng(0).dirichlet(np.full(len(states), 0.5))
    return dict(zip(states, weights.tolist(), strict=True))


def test_nelbo_of_exact_conditionals_is_minus_log_p():
    """The chain rule holds in every order, so for the true conditionals the bound is an equality, for every x."""
    distribution = small_distribution()
    denoiser = conditionals_of(distribution, 3, 3)
    for x, p in distribution.items():
        assert exact_nelbo(denoiser, torch.tensor(x)) == pytest.approx(-math.log(p), rel=1e-5)


def test_no_denoiser_beats_the_entropy():
    distribution = small_distribution()
    entropy = -sum(p * math.log(p) for p in distribution.values())
    denoiser = conditionals_of(distribution, 3, 3)
    truth = denoiser.table.detach().clone()
    for seed in range(2):
        denoiser.table.data = truth + 0.1 * torch.randn(truth.shape, generator=generator(seed))
        bound = sum(p * exact_nelbo(denoiser, torch.tensor(x)) for x, p in distribution.items())
        assert bound > entropy + 1e-3


@torch.no_grad()
def test_bounds_the_likelihood_of_generation_in_random_order():
    """p(x) of revealing one token at a time in uniformly random order, by enumeration of the 4! orders."""
    denoiser = random_denoiser(N, D, seed=5)
    for x in itertools.islice(itertools.product(range(D), repeat=N), 0, None, 7):
        total = 0.0
        for order in itertools.permutations(range(N)):
            state, log_p = [denoiser.mask_id] * N, 0.0
            for i in order:
                log_p += float(denoiser(torch.tensor([state]))[0, i].log_softmax(0)[x[i]])
                state[i] = x[i]
            total += math.exp(log_p) / math.factorial(N)
        assert exact_nelbo(denoiser, torch.tensor(x)) > -math.log(total)


class Recorder(Denoiser):
    """Hidden states given from outside; remembers what the head was asked."""

    def __init__(self, hidden: Tensor, vocab_size: int) -> None:
        super().__init__(vocab_size, hidden.shape[1])
        self.hidden = hidden
        self.seen: list[Tensor] = []
        self.alphas: list[Tensor] = []

    def forward(self, tokens: Tensor, alpha: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        assert alpha is not None
        self.alphas.append(alpha)
        return self.hidden

    def head(self, hidden: Tensor) -> Tensor:
        self.seen.append(hidden)
        return hidden[:, : self.vocab_size]


def recorded() -> tuple[Recorder, MaskedBatch]:
    hidden = torch.randn(6, 10, 8, generator=generator(1)).requires_grad_()
    denoiser = Recorder(hidden, vocab_size=5)
    tokens = torch.randint(5, (6, 10), generator=generator(2))
    maskable = torch.rand(6, 10, generator=generator(3)) < 0.7
    process = IndependentMasking(LinearSchedule(), StratifiedTimes())
    return denoiser, process(tokens, maskable, denoiser.mask_id, generator(4))


def test_head_sees_exactly_the_masked_rows():
    denoiser, batch = recorded()
    nelbo(denoiser, batch)
    masked = batch.tokens == denoiser.mask_id
    assert torch.equal(torch.cat(denoiser.seen), denoiser.hidden[masked])
    assert [alpha.tolist() for alpha in denoiser.alphas] == [batch.alpha.tolist()]


@torch.no_grad()
def test_sums_by_sequence():
    """Against plain loops over sequences and positions."""
    denoiser, batch = recorded()
    batch = batch._replace(weight=0.5 + torch.rand(len(batch.rows), generator=generator(2)))
    estimate = nelbo(denoiser, batch)
    targets, weights = iter(batch.targets), iter(batch.weight)
    for i, row in enumerate(batch.tokens):
        nats, weighted = 0.0, 0.0
        for j, token in enumerate(row):
            if token == denoiser.mask_id:
                here = -float(denoiser.hidden[i, j, :5].log_softmax(0)[next(targets)])
                nats, weighted = nats + here, weighted + here * float(next(weights))
        assert float(estimate.cross_entropy[i]) == pytest.approx(nats, rel=1e-5)
        assert float(estimate.per_sequence[i]) == pytest.approx(weighted, rel=1e-5)
        assert estimate.masks[i] == (row == denoiser.mask_id).sum()


@torch.no_grad()
def test_weights_of_blocks_with_times_of_their_own():
    """Block diffusion: each half of a sequence has its own mask and its own weight, and counts as it would alone."""
    denoiser, x = uniform_denoiser(N, D), X.expand(5, -1)
    first = torch.arange(N) < N // 2
    everything, masked = torch.ones_like(x, dtype=torch.bool), torch.rand(5, N, generator=generator(3)) < 0.6
    weights = 1 + torch.rand(5, 2, generator=generator(4), dtype=torch.float64)
    alpha = torch.full((5,), 0.4, dtype=torch.float64)
    by_position = torch.where(first, weights[:, :1], weights[:, 1:])
    both = nelbo(denoiser, apply_mask(x, masked, everything, denoiser.mask_id, alpha, by_position))
    halves = [
        nelbo(denoiser, apply_mask(x, masked & half, everything, denoiser.mask_id, alpha, weight[:, None]))
        for half, weight in ((first, weights[:, 0]), (~first, weights[:, 1]))
    ]
    torch.testing.assert_close(both.per_sequence, halves[0].per_sequence + halves[1].per_sequence)
    equal = nelbo(denoiser, apply_mask(x, masked, everything, denoiser.mask_id, alpha, torch.full((5, N), 2.5)))
    torch.testing.assert_close(equal.per_sequence, 2.5 * equal.cross_entropy)


def test_gradient_flows_from_masked_rows_only():
    denoiser, batch = recorded()
    nelbo(denoiser, batch).per_sequence.sum().backward()
    assert denoiser.hidden.grad is not None
    reached = (denoiser.hidden.grad != 0).any(-1)
    assert torch.equal(reached, batch.tokens == denoiser.mask_id)


@pytest.mark.parametrize("process", [IndependentMasking(SineSchedule(), UniformTimes()), CountMasking(UniformTimes())])
def test_batch_without_masks(process):
    denoiser = random_dit()
    tokens = torch.zeros(2, N, dtype=torch.int64)
    batch = process(tokens, torch.zeros_like(tokens, dtype=torch.bool), denoiser.mask_id, generator())
    estimate = nelbo(denoiser, batch)
    assert estimate.per_sequence.tolist() == estimate.cross_entropy.tolist() == estimate.masks.tolist() == [0, 0]
    estimate.per_sequence.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in denoiser.parameters())


@dataclass(frozen=True)
class FixedTimes(UniformTimes):
    t: Tensor

    def __call__(self, uniform: Tensor, micro_batch: int, micro_batches: int) -> Tensor:
        return self.t


@pytest.mark.parametrize(
    "schedule",
    [
        *SCHEDULES,
        BetaSchedule(1.0, 50.0),
        BetaSchedule(50.0, 1.0),
        TabulatedSchedule([0, 0.9, 0.99, 1]),  # arrives with slope zero
        TabulatedSchedule([0, 0.5, 0.5, 1]),
        TabulatedSchedule([0, 0, 1]),
        TabulatedSchedule([0, 1, 1]),
    ],
    ids=name_of,
)
def test_sequence_without_masks_costs_exactly_zero(schedule):
    """However large the weight has grown towards t = 1; one NaN would poison the whole batch."""
    t = 1 - 2.0 ** -torch.arange(1, 54, dtype=torch.float64)
    denoiser = uniform_denoiser(N, D)
    batch = IndependentMasking(schedule, FixedTimes(t))(
        X.expand(len(t), -1), torch.ones(len(t), N, dtype=torch.bool), denoiser.mask_id, generator()
    )
    estimate = nelbo(denoiser, batch)
    assert torch.isfinite(estimate.per_sequence).all()
    assert (estimate.per_sequence[estimate.masks == 0] == 0).all()
