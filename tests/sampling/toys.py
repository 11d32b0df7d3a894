"""Distributions small enough to enumerate, denoisers to look into, and plain implementations to compare with."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.sampling.noise import SequenceNoise

State = tuple[int, ...]
Distribution = dict[State, float]

EXTREMES = [[0] * 5, [1] * 5]
BALANCED = [list(x) for x in itertools.product((0, 1), repeat=5) if sum(x) in (2, 3)]


def random_distribution(length: int, vocab_size: int, seed: int) -> Distribution:
    """A distribution with full support and strong dependence between positions."""
    states = list(itertools.product(range(vocab_size), repeat=length))
    return dict(zip(states, np.random.default_rng(seed).dirichlet(np.full(len(states), 0.5)).tolist(), strict=True))


def exact(distribution: Distribution) -> ExactDenoiser:
    return ExactDenoiser([list(state) for state in distribution], list(distribution.values()))


def masks(batch: int, length: int, denoiser: Denoiser) -> Tensor:
    return torch.full((batch, length), denoiser.mask_id)


def noise(batch: int, seed: int = 0) -> SequenceNoise:
    return SequenceNoise(seed, range(batch))


def conditionals(denoiser: Denoiser, states: Sequence[State]) -> dict[State, np.ndarray]:
    """Probabilities (l, d) of the denoiser in each state."""
    with torch.no_grad():
        hidden = denoiser(torch.tensor(states))
        logits = denoiser.head(hidden.flatten(0, 1)).double().unflatten(0, hidden.shape[:2])
    return dict(zip(states, logits.softmax(-1).numpy(), strict=True))


def reverse_step(distribution: Distribution, denoiser: Denoiser, reveal: float, remask: float = 0.0) -> Distribution:
    """The distribution after every masked position was revealed with probability ``reveal`` and every revealed one
    masked again with probability ``remask``, all independently."""
    mask = denoiser.mask_id
    table = conditionals(denoiser, list(distribution))
    following: Distribution = {}
    for state, mass in distribution.items():
        choices = []
        for token, probability in zip(state, table[state], strict=True):
            if token != mask:
                choices.append([(token, 1 - remask), (mask, remask)])
            else:
                choices.append([(mask, 1 - reveal), *((x, reveal * p) for x, p in enumerate(probability))])
        for combination in itertools.product(*choices):
            weight = mass * float(np.prod([p for _, p in combination]))
            if weight > 0:
                reached = tuple(x for x, _ in combination)
                following[reached] = following.get(reached, 0) + weight
    return following


def ancestral_distribution(start: State, denoiser: Denoiser, alphas: Sequence[float]) -> Distribution:
    """Distribution of the state at the last grid point under the independent reverse step."""
    distribution = {start: 1.0}
    for now, following in itertools.pairwise(alphas):
        distribution = reverse_step(distribution, denoiser, (following - now) / (1 - now))
    return distribution


def p_value(samples: Sequence[State], distribution: Mapping[State, float]) -> float:
    """Chi-square test that the samples follow the distribution; states expected fewer than five times are pooled."""
    counts: dict[State, int] = {}
    for sample in samples:
        counts[sample] = counts.get(sample, 0) + 1
    if any(distribution.get(state, 0) == 0 for state in counts):
        return 0.0
    expected = {state: probability * len(samples) for state, probability in distribution.items()}
    common = [state for state, e in expected.items() if e >= 5]
    observed = np.array([counts.get(state, 0) for state in common], dtype=float)
    predicted = np.array([expected[state] for state in common])
    rest = len(samples) - predicted.sum()
    if rest > 1e-6 * len(samples):
        observed, predicted = np.append(observed, len(samples) - observed.sum()), np.append(predicted, rest)
    return float(stats.chisquare(observed, predicted * observed.sum() / predicted.sum()).pvalue)


def as_states(tokens: Tensor) -> list[State]:
    return [tuple(row) for row in tokens.tolist()]


class TinyDenoiser(Denoiser):
    """A random network in which every position's prediction depends on the whole context."""

    def __init__(self, vocab_size: int = 7, length: int = 16, width: int = 12, seed: int = 0, sharpness: float = 3.0):
        super().__init__(vocab_size, length)
        generator = torch.Generator().manual_seed(seed)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.embedding, self.place = parameter(vocab_size + 1, width), parameter(length, width)
        self.mix, self.out = parameter(width, width), parameter(width, vocab_size)
        self.sharpness = sharpness

    def forward(self, tokens, alpha=None, padding=None):
        x = self.embedding[tokens] * self.place[: tokens.shape[1]]
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)
        return torch.tanh(x.sum(1, keepdim=True) @ self.mix / tokens.shape[1] ** 0.5 + self.place[: tokens.shape[1]])

    def head(self, hidden):
        return hidden @ self.out * self.sharpness / hidden.shape[-1] ** 0.5


class Recorder(Denoiser):
    """Passes everything on, and remembers what it was asked."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.vocab_size, inner.length)
        self.inner = inner
        self.inputs: list[Tensor] = []
        self.alphas: list[Tensor] = []
        self.paddings: list[Tensor | None] = []
        self.head_rows: list[int] = []

    def forward(self, tokens, alpha=None, padding=None):
        self.inputs.append(tokens.clone())
        self.alphas.append(alpha.clone())
        self.paddings.append(padding)
        return self.inner(tokens, alpha, padding)

    def head(self, hidden):
        self.head_rows.append(len(hidden))
        return self.inner.head(hidden)


FLAWS = {
    "NaN": lambda logits: logits.index_fill(1, torch.tensor([1]), math.nan),
    "+inf": lambda logits: logits.index_fill(1, torch.tensor([0]), math.inf),
    "nothing finite": lambda logits: torch.full_like(logits, -math.inf),
}
"""What logits may look like that are no distribution."""


class Broken(Denoiser):
    """Another denoiser, whose logits have a flaw at one position of the sequences that begin with a certain token."""

    def __init__(self, inner: Denoiser, flaw: str, position: int, beginning: int) -> None:
        super().__init__(inner.vocab_size, inner.length)
        self.inner, self.flaw, self.position, self.beginning = inner, FLAWS[flaw], position, beginning

    def forward(self, tokens, alpha=None, padding=None):
        hidden = self.inner(tokens, alpha, padding)
        mark = torch.zeros_like(hidden[:, :, :1])
        mark[tokens[:, 0] == self.beginning, self.position] = 1
        return torch.cat([hidden, mark], dim=2)

    def head(self, hidden):
        logits = self.inner.head(hidden[:, :-1])
        return torch.where(hidden[:, -1:] == 1, self.flaw(logits), logits)
