"""Loss profiles to test with."""

import numpy as np

from mdm_lightning.diffusion.profile.loss_profile import LossProfile


def smooth_profile(n: int, knots: int, seed: int = 0) -> LossProfile:
    """A profile like a language model's, measured on 200 sequences that differ in difficulty."""
    rng = np.random.default_rng(seed)
    counts = np.unique(np.round((n - 1) * np.sin(np.linspace(0, np.pi / 2, knots)) ** 2).astype(int))
    mean = 0.8 + 6 * np.exp(-2.5 * counts / n) + 2 * np.exp(-counts / 8)
    return LossProfile.from_scores(
        counts, mean + rng.normal(size=(200, 1)) + 0.3 * rng.normal(size=(200, len(counts))), n
    )


def random_profile(n: int, seed: int) -> LossProfile:
    """A profile of no shape at all."""
    return LossProfile(n, np.arange(n), np.random.default_rng(seed).uniform(0, 3, n))
