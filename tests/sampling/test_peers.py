"""Greedy samplers of the field, written out plainly, give the same tokens."""

import math

import pytest
import torch

from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import ConfidenceThreshold, EntropyBounded, LargestRemainder
from mdm_lightning.sampling.evidence import Candidates, entropy
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Entropy, GumbelTopK, Margin
from mdm_lightning.sampling.presets import dream
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

from .toys import TinyDenoiser, noise

GREEDY = TokenSampler(temperature=0.0)


def predictions(denoiser: TinyDenoiser, x: list[int], prompt: int, scale: float) -> list[list[float]]:
    """Probabilities (l, d), guided as LLaDA does."""
    conditional = denoiser.head(denoiser(torch.tensor([x])))[0]
    unconditional = denoiser.head(denoiser(torch.tensor([[denoiser.mask_id] * prompt + x[prompt:]])))[0]
    return (unconditional + (scale + 1) * (conditional - unconditional)).softmax(-1).tolist()


def plain_llada(denoiser: TinyDenoiser, prompt: list[int], length: int, block: int, steps: int, scale: float):
    """Nie et al., 2025, algorithm 5 at temperature 0: one sequence, position by position."""
    x = prompt + [denoiser.mask_id] * length
    per_block = steps // (length // block)
    for number in range(length // block):
        positions = range(len(prompt) + number * block, len(prompt) + (number + 1) * block)
        for step in range(per_block):
            probability = predictions(denoiser, x, len(prompt), scale)
            masked = [i for i in positions if x[i] == denoiser.mask_id]
            best = sorted(masked, key=lambda i: -max(probability[i]))
            for i in best[: block // per_block + (step < block % per_block)]:
                x[i] = probability[i].index(max(probability[i]))
    return x


def batch(denoiser: TinyDenoiser, prompt: list[int], length: int) -> torch.Tensor:
    return torch.tensor([prompt + [denoiser.mask_id] * length])


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize(("block", "steps"), [(12, 12), (12, 5), (4, 6), (4, 12), (6, 8), (3, 4)])
def test_llada(block, steps, scale):
    sampler = Sampler(LinearSchedule(), LargestRemainder(), Confidence(), GREEDY, Blocks(block), Guidance(scale))
    for seed in range(4):
        denoiser, prompt = TinyDenoiser(seed=seed), [1, 4, 2]
        samples = sampler(denoiser, batch(denoiser, prompt, 12), noise(1), steps=steps)
        with torch.no_grad():
            assert samples.tokens[0].tolist() == plain_llada(denoiser, prompt, 12, block, steps, scale)
        assert samples.nfe == steps * (1 if scale == 0 else 2)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_fast_dllm(threshold):
    sampler = Sampler(LinearSchedule(), ConfidenceThreshold(threshold), Confidence(), GREEDY, Blocks(4))
    for seed in range(4):
        denoiser, passes = TinyDenoiser(seed=seed), 0
        samples = sampler(denoiser, batch(denoiser, [1, 2], 12), noise(1))
        x = [1, 2] + [denoiser.mask_id] * 12
        for start in (2, 6, 10):
            while masked := [i for i in range(start, start + 4) if x[i] == denoiser.mask_id]:
                with torch.no_grad():
                    probability = predictions(denoiser, x, 0, 0.0)
                surest = max(masked, key=lambda i: max(probability[i]))
                for i in masked:
                    if i == surest or max(probability[i]) >= threshold:
                        x[i] = probability[i].index(max(probability[i]))
                passes += 1
        assert samples.tokens[0].tolist() == x
        assert samples.nfe == passes


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_entropy_bounded(gamma):
    sampler = Sampler(LinearSchedule(), EntropyBounded(gamma), Entropy(), GREEDY)
    for seed in range(4):
        denoiser, passes = TinyDenoiser(seed=seed), 0
        samples = sampler(denoiser, batch(denoiser, [3], 12), noise(1))
        x = [3] + [denoiser.mask_id] * 12
        while masked := [i for i, token in enumerate(x) if token == denoiser.mask_id]:
            with torch.no_grad():
                probability = predictions(denoiser, x, 0, 0.0)
            entropy = {i: -math.fsum(p * math.log(p) for p in probability[i] if p > 0) for i in masked}
            total, largest = 0.0, 0.0
            for i in sorted(masked, key=entropy.__getitem__):
                total, largest = total + entropy[i], max(largest, entropy[i])
                if total - largest > gamma + 1e-12:
                    break
                x[i] = probability[i].index(max(probability[i]))
            passes += 1
        assert samples.tokens[0].tolist() == x
        assert samples.nfe == passes


def kept(probability: list[float], top_p: float) -> list[float]:
    """Without the least probable tokens, as long as those in front of them hold more than ``top_p``; renormalised."""
    before, left = 0.0, [0.0] * len(probability)
    for token in sorted(range(len(probability)), key=lambda v: -probability[v]):
        if before <= top_p:
            left[token] = probability[token]
        before += probability[token]
    return [p / math.fsum(left) for p in left]


def certainty(order: Confidence | Margin | Entropy, probability: list[float]) -> float:
    first, second = sorted(probability)[:-3:-1]
    if isinstance(order, Entropy):
        return math.fsum(p * math.log(p) for p in probability if p > 0)
    return first - second if isinstance(order, Margin) else first


@pytest.mark.parametrize("order", [Confidence(), Margin(), Entropy()])
@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("steps", [1, 4, 5, 12, 20])
def test_dream(order, top_p, steps):
    """Its counts on a grid of times from 1 to 1e-3, and certainty of what truncation leaves (Ye et al., 2025)."""
    sampler = dream(steps=steps, order=order, tokens=TokenSampler(0.0, top_p=top_p))
    times = torch.linspace(1, 1e-3, steps + 1)
    for seed in range(4):
        denoiser = TinyDenoiser(seed=seed)
        x = [1, 2, 3] + [denoiser.mask_id] * 12
        for step in range(steps):
            masked = [i for i, token in enumerate(x) if token == denoiser.mask_id]
            with torch.no_grad():
                left = {i: kept(p, top_p) for i, p in enumerate(predictions(denoiser, x, 0, 0.0)) if i in masked}
            share = 1 - times[step + 1] / times[step] if step < steps - 1 else torch.tensor(1.0)
            for i in sorted(masked, key=lambda i: -certainty(order, left[i]))[: int(len(masked) * share)]:
                x[i] = left[i].index(max(left[i]))
        samples = sampler(denoiser, batch(denoiser, [1, 2, 3], 12), noise(1))
        assert samples.tokens[0].tolist() == x
        assert samples.nfe <= steps


@pytest.mark.parametrize("order", [Confidence(), Margin(), Entropy()])
@pytest.mark.parametrize("alg_temp", [0.05, 0.4, 3.0])
def test_dream_with_alg_temp(order, alg_temp):
    """Its multinomial draw without replacement, fed with the numbers u: positions by probability^(1 / E), E exponential
    with E = -log u, of softmax(certainty / alg_temp) (Efraimidis and Spirakis, 2006)."""
    steps, times = 5, torch.linspace(1, 1e-3, 6)
    sampler = dream(steps=steps, order=GumbelTopK(order, alg_temp), tokens=GREEDY)
    differ = 0
    for seed in range(6):
        denoiser, x = TinyDenoiser(seed=seed), [1, 2, 3] + [0] * 12
        x[3:] = [denoiser.mask_id] * 12
        u = SequenceNoise(seed, [0]).reveal_times(15)[0].tolist()
        for step in range(steps):
            masked = [i for i, token in enumerate(x) if token == denoiser.mask_id]
            with torch.no_grad():
                left = predictions(denoiser, x, 0, 0.0)
            weight = {i: math.exp(certainty(order, left[i]) / alg_temp) for i in masked}
            share = 1 - times[step + 1] / times[step] if step < steps - 1 else torch.tensor(1.0)
            for i in sorted(masked, key=lambda i: -math.log(u[i]) / weight[i])[: int(len(masked) * share)]:
                x[i] = left[i].index(max(left[i]))
        canvas = batch(denoiser, [1, 2, 3], 12)
        assert sampler(denoiser, canvas, SequenceNoise(seed, [0])).tokens[0].tolist() == x
        differ += dream(steps=steps, order=order)(denoiser, canvas, SequenceNoise(seed, [0])).tokens[0].tolist() != x
    assert differ > 0 or alg_temp < 0.1


def test_the_draw_is_a_softmax_of_priorities():
    """The first of three positions, over many sequences."""
    logits = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = (-entropy(logits) / 0.3).softmax(0)
    u = SequenceNoise(0, range(20_000)).reveal_times(3)
    first = torch.stack([GumbelTopK(Entropy(), 0.3).priority(candidates(logits, row)) for row in u]).argmax(1)
    assert torch.allclose(first.bincount(minlength=3) / len(u), expected.float(), atol=0.015)


def candidates(logits: torch.Tensor, times: torch.Tensor) -> Candidates:
    zeros = torch.zeros(len(logits), dtype=torch.int64)
    return Candidates(logits, zeros, times, zeros, times, zeros)


@pytest.mark.parametrize("order", [Confidence(), Margin(), Entropy()])
def test_dream_is_as_sure_as_its_tempered_predictions(order):
    """Above temperature 0: that of a denoiser with tempered logits that is sampled at temperature 1."""
    plain = dream(steps=6, order=order, tokens=TokenSampler(0.4))
    for seed in range(4):
        denoiser, sharper = TinyDenoiser(seed=seed), TinyDenoiser(seed=seed, sharpness=3.0 / 0.4)
        canvas = batch(denoiser, [2], 12).repeat(3, 1)
        found = plain(denoiser, canvas, noise(3))
        same = dream(steps=6, order=order, tokens=TokenSampler())(sharper, canvas, noise(3))
        assert torch.equal(found.tokens, same.tokens)
        assert torch.equal(found.revealed_at, same.revealed_at)
