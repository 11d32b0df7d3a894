"""Plug-in entropies of a token stream: how much a model must gain over counting."""

import numpy as np

from mdm_lightning.errors import UserError

_CHUNK = 1 << 22


def unigram_entropy(tokens: np.ndarray, *, limit: int = 20_000_000) -> float:
    """Entropy of a token, H(x_i), in nats.

    Args:
        tokens: ids `(n,)`; may be a memory map. At most the first `limit` are used.

    Raises:
        UserError: there are no tokens.
    """
    stream = _stream(tokens, limit, least=1)
    counts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(stream), _CHUNK):
        chunk = np.bincount(stream[start : start + _CHUNK].astype(np.int64), minlength=len(counts))
        chunk[: len(counts)] += counts
        counts = chunk
    return _entropy(counts)


def bigram_entropy(tokens: np.ndarray, *, limit: int = 20_000_000) -> float:
    """Entropy of a token given the one before it, H(x_i | x_{i-1}) = H(x_{i-1}, x_i) - H(x_{i-1}), in nats.

    Args:
        tokens: ids `(n,)`; may be a memory map. At most the first `limit` are used.

    Raises:
        UserError: there are fewer than two tokens.
    """
    stream = _stream(tokens, limit, least=2)
    codes = stream[:-1].astype(np.int64) * (int(stream.max()) + 1) + stream[1:]
    codes.sort()
    starts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    counts = np.diff(starts, prepend=0, append=len(codes))
    return max(0.0, _entropy(counts) - unigram_entropy(stream[:-1], limit=limit))


def _stream(tokens: np.ndarray, limit: int, *, least: int) -> np.ndarray:
    stream = np.asarray(tokens[:limit]).reshape(-1)
    if len(stream) < least:
        raise UserError(f"an entropy needs at least {least} tokens, not {len(stream)}: give more text")
    return stream


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum(dtype=np.float64)
    return float(-(shares * np.log(shares)).sum())
