"""The loop: what it touches, what it costs, and what it does not depend on."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, PolynomialSchedule
from mdm_lightning.sampling import source
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import (
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    LargestRemainder,
)
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Entropy, LeftToRight, Margin, Random
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

from .toys import Recorder, TinyDenoiser, masks, noise

ORDERS = [Random(), LeftToRight(), Confidence(), Confidence(2.0), Margin(), Entropy()]
COUNTS = [Binomial(), Expected(), LargestRemainder(), FirstHitting(), EntropyBounded(0.5), ConfidenceThreshold(0.3)]
REMASKING = [RemaskCapped(0.2), RemaskRescaled(0.7)]
PAIRS = [*itertools.product(COUNTS, ORDERS), *((count, Random()) for count in REMASKING)]


def canvas_with_everything(denoiser: TinyDenoiser) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths, a gap, a finished sequence, an empty one, and padding that holds MASK."""
    m = denoiser.mask_id
    canvas = masks(5, 10, denoiser)
    canvas[0, :4] = torch.tensor([1, 2, 3, 4])
    canvas[1, 3:6] = torch.tensor([6, 0, 5])
    canvas[2] = torch.arange(10) % m
    padding = torch.zeros_like(canvas, dtype=torch.bool)
    padding[3, 6:] = True
    padding[4] = True
    return canvas, padding


@pytest.mark.parametrize(("count", "order"), PAIRS)
@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("steps", [4, 25, None])
def test_every_sampler_fills_the_masks_and_nothing_else(count, order, length, steps):
    denoiser = TinyDenoiser()
    canvas, padding = canvas_with_everything(denoiser)
    original, seen = canvas.clone(), [canvas.clone()]
    sampler = Sampler(LinearSchedule(), count, order, blocks=Blocks(length))
    samples = sampler(
        denoiser, canvas, noise(5), steps=steps, padding=padding, on_step=lambda step, x: seen.append(x.clone())
    )
    generated = (original == denoiser.mask_id) & ~padding
    assert torch.equal(canvas, original)
    assert torch.equal(samples.tokens[~generated], original[~generated])
    assert (samples.tokens[generated] < denoiser.vocab_size).all()
    assert torch.equal(samples.tokens, seen[-1])
    assert torch.equal(samples.revealed_at >= 0, generated)
    if count not in REMASKING:
        for before, after in itertools.pairwise(seen):
            assert torch.equal(after[before != denoiser.mask_id], before[before != denoiser.mask_id])
    if steps is not None and not isinstance(count, FirstHitting):
        assert samples.nfe <= steps
        assert int(samples.revealed_at.max()) < steps
    assert samples.sequence_nfe.tolist()[2] == samples.sequence_nfe.tolist()[4] == 0
    assert samples.nfe >= int(samples.sequence_nfe.max())


@pytest.mark.parametrize("order", [Random(), LeftToRight()])
@pytest.mark.parametrize("count", [Binomial(), Expected(), LargestRemainder(), FirstHitting()])
def test_the_head_sees_each_generated_token_once_when_the_order_is_static(count, order):
    denoiser = Recorder(TinyDenoiser())
    canvas, padding = canvas_with_everything(denoiser.inner)
    samples = Sampler(BetaSchedule(0.9, 0.3), count, order)(denoiser, canvas, noise(5), steps=30, padding=padding)
    assert sum(denoiser.head_rows) == int((samples.revealed_at >= 0).sum()) == 6 + 7 + 6
    assert 0 not in denoiser.head_rows


def test_the_head_sees_each_redrawn_token_once_when_remasking():
    denoiser, shown = Recorder(TinyDenoiser()), []
    sampler = Sampler(LinearSchedule(), RemaskRescaled(0.5), Random())
    canvas = masks(4, 16, denoiser)
    sampler(denoiser, canvas, noise(4), steps=12, on_step=lambda step, x: shown.append(x == denoiser.mask_id))
    revealed = sum(int((before & ~after).sum()) for before, after in itertools.pairwise([canvas > 6, *shown]))
    assert sum(denoiser.head_rows) == revealed > 4 * 16


