"""The metrics against plain sums."""

import math

import pytest
import torch
import torchmetrics

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.diffusion.masking import CountMasking, MaskedBatch, mark_answers
from mdm_lightning.diffusion.objective import Nelbo, bits_per_byte, nelbo, perplexity
from mdm_lightning.diffusion.timesteps import StratifiedTimes, UniformTimes
from mdm_lightning.training.metrics import (
    AnswerNelboMetric,
    CountProfileMetric,
    NelboMetric,
    ProfileMetric,
)
from tests.diffusion.tables import uniform_denoiser


def sample(b: int, seed: int) -> tuple[Nelbo, MaskedBatch]:
    """Estimates of sequences of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 200, (b,), generator=generator)
    masks = (torch.rand(b, generator=generator) * (lengths + 1)).floor()
    alpha = torch.rand(b, generator=generator)
    weight = 1 + torch.rand(b, generator=generator)
    nats = masks * (1 + 8 * torch.rand(b, generator=generator))
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = MaskedBatch(torch.zeros(b, 200, dtype=torch.int64), nothing, nothing, alpha, weight[:0], lengths)
    return Nelbo(weight * nats, nats, masks), batch


def test_all_nats_over_all_positions():
    samples = [sample(b, seed) for seed, b in enumerate((1, 7, 30))]
    metric = NelboMetric()
    for estimate, batch in samples:
        metric.update(estimate, batch)
    nats = sum(x for estimate, _ in samples for x in estimate.per_sequence.tolist())
    positions = sum(n for _, batch in samples for n in batch.lengths.tolist())
    assert float(metric.compute()) == pytest.approx(nats / positions, rel=1e-12)
    mean_of_means = sum(float(e.per_sequence.sum() / b.lengths.sum()) for e, b in samples) / len(samples)
    assert float(metric.compute()) != pytest.approx(mean_of_means, rel=1e-3)


END = 3
ANSWERS = torch.tensor([[1, 2, 0, END, END, END], [END, END, 1, 0, 2, 1], [1, END, END, END, END, END]])
PROMPTS = torch.tensor([2, 3, 0])


def test_answers_end_with_their_first_eos():
    """One in the prompt ends nothing; one that never comes leaves the whole response."""
    maskable = torch.arange(6) >= PROMPTS[:, None]
    metric, everything = AnswerNelboMetric(), NelboMetric()
    batch = CountMasking(StratifiedTimes())(ANSWERS, maskable, 4, torch.Generator().manual_seed(1))
    batch = mark_answers(batch, ANSWERS, maskable, END)
    assert torch.equal(batch.lengths, 6 - PROMPTS)
    torch.testing.assert_close(batch.answer_lengths, torch.tensor([2, 3, 2]))
    estimate = nelbo(uniform_denoiser(6, 4), batch)
    metric.update(estimate, batch)
    everything.update(estimate, batch)
    counted = 0.0
    for row, weight in zip(batch.rows.tolist(), batch.weight.tolist(), strict=True):
        sequence, place = divmod(row, 6)
        begin = int(PROMPTS[sequence])
        ended = END in ANSWERS[sequence, begin:place].tolist()
        counted += 0.0 if ended else weight * math.log(4)
    assert float(metric.compute()) == pytest.approx(counted / 7, rel=1e-5)
    assert float(everything.compute()) == pytest.approx(math.log(4), rel=1e-5)  # every n / k of n positions


def test_sums_keep_float64_precision():
    """A nat added to ten billion is not lost, as it would be in float32."""
    metric = NelboMetric()
    estimate, batch = sample(1, 0)
    metric.update(estimate._replace(per_sequence=torch.tensor([1e10])), batch._replace(lengths=torch.tensor([10**10])))
    for _ in range(100):
        metric.update(estimate._replace(per_sequence=torch.ones(1)), batch._replace(lengths=torch.zeros(1).long()))
    assert metric.compute().dtype == torch.float64
    assert float(metric.compute() * 1e10) == pytest.approx(1e10 + 100, rel=1e-15)


def test_sums_keep_their_precision_inside_a_module_in_another():
    """A LightningModule in true bfloat16 converts what it holds; 8 significant bits would not even count to 257."""
    holder = torch.nn.ModuleList([NelboMetric(), ProfileMetric(1)]).to(torch.bfloat16)
    for metric in holder:
        for seed in range(5):
            metric.update(*sample(20, seed))
    nats, profile = NelboMetric(), ProfileMetric(1)
    for seed in range(5):
        nats.update(*sample(20, seed))
        profile.update(*sample(20, seed))
    assert float(holder[0].compute()) == pytest.approx(float(nats.compute()), rel=1e-12)
    assert float(holder[1].compute()) == pytest.approx(float(profile.compute()), rel=1e-12)


def naive_profile(samples: list[tuple[Nelbo, MaskedBatch]], bins: int) -> list[float]:
    nats, masks = [0.0] * bins, [0.0] * bins
    for estimate, batch in samples:
        for i, alpha in enumerate(batch.alpha.tolist()):
            place = min(int(alpha * bins), bins - 1)
            nats[place] += float(estimate.cross_entropy[i])
            masks[place] += float(estimate.masks[i])
    return [x / m if m else math.nan for x, m in zip(nats, masks, strict=True)]


@pytest.mark.parametrize("bins", [2, 10, 64])
def test_profile_against_loops(bins):
    samples = [sample(b, seed) for seed, b in enumerate((1, 7, 30))]
    metric = ProfileMetric(bins)
    for estimate, batch in samples:
        metric.update(estimate, batch)
    assert metric.compute().tolist() == pytest.approx(naive_profile(samples, bins), rel=1e-12, nan_ok=True)


def test_profile_ends():
    estimate, batch = sample(2, 0)
    metric = ProfileMetric(4)
    metric.update(
        estimate._replace(cross_entropy=torch.tensor([6.0, 5.0]), masks=torch.tensor([3.0, 1.0])),
        batch._replace(alpha=torch.tensor([0.0, 1.0])),
    )
    assert metric.compute().tolist() == pytest.approx([2, math.nan, math.nan, 5], nan_ok=True)


@pytest.mark.parametrize("n", [5, 10, 20, 50, 100, 128, 1000])
def test_profile_bins_of_counts(n):
    """k masks of n belong to the interval [i, i + 1) / 10 with i = floor(10 (n - k) / n), in exact arithmetic."""

    class Flat(Denoiser):
        def forward(self, tokens, alpha=None, padding=None):
            return torch.zeros(*tokens.shape, 2)

        def head(self, hidden):
            return hidden

    class EveryCount(UniformTimes):
        def __call__(self, uniform, micro_batch, micro_batches):
            return (torch.arange(len(uniform), dtype=torch.float64) + 0.5) / len(uniform)

    tokens = torch.zeros(n, n, dtype=torch.int64)
    batch = CountMasking(EveryCount())(tokens, tokens == 0, 2, torch.Generator().manual_seed(0))
    metric = ProfileMetric(10)
    metric.update(nelbo(Flat(2, n), batch), batch)
    expected = [0] * 10
    for k in range(1, n + 1):
        expected[10 * (n - k) // n] += k
    assert metric.masks.tolist() == expected


@pytest.mark.parametrize("metric", [NelboMetric, ProfileMetric])
def test_two_processes_equal_one(metric):
    """States are summed over processes: the sum of two halves is the whole."""
    samples = [sample(8, seed) for seed in range(6)]
    whole, left, right = metric(), metric(), metric()
    for i, (estimate, batch) in enumerate(samples):
        whole.update(estimate, batch)
        (left if i % 2 else right).update(estimate, batch)
    assert set(whole._reductions.values()) == {torchmetrics.utilities.dim_zero_sum}
    left.merge_state(right)
    torch.testing.assert_close(left.compute(), whole.compute(), rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("metric", [NelboMetric, ProfileMetric])
def test_reset(metric):
    fresh, used = metric(), metric()
    used.update(*sample(5, 0))
    used.reset()
    for each in (fresh, used):
        each.update(*sample(5, 1))
    torch.testing.assert_close(used.compute(), fresh.compute(), rtol=0, atol=0, equal_nan=True)


def test_gradients_are_not_kept():
    estimate, batch = sample(5, 0)
    with_graph = Nelbo(*(x.requires_grad_() * 1 for x in estimate if x is not None))
    for metric in (NelboMetric(), ProfileMetric()):
        metric.update(with_graph, batch)
        assert not metric.compute().requires_grad


def test_profile_of_a_uniform_denoiser_is_log_d():
    estimate, batch = sample(200, 0)
    metric = ProfileMetric(5)
    metric.update(estimate._replace(cross_entropy=estimate.masks * math.log(7)), batch)
    assert metric.compute().tolist() == pytest.approx([math.log(7)] * 5)


def even_sample(b: int, n: int, seed: int) -> tuple[Nelbo, MaskedBatch]:
    """Estimates of sequences with n maskable positions, some of which have no mask."""
    estimate, batch = sample(b, seed)
    masks = torch.randint(0, n + 1, (b,), generator=torch.Generator().manual_seed(seed)).float()
    return Nelbo(estimate.per_sequence, masks * estimate.cross_entropy, masks), batch._replace(
        lengths=torch.full((b,), n)
    )


@pytest.mark.parametrize("n", [1, 7, 200])
def test_profile_by_counts_against_loops(n):
    metric, expected = CountProfileMetric(200), [[0.0] * 3 for _ in range(n)]
    for seed, b in enumerate((3, 40)):
        estimate, batch = even_sample(b, n, seed)
        metric.update(estimate, batch)
        for nats, masks in zip(estimate.cross_entropy.tolist(), estimate.masks.tolist(), strict=True):
            if masks:
                for power in range(3):
                    expected[n - int(masks)][power] += (nats / masks) ** power
    torch.testing.assert_close(metric.compute(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_profile_by_counts_needs_equal_lengths():
    """Padding, where nothing is maskable, does not count as a length."""
    metric = CountProfileMetric(200)
    assert metric.compute() is None
    estimate, batch = even_sample(9, 7, 0)
    metric.update(estimate, batch)
    before = metric.compute()
    nothing = torch.zeros(9)
    metric.update(Nelbo(nothing, nothing, nothing), batch._replace(lengths=nothing.long()))
    assert torch.equal(metric.compute(), before)
    metric.update(*even_sample(9, 8, 0))
    assert metric.compute() is None


def test_profile_by_counts_of_two_processes_and_in_another_precision():
    whole, left, right = CountProfileMetric(7), CountProfileMetric(7), CountProfileMetric(7)
    torch.nn.ModuleList([left, right]).to(torch.bfloat16)
    for seed in range(6):
        for metric in (whole, left if seed % 2 else right):
            metric.update(*even_sample(300, 7, seed))
    left.merge_state(right)
    torch.testing.assert_close(left.compute(), whole.compute(), rtol=1e-12, atol=0)


def test_centres():
    assert ProfileMetric(4).centres() == [0.125, 0.375, 0.625, 0.875]


def test_perplexity():
    assert perplexity(math.log(23.2)) == pytest.approx(23.2)
    assert perplexity(0) == 1
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_bits_per_byte():
    """A byte-level model that knows nothing costs eight bits per byte; tokens of four bytes share their cost."""
    assert bits_per_byte(math.log(256), 1) == pytest.approx(8)
    assert bits_per_byte(math.log(2), 4) == pytest.approx(0.25)
