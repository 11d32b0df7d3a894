"""Key-value caching: where it is exact the results are those without it, and elsewhere what is computed is what is
stated, for every count, order and canvas."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from mdm_lightning.denoiser.attention import AttentionPattern, BlockCausal, Causal
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.key_value_cache import KeyValueCache
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.transformer import Transformer
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.cache import CachePolicy, DualCache, ExactCache, NoCache, PrefixCache, RefreshedCache
from mdm_lightning.sampling.count import Binomial, ConfidenceThreshold, Expected, FirstHitting, LargestRemainder
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, LeftToRight, Margin, Random
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import walk

from .toys import TinyDenoiser, masks, noise

D, LENGTH = 11, 20
GREEDY = TokenSampler(temperature=0.0)


class Counting(Llama):
    """Counts the positions that it is given, without padding."""

    computed = 0
    calls = 0

    def forward(self, tokens, alpha=None, padding=None, **options):
        self.computed += tokens.numel() - (0 if padding is None else int(padding.sum()))
        self.calls += 1
        return super().forward(tokens, alpha, padding, **options)


def llama(attention: AttentionPattern | None = None, **options) -> Counting:
    return random_weights(
        lambda: Counting(
            D, LENGTH, rows=D + 1, mask_row=D, hidden_size=16, depth=2, heads=2, key_value_heads=1, mlp_size=32,
            rope_theta=1e4, norm_eps=1e-6, attention=attention, **options,
        )
    )  # fmt: skip


def shifted(attention: AttentionPattern | None = None) -> Counting:
    return llama(attention, shifted=True)


def dit(attention: AttentionPattern | None = None) -> DiT:
    return random_weights(lambda: DiT(D, LENGTH, hidden_size=16, depth=2, heads=2, cond_dim=8, attention=attention))


T = TypeVar("T", bound=Transformer)


def random_weights(make: Callable[[], T]) -> T:
    """In float64, and so large that every position's prediction depends on all that it reads."""
    torch.manual_seed(0)
    model = make().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def prompts(*lengths: int, suffix: int = 0) -> Tensor:
    canvas = torch.full((len(lengths), LENGTH), D)
    for row, length in enumerate(lengths):
        canvas[row, :length] = torch.arange(length) % D
        canvas[row, LENGTH - suffix :] = 3
    return canvas


def padding(*lengths: int, left: bool = False) -> Tensor:
    """Of sequences that are so much shorter than the canvas."""
    hole = torch.arange(LENGTH)[None] >= LENGTH - torch.tensor(lengths)[:, None]
    return hole.flip(1) if left else hole