@pytest.mark.parametrize("order", [Random(), Margin()])
def test_only_sequences_that_reveal_something_enter_the_denoiser(order):
    """So empty steps cost nothing, and finished sequences leave the batch."""
    denoiser = Recorder(TinyDenoiser())
    samples = Sampler(LinearSchedule(), Binomial(), order)(denoiser, masks(3, 5, denoiser), noise(3), steps=40)
    steps = [sorted(set(row.tolist())) for row in samples.revealed_at]
    assert samples.sequence_nfe.tolist() == [len(row) for row in steps]
    assert samples.nfe == len(denoiser.inputs) == len(set().union(*steps)) < 15
    assert sum(len(x) for x in denoiser.inputs) == sum(len(row) for row in steps)


def test_adaptive_counts_drop_finished_sequences():
    denoiser = Recorder(TinyDenoiser())
    canvas = masks(2, 16, denoiser)
    canvas[1, 2:] = 1
    samples = Sampler(LinearSchedule(), EntropyBounded(0.0), Entropy())(denoiser, canvas, noise(2))
    assert samples.sequence_nfe.tolist() == [16, 2]
    assert [len(x) for x in denoiser.inputs] == [2, 2] + [1] * 14


def test_masked_rows_alone_enter_the_head_when_the_order_is_predicted():
    denoiser = Recorder(TinyDenoiser())
    Sampler(LinearSchedule(), Expected(), Margin(), blocks=Blocks(4))(
        denoiser, masks(3, 16, denoiser), noise(3), steps=16
    )
    assert denoiser.head_rows == [3 * masked for _ in range(4) for masked in (4, 3, 2, 1)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [Expected(), EntropyBounded(1.0), Binomial()])
def test_blocks_are_filled_from_left_to_right(count, order):
    denoiser = TinyDenoiser()
    sampler = Sampler(LinearSchedule(), count, order, blocks=Blocks(4))
    at = sampler(denoiser, masks(6, 16, denoiser), noise(6), steps=16).revealed_at.unflatten(1, (4, 4))
    assert (at.amax(2)[:, :-1] < at.amin(2)[:, 1:]).all()


@pytest.mark.parametrize(("count", "order"), PAIRS)
def test_a_sequence_does_not_depend_on_its_batch(count, order):
    denoiser = TinyDenoiser()
    canvas, padding = canvas_with_everything(denoiser)
    sampler = Sampler(LinearSchedule(), count, order, steps=6)
    together = sampler(denoiser, canvas, SequenceNoise(1, [7, 3, 0, 9, 4]), padding=padding)
    for row, index in enumerate([7, 3, 0, 9, 4]):
        alone = sampler(denoiser, canvas[[row]], SequenceNoise(1, [index]), padding=padding[[row]])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(alone.revealed_at[0], together.revealed_at[row])
        assert alone.nfe == together.sequence_nfe[row]


def test_shared_noise_makes_differences_between_schedules_small():
    """Paired, the variance of the difference of two schedules' scores is less than half of that of independent runs."""
    denoiser, steps = TinyDenoiser(sharpness=1.0), 8

    def scores(schedule, seed: int) -> torch.Tensor:
        sampler = Sampler(schedule, Binomial(), Random())
        tokens = sampler(denoiser, masks(400, 16, denoiser), noise(400, seed), steps=steps).tokens
        return (tokens == 0).double().mean(1)

    first, second = LinearSchedule(), PolynomialSchedule(1.3)
    paired = (scores(first, 0) - scores(second, 0)).var()
    independent = (scores(first, 0) - scores(second, 1)).var()
    assert paired < independent / 2


def test_guidance_is_lladas_formula():
    """One step from a prompt, against un + (w + 1) (cond - un)."""
    denoiser = Recorder(TinyDenoiser())
    canvas = masks(2, 8, denoiser)
    canvas[:, :3] = torch.tensor([[1, 2, 3], [4, 5, 6]])
    sampler = Sampler(LinearSchedule(), Expected(), Random(), TokenSampler(temperature=0.0), guidance=Guidance(1.5))
    samples = sampler(denoiser, canvas, noise(2), steps=1)

    def logits(x):
        return denoiser.inner.head(denoiser.inner(x))

    conditional, unconditional = logits(canvas), logits(torch.full_like(canvas, denoiser.mask_id))
    guided = unconditional + 2.5 * (conditional - unconditional)
    assert torch.equal(samples.tokens[:, 3:], guided.argmax(-1)[:, 3:])
    assert not torch.equal(samples.tokens[:, 3:], conditional.argmax(-1)[:, 3:])
    assert samples.nfe == 2
    assert samples.sequence_nfe.tolist() == [2, 2]
    assert denoiser.alphas[0].tolist() == [0.0] * 4


