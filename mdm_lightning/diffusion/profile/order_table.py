"""What steps cost along a static order, sequence by sequence: exact for every budget and every counts.

Where the order does not depend on content (random, left to right, spaced), the first r positions are the same however
many steps they took. So one forward pass per r gives C(r, m), the cross-entropy of the next m positions, for all m at
once, and the best counts by dynamic programming are the best there are for these sequences.
With positions in random order the expectation of C(r, m) is m h_r, the loss profile's.
"""

import numpy as np
from numpy.typing import ArrayLike

from mdm_lightning.diffusion.profile.anchored_costs import AnchoredCosts


class OrderTable(AnchoredCosts):
    """Cross-entropies of s sequences along an order, measured at a few numbers r of revealed positions (anchors).

    Args:
        anchors: numbers r, increasing from 0 to n - 1.
        losses: entry (s, a, i) is the cross-entropy, in nats, of the i-th position of sequence s in its order when the
            first ``anchors[a]`` are revealed. Entries of positions that are revealed are not read.

    Raises:
        ValueError: the numbers do not describe a table, or there are fewer than two sequences.
    """

    def __init__(self, anchors: ArrayLike, losses: ArrayLike) -> None:
        numbers, measured = np.array(anchors, dtype=np.int64), np.array(losses, dtype=np.float64)
        if measured.ndim != 3:
            raise ValueError(f"OrderTable: losses must have three axes, got shape {measured.shape}")
        n = measured.shape[2]
        if numbers.shape != measured.shape[1:2] or not numbers.size or numbers[-1] != n - 1:
            raise ValueError(f"OrderTable: anchors must increase from 0 to n - 1 = {n - 1}")
        curves = np.zeros((*measured.shape[:2], n + 1))
        for place, revealed in enumerate(numbers.clip(0, n)):
            ahead = measured[:, place, revealed:]
            if not np.isfinite(ahead).all():
                raise ValueError("OrderTable: losses must be finite")
            curves[:, place, 1 : 1 + ahead.shape[1]] = ahead.cumsum(1)
        super().__init__(numbers, curves)