PLAIN = Sampler(LinearSchedule(), LargestRemainder(), Confidence(), GREEDY, Blocks(4), steps=9)
SAMPLERS = {
    "llada": PLAIN,
    "fast_dllm": replace(PLAIN, count=ConfidenceThreshold(0.6), steps=None),
    "drawn": replace(PLAIN, order=Margin(), tokens=TokenSampler(), blocks=Blocks(5)),
    "ancestral": replace(PLAIN, count=Binomial(), order=Random(), tokens=TokenSampler(), blocks=Blocks()),
    "left to right": replace(PLAIN, count=Expected(), order=LeftToRight()),
    "first hitting": replace(PLAIN, count=FirstHitting(), order=Random(), blocks=Blocks(7)),
    "masks again": replace(PLAIN, count=RemaskCapped(0.4), order=Random(), tokens=TokenSampler(), blocks=Blocks()),
    "guided": replace(PLAIN, guidance=Guidance(0.8)),
}
CANVASES = {
    "one length": (prompts(3, 3, 3), None),
    "prompts of different lengths": (prompts(1, 4, 9), None),
    "infilling": (prompts(2, 5, 0, suffix=3), None),
    "padding on the right": (prompts(6, 2, 4), padding(0, 5, 9)),
    "padding on the left": (prompts(6, 2, 10), padding(0, 5, 3, left=True)),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
each_canvas = pytest.mark.parametrize("canvas", CANVASES.values(), ids=CANVASES.keys())


@each_sampler
@each_canvas
@pytest.mark.parametrize("policy", [PrefixCache(every=1), DualCache(every=1)])
def test_refreshed_at_every_step_it_is_as_none(sampler, canvas, policy):
    model, (tokens, hole) = llama(), canvas
    plain = sampler(model, tokens, noise(3), padding=hole)
    cached = replace(sampler, cache=policy)(model, tokens, noise(3), padding=hole)
    assert torch.equal(cached.tokens, plain.tokens)
    assert torch.equal(cached.revealed_at, plain.revealed_at)
    assert torch.equal(cached.sequence_nfe, plain.sequence_nfe)
    assert torch.equal(cached.sequence_positions, plain.sequence_positions)


@each_sampler
@each_canvas
@pytest.mark.parametrize(("make", "pattern"), [(llama, BlockCausal(4)), (shifted, BlockCausal(3)), (dit, Causal())])
def test_exact_is_exact(sampler, canvas, pattern, make):
    """Whatever the sampler's blocks and the model's, and it computes less."""
    model, (tokens, hole) = make(pattern), canvas
    plain = sampler(model, tokens, noise(3), padding=hole)
    cached = replace(sampler, cache=ExactCache())(model, tokens, noise(3), padding=hole)
    assert torch.equal(cached.tokens, plain.tokens)
    assert torch.equal(cached.revealed_at, plain.revealed_at)
    assert (cached.sequence_positions < plain.sequence_positions).all()


@pytest.mark.parametrize("pattern", [BlockCausal(4), Causal()], ids=str)
def test_likelihoods_are_equal_to_the_last_digits(pattern):
    """A walk sees every probability that a sampler sees."""
    model, sampler = llama(pattern), replace(SAMPLERS["drawn"], steps=8)
    sequences = torch.randint(D, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    generated = torch.arange(LENGTH).expand(4, -1) >= torch.tensor([[0], [3], [6], [7]])
    plain = walk(sampler, model, sequences, generated, noise(4))
    cached = walk(replace(sampler, cache=ExactCache()), model, sequences, generated, noise(4))
    torch.testing.assert_close(cached.nats, plain.nats, rtol=1e-5, atol=1e-6)  # rotary angles are of float32
    assert torch.equal(cached.revealed_at, plain.revealed_at)
    stale = walk(replace(sampler, cache=DualCache()), llama(), sequences, generated, noise(4))
    fresh = walk(sampler, llama(), sequences, generated, noise(4))
    assert (stale.nats - fresh.nats).abs().max() > 1e-2  # with an approximation they are not


def test_exact_computes_a_prompt_once():
    """Prompt and first block, the block's other steps, then each block with the one before, which is final by then."""
    model, sampler = llama(BlockCausal(4)), replace(PLAIN, steps=9, cache=ExactCache())
    samples = sampler(model, prompts(8), noise(1))
    assert samples.sequence_positions.tolist() == [(12 + 2 * 4) + (8 + 2 * 4) + (8 + 2 * 4)]
    assert samples.sequence_positions.sum() == model.computed


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    ("policy", "per_block"),
    [
        (NoCache(), [3 * 20, 3 * 20, 3 * 20]),
        (PrefixCache(), [20 + 2 * 12, 20 + 2 * 8, 20 + 2 * 4]),
        (DualCache(), [20 + 2 * 4, 20 + 2 * 4, 20 + 2 * 4]),
        (DualCache(every=2), [20 + 4 + 20, 20 + 4 + 20, 20 + 4 + 20]),
        (PrefixCache(every=2), [20 + 12 + 20, 20 + 8 + 20, 20 + 4 + 20]),
    ],
)
def test_what_is_computed_is_what_is_stated(policy, per_block, passes):
    model, sampler = llama(), replace(PLAIN, steps=9, cache=policy, guidance=Guidance(0.5 * (passes - 1)))
    samples = sampler(model, prompts(8), noise(1))
    assert samples.sequence_positions.tolist() == [passes * sum(per_block)]
    assert samples.sequence_positions.sum() == model.computed
    assert samples.sequence_nfe.tolist() == [9 * passes]
    assert samples.nfe == model.calls * passes


def plain_fast_dllm(model: Llama, prompt: list[int], block: int, threshold: float, dual: bool) -> list[int]:
    """Fast-dLLM's procedure with its caches: one sequence, block by block, position by position."""
    x = torch.tensor([prompt + [D] * (LENGTH - len(prompt))])
    everywhere = torch.arange(LENGTH)[None]
    for start in range(len(prompt), LENGTH, block):
        end, cache = min(start + block, LENGTH), KeyValueCache(LENGTH)
        hidden = model(x, cache=cache)[0, start:end]
        while D in x[0, start:end]:
            sure, drawn = model.head(hidden).softmax(-1).max(-1)
            sure[x[0, start:end] != D] = -1
            chosen = (sure >= threshold).nonzero()[:, 0].tolist() or [int(sure.argmax())]
            for place in chosen:
                x[0, start + place] = drawn[place]
            here = slice(start, end if dual else LENGTH)
            hidden = model(x[:, here], positions=everywhere[:, here], cache=cache)[0, : end - start]
    return x[0].tolist()


@pytest.mark.parametrize("dual", [False, True])
def test_fast_dllm(dual):
    model = llama()
    sampler = replace(SAMPLERS["fast_dllm"], count=ConfidenceThreshold(0.5))
    cached = replace(sampler, cache=DualCache() if dual else PrefixCache())
    differs = []
    for length in (0, 3, 8):
        prompt = [(7 * i + length) % D for i in range(length)]
        canvas = prompts(length)
        canvas[0, :length] = torch.tensor(prompt)
        with torch.no_grad():
            expected = plain_fast_dllm(model, prompt, 4, 0.5, dual)
        assert cached(model, canvas, noise(1)).tokens[0].tolist() == expected
        differs.append(sampler(model, canvas, noise(1)).tokens[0].tolist() != expected)
    assert any(differs)  # it is an approximation


@each_sampler
@each_canvas
@pytest.mark.parametrize("policy", [PrefixCache(), DualCache(every=3)])
def test_company_in_a_batch_changes_nothing(sampler, canvas, policy):
    """Sequences are at different blocks at one time, some have finished, and each computes what it would alone."""
    model, (tokens, hole) = llama(), canvas
    cached = replace(sampler, cache=policy)
    together = cached(model, tokens, noise(3), padding=hole)
    for row in range(3):
        outside = None if hole is None else hole[row : row + 1]
        alone = cached(model, tokens[row : row + 1], SequenceNoise(0, [row]), padding=outside)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.sequence_positions[0] == together.sequence_positions[row]


def test_the_front_of_a_batch_waits_for_nobody():
    """Those that begin a block are evaluated apart: nobody computes the whole canvas because of them."""
    model = llama()
    sampler = replace(SAMPLERS["fast_dllm"], count=ConfidenceThreshold(0.35), cache=DualCache())
    samples = sampler(model, prompts(2, 5, 8, 11), noise(4))
    assert model.computed == samples.sequence_positions.sum()
    assert samples.nfe > samples.sequence_nfe.max()


def test_a_policy_of_ones_own():
    @dataclass(frozen=True)
    class Neighbours(RefreshedCache):
        """The block, and the two positions around it."""

        def between(self, block, current):
            inside = block == current[:, None]
            return inside | inside.roll(1, dims=1) | inside.roll(-1, dims=1)

    samples = replace(PLAIN, steps=6, cache=Neighbours())(llama(), prompts(8), noise(1))
    assert samples.sequence_positions.tolist() == [(20 + 6) + (20 + 6) + (20 + 6 - 1 + 1)]


@pytest.mark.parametrize("policy", [PrefixCache(), DualCache(), ExactCache()])
def test_denoisers_that_have_none(policy: CachePolicy):
    sampler = replace(PLAIN, cache=policy)
    with pytest.raises(UserError, match="TinyDenoiser gives no keys and values that could be kept; choose cache=none"):
        sampler(TinyDenoiser(), masks(1, 8, TinyDenoiser()), noise(1))
    timed = DiT(D, LENGTH, hidden_size=16, depth=1, heads=2, cond_dim=8, time_conditioning=True)
    with pytest.raises(UserError, match="this DiT is conditioned on time"):
        sampler(timed, prompts(8), noise(1))


def test_exact_wants_attention_to_the_left():
    with pytest.raises(UserError, match="choose cache=prefix or cache=dual"):
        replace(PLAIN, cache=ExactCache())(llama(), prompts(8), noise(1))


@pytest.mark.parametrize("every", [0, -2])
def test_a_refresh_comes_again(every):
    with pytest.raises(ValueError, match="every must be at least 1"):
        DualCache(every=every)


def test_nothing_to_generate():
    full = prompts(LENGTH)
    samples = replace(PLAIN, cache=DualCache())(llama(), full, noise(1))
    assert torch.equal(samples.tokens, full)
    assert samples.sequence_positions.tolist() == [0]