def test_the_denoiser_is_told_the_fraction_that_is_kept_where_no_schedule_says_it():
    denoiser = Recorder(TinyDenoiser())
    canvas, padding = canvas_with_everything(denoiser.inner)
    Sampler(LinearSchedule(), FirstHitting(), Random())(denoiser, canvas, noise(5), steps=3, padding=padding)
    for tokens, alpha, pad in zip(denoiser.inputs, denoiser.alphas, denoiser.paddings, strict=True):
        kept = ((tokens != denoiser.mask_id) & ~pad).sum(1) / (~pad).sum(1)
        torch.testing.assert_close(alpha, kept)
        assert alpha.dtype == torch.float32
    torch.testing.assert_close(denoiser.alphas[0], torch.tensor([0.4, 0.3, 0.0]))


@pytest.mark.parametrize(
    ("count", "order"), [(Binomial(), Random()), (Expected(), Confidence()), (EntropyBounded(), Margin())]
)
def test_the_head_is_chunked_without_changing_the_samples(count, order, monkeypatch):
    denoiser = Recorder(TinyDenoiser())
    sampler = Sampler(LinearSchedule(), count, order, guidance=Guidance(0.5))
    whole = sampler(denoiser, masks(4, 16, denoiser), noise(4), steps=3)
    monkeypatch.setattr(source, "LOGITS_AT_ONCE", 3 * denoiser.vocab_size)
    denoiser.head_rows.clear()
    chunked = sampler(denoiser, masks(4, 16, denoiser), noise(4), steps=3)
    assert torch.equal(whole.tokens, chunked.tokens)
    assert max(denoiser.head_rows) <= 6


def test_samples_may_be_trained_on():
    denoiser = TinyDenoiser()
    samples = Sampler(LinearSchedule(), Expected(), Confidence())(denoiser, masks(2, 4, denoiser), noise(2), steps=2)
    denoiser.cross_entropy(denoiser(samples.tokens).flatten(0, 1), samples.tokens.flatten()).sum().backward()
    assert not samples.tokens.is_inference()


def test_banned_tokens_do_not_appear():
    denoiser = TinyDenoiser()
    for order in ORDERS:
        sampler = Sampler(LinearSchedule(), Expected(), order, TokenSampler(banned=[0, 3]))
        tokens = sampler(denoiser, masks(8, 16, denoiser), noise(8), steps=4).tokens
        assert not torch.isin(tokens, torch.tensor([0, 3])).any()


def test_nothing_to_generate_costs_nothing():
    denoiser = Recorder(TinyDenoiser())
    canvas = torch.ones(2, 4, dtype=torch.int64)
    for count in (Binomial(), EntropyBounded()):
        samples = Sampler(LinearSchedule(), count, Random())(denoiser, canvas, noise(2), steps=4)
        assert torch.equal(samples.tokens, canvas)
        assert samples.nfe == 0
    assert not denoiser.inputs


def test_a_predicted_reveal_of_probability_zero_is_still_a_candidate():
    """Log-probabilities of -inf must not fall behind positions that are no candidates at all."""
    denoiser = TinyDenoiser(sharpness=1e9)
    sampler = Sampler(LinearSchedule(), FirstHitting(), Confidence(1.0), TokenSampler())
    samples = sampler(denoiser, masks(4, 16, denoiser), noise(4))
    assert (samples.tokens < denoiser.mask_id).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"canvas": torch.zeros(2, 4)}, "canvas must be int64"),
        ({"canvas": torch.full((2, 4), 8)}, "outside 0 ... 7"),
        ({"padding": torch.zeros(2, 3, dtype=torch.bool)}, "padding must be bool"),
        ({"noise": noise(3)}, "noise for 3 sequences"),
        ({"steps": 0}, "steps must be a positive integer"),
        ({"steps": 2.5}, "steps must be a positive integer"),
    ],
)
def test_arguments_must_fit(options, message):
    denoiser = TinyDenoiser()
    arguments = {"canvas": masks(2, 4, denoiser), "noise": noise(2), "steps": 3} | options
    with pytest.raises(ValueError, match=message):
        Sampler(LinearSchedule(), Expected(), Random())(denoiser, **arguments)


