"""Published samplers as functions: each a count, an order and a way to draw tokens. ``conf/sampler/`` has the same.

Every preset takes the mask schedule, linear by default; the step budget K of calls that name none (None: a step per
masked position); and how tokens are drawn. All can be changed afterwards by ``dataclasses.replace``.
"""

from mdm_lightning.diffusion.schedule import LinearSchedule, MaskSchedule
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import (
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    LargestRemainder,
)
from mdm_lightning.sampling.order import Confidence, Entropy, LeftToRight, Random, RevealOrder
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.sizes import DilatedSizes, ShareOfRemaining
from mdm_lightning.sampling.spaced import Dilated, Spaced
from mdm_lightning.sampling.tokens import TokenSampler

_LINEAR = LinearSchedule()
_ENTROPY = Entropy()
_CATEGORICAL = TokenSampler()
_GREEDY = TokenSampler(temperature=0.0)
_NUCLEUS = TokenSampler(top_p=0.9)


def mdlm_ancestral(
    schedule: MaskSchedule = _LINEAR, *, steps: int | None = 64, tokens: TokenSampler = _CATEGORICAL
) -> Sampler:
    """MDLM's ancestral sampler (Sahoo et al., 2024): every masked position is revealed independently."""
    return Sampler(schedule, Binomial(), Random(), tokens, steps=steps)


def expected_random(
    schedule: MaskSchedule = _LINEAR, *, steps: int | None = 64, tokens: TokenSampler = _CATEGORICAL
) -> Sampler:
    """As many positions as the schedule expects, in random order."""
    return Sampler(schedule, Expected(), Random(), tokens, steps=steps)


def expected_confidence(
    schedule: MaskSchedule = _LINEAR, *, steps: int | None = 64, tokens: TokenSampler = _GREEDY
) -> Sampler:
    """As many positions as the schedule expects, the most confident first: how a schedule is tried out on LLaDA."""
    return Sampler(schedule, Expected(), Confidence(), tokens, steps=steps)


def llada(
    schedule: MaskSchedule = _LINEAR,
    *,
    steps: int | None = 64,
    tokens: TokenSampler = _GREEDY,
    block_length: int | None = 32,
) -> Sampler:
    """LLaDA's sampler (Nie et al., 2025): equal shares per step, the most confident first, block by block.

    Args:
        block_length: masked positions per block; None for a single block.
    """
    return Sampler(schedule, LargestRemainder(), Confidence(), tokens, Blocks(block_length), steps=steps)


def dream(*, steps: int | None = 64, tokens: TokenSampler = _GREEDY, order: RevealOrder = _ENTROPY) -> Sampler:
    """Dream's sampler (Ye et al., 2025): a share of what is still masked, by entropy after temperature and truncation.

    Its README suggests ``TokenSampler(temperature=0.2, top_p=0.95)``. Of its other algorithms, ``maskgit_plus`` is the
    order Confidence, ``topk_margin`` Margin, and ``origin`` ``mdlm_ancestral()`` up to the end of the grid of times.
    Its ``alg_temp`` is GumbelTopK of one of them.

    Args:
        order: which positions.
    """
    return Sampler(_LINEAR, ShareOfRemaining(), order, tokens, steps=steps, tempered_evidence=True)


def fast_dllm(
    threshold: float = 0.9,
    *,
    steps: int | None = None,
    tokens: TokenSampler = _GREEDY,
    block_length: int | None = 32,
) -> Sampler:
    """Fast-dLLM's parallel decoding (Wu et al., 2025): every position predicted with enough confidence, block by block.

    Args:
        threshold: probability of the drawn token from which on it is revealed.
        block_length: masked positions per block; None for a single block.
    """
    return Sampler(_LINEAR, ConfidenceThreshold(threshold), Confidence(), tokens, Blocks(block_length), steps=steps)


def maskgit(
    schedule: MaskSchedule = _LINEAR, *, steps: int | None = 64, tokens: TokenSampler = _CATEGORICAL
) -> Sampler:
    """MaskGIT's sampler (Chang et al., 2022), the most confident first under noise; its own schedule is the cosine."""
    return Sampler(schedule, Expected(), Confidence(noise=4.5), tokens, steps=steps)


def left_to_right(
    schedule: MaskSchedule = _LINEAR, *, steps: int | None = 64, tokens: TokenSampler = _CATEGORICAL
) -> Sampler:
    """From left to right; with ``steps=None`` one position at a time."""
    return Sampler(schedule, Expected(), LeftToRight(), tokens, steps=steps)


def spaced(schedule: MaskSchedule = _LINEAR, *, steps: int | None = 64, tokens: TokenSampler = _CATEGORICAL) -> Sampler:
    """As many positions as the schedule expects, those of a step far from each other."""
    return Sampler(schedule, Expected(), Spaced(), tokens, steps=steps)


def dus(*, tokens: TokenSampler = _GREEDY, block_length: int | None = 32) -> Sampler:
    """DUS (Luxembourg et al., 2025): dilated groups in about log2 of the block length steps, block by block.

    Args:
        block_length: masked positions per block; None for a single block.
    """
    return Sampler(_LINEAR, DilatedSizes(), Dilated(), tokens, Blocks(block_length))


def first_hitting(*, tokens: TokenSampler = _CATEGORICAL) -> Sampler:
    """One position per forward pass, in random order: the limit of infinitely many ancestral steps (Zheng et al.,
    2024)."""
    return Sampler(_LINEAR, FirstHitting(), Random(), tokens)


def eb(gamma: float = 0.1, *, steps: int | None = None, tokens: TokenSampler = _CATEGORICAL) -> Sampler:
    """EB-sampler (Ben-Hamu et al., 2025): as many positions as a bound on their joint entropy allows.

    Args:
        gamma: the bound, in nats.
    """
    return Sampler(_LINEAR, EntropyBounded(gamma), Entropy(), tokens, steps=steps)


def remdm(
    schedule: MaskSchedule = _LINEAR, *, eta: float = 0.008, steps: int | None = 64, tokens: TokenSampler = _NUCLEUS
) -> Sampler:
    """ReMDM (Wang et al., 2025) with a cap ``eta`` on the remasking probability per step."""
    return Sampler(schedule, RemaskCapped(eta), Random(), tokens, steps=steps)


def remdm_rescale(
    schedule: MaskSchedule = _LINEAR, *, eta: float = 0.015, steps: int | None = 64, tokens: TokenSampler = _NUCLEUS
) -> Sampler:
    """ReMDM (Wang et al., 2025) with the share ``eta`` of the largest admissible remasking probability."""
    return Sampler(schedule, RemaskRescaled(eta), Random(), tokens, steps=steps)
