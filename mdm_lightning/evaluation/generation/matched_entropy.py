"""Generative perplexity where it can be compared: at equal entropy.

A low temperature makes text that any scorer finds likely, and that says the same thing over and over. So a sampler is a
curve, the *generative frontier* (Pynadath, Shi & Zhang, 2604.02718): the scorer's nats per token against the entropy of
the text as the temperature changes. The divergence of generated text from the scorer is the first minus the entropy of
whole texts, for which that of a text's tokens stands in. So of two curves the lower one at an entropy is better.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.statistics import bootstrap_interval, sign_flip_test

NATS = "scorer_nats_per_token"
ENTROPY = "unigram_entropy"
POINT = "point"  # the setting that tells a curve's points apart


class Curve(NamedTuple):
    """The same s texts generated at t temperatures (or values of top-p), with the same noise."""

    points: Sequence[str]
    entropy: Float64[np.ndarray, "t s"]
    """Of each text's tokens, in nats."""
    nats: Float64[np.ndarray, "t s"]
    """What the scorer makes of each text, in nats per token."""

    @classmethod
    def of_rows(cls, rows: Iterable[Row]) -> "Curve | None":
        """The curve of the rows of an ``evaluation=frontier``; None where they hold none."""
        scores = {(row.metric, str(row.settings[POINT])): row.scores for row in rows if POINT in row.settings}
        points = list(dict.fromkeys(point for _, point in scores))
        entropy, nats = ([scores.get((metric, point)) for point in points] for metric in (ENTROPY, NATS))
        if not points or None in entropy or None in nats:
            return None
        return cls(points, np.array(entropy, dtype=np.float64), np.array(nats, dtype=np.float64))

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest mean entropy."""
        means = self.entropy.mean(1)
        return float(means.min()), float(means.max())

    def at(self, entropy: float) -> Float64[np.ndarray, " s"] | None:
        """Each text's share of the curve's height at an entropy, between its neighbouring points; their mean is that
        height, and their spread gives its standard error. None where the curve does not reach the entropy.

        The height is a smooth function of four means, two entropies and two scores. A text's share is its part of it to
        first order (delta method): what it adds to the scores, less the slope times what it adds to the entropies.
        """
        means = self.entropy.mean(1)
        order = np.argsort(means, kind="stable")
        means, heights = means[order], self.nats.mean(1)[order]
        if not means[0] <= entropy <= means[-1]:
            return None
        right = max(int(np.searchsorted(means, entropy)), min(1, len(means) - 1))
        left = max(right - 1, 0)
        distance = means[right] - means[left]
        weight = (entropy - means[left]) / distance if distance > 0 else 0.0
        slope = (heights[right] - heights[left]) / distance if distance > 0 else 0.0

        def between(values: Float64[np.ndarray, "t s"]) -> Float64[np.ndarray, " s"]:
            return (1 - weight) * values[order[left]] + weight * values[order[right]]

        return between(self.nats) - slope * (between(self.entropy) - entropy)


class Matched(NamedTuple):
    """Two curves at an entropy that both reach."""

    entropy: float
    difference: float
    """Nats per token of the first curve minus those of the second: below zero the first is better."""
    low: float
    """End of a 95 % interval, as is ``high``; BCa bootstrap over the texts, which are paired."""
    high: float
    p: float
    """Two-sided, of a permutation test; not corrected for comparisons at several entropies."""


def compare(first: Curve, second: Curve, entropies: Sequence[float]) -> list[Matched]:
    """Two curves of equally many texts at those of the entropies that both reach."""
    found = []
    for entropy in entropies:
        a, b = first.at(entropy), second.at(entropy)
        if a is None or b is None:
            continue
        paired = (a - b)[None]
        interval = bootstrap_interval(paired)
        numbers = paired.mean(), interval.low[0], interval.high[0], sign_flip_test(paired)[0]
        found.append(Matched(entropy, *map(float, numbers)))
    return found


def shared(curves: Sequence[Curve], number: int = 5) -> list[float]:
    """Evenly spaced entropies that all curves reach, from the least to the largest; none if there are none."""
    lows, highs = zip(*(curve.reach for curve in curves), strict=True)
    low, high = max(lows), min(highs)
    return np.linspace(low, high, number).tolist() if low < high else []