def test_parts_must_fit():
    with pytest.raises(ValueError, match="works with the order Random only"):
        Sampler(LinearSchedule(), RemaskCapped(), Confidence())
    with pytest.raises(ValueError, match="scale must be finite"):
        Guidance(math.inf)
    with pytest.raises(ValueError, match="noise must be finite and not negative"):
        Confidence(-1.0)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        Sampler(LinearSchedule(), Expected(), Random(), steps=0)


def test_the_budget_of_a_call_goes_before_the_samplers_own():
    denoiser = TinyDenoiser()
    sampler = Sampler(LinearSchedule(), Expected(), Random(), steps=4)
    assert sampler(denoiser, masks(1, 16, denoiser), noise(1)).nfe == 4
    assert sampler(denoiser, masks(1, 16, denoiser), noise(1), steps=2).nfe == 2
    assert Sampler(LinearSchedule(), Expected(), Random())(denoiser, masks(1, 16, denoiser), noise(1)).nfe == 16


@pytest.mark.gpu
@pytest.mark.parametrize("count", [Binomial(), Expected(), RemaskCapped(0.2)])
def test_steps_do_not_wait_for_the_device(count):
    """Between the first step and the last, everything that was planned is there. And the samples are those of the CPU.

    After the last step the sampler waits once, to see whether all tokens were drawn from distributions.
    """
    denoiser, canvas = TinyDenoiser(), masks(4, 16, TinyDenoiser())
    sampler = Sampler(LinearSchedule(), count, Random(), steps=8)
    expected = sampler(denoiser, canvas, noise(4))
    denoiser, canvas = denoiser.cuda(), canvas.cuda()
    sampler(denoiser, canvas, noise(4))

    def forbid(step, x):
        torch.cuda.set_sync_debug_mode("default" if step == sampler.steps - 1 else "error")

    try:
        got = sampler(denoiser, canvas, noise(4), on_step=forbid)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got.tokens.cpu(), expected.tokens)
    assert torch.equal(got.revealed_at.cpu(), expected.revealed_at)


class Waits(TorchDispatchMode):
    """Counts the operations whose results, or their sizes, are known only after waiting for a device."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        self.count += by_mask or name.startswith(self.OPERATIONS)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("count", "order", "most"),
    [(Binomial(), Random(), 0), (RemaskCapped(0.2), Random(), 0), (LargestRemainder(), Confidence(), 3)],
)
def test_how_often_a_step_waits_does_not_depend_on_the_number_of_positions(count, order, most):
    """Never, if everything is planned; else for what is known only then, but not once per position or sequence."""
    sampler = Sampler(LinearSchedule(), count, order, steps=4)
    for batch, length in ((2, 8), (6, 16)):
        denoiser, seen = TinyDenoiser(), []
        with Waits() as waits:
            sampler(
                denoiser,
                masks(batch, length, denoiser),
                noise(batch),
                on_step=lambda *_, seen=seen, waits=waits: seen.append(waits.count),
            )
        assert len(seen) == 4
        assert max(after - before for before, after in itertools.pairwise(seen)) <= most


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("count", "order"),
    [
        (Binomial(), Random()),
        (LargestRemainder(), Confidence()),
        (RemaskRescaled(0.3), Random()),
        (EntropyBounded(1.0), Margin()),
    ],
)
def test_a_network_samples_on_a_gpu_what_it_samples_on_the_cpu(count, order, device):
    """Equal tokens for equal noise, in float32: that rounding moves a quantile to another token is one in millions."""
    denoiser = DiT(300, 24, hidden_size=32, depth=2, heads=2, cond_dim=8).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    sampler = Sampler(LinearSchedule(), count, order, steps=6)
    expected = sampler(denoiser, masks(4, 24, denoiser), noise(4))
    there = sampler(denoiser.to(device), masks(4, 24, denoiser).to(device), noise(4))
    assert torch.equal(there.tokens.cpu(), expected.tokens)
    assert torch.equal(there.revealed_at.cpu(), expected.revealed_at)
    assert there.nfe == expected.nfe
