"""How varied sequences are, how often they repeat themselves, and what they copy: numbers that need no model."""

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from mdm_lightning.evaluation.base import batches
from mdm_lightning.evaluation.processes import Processes

REPETITION = 4
"""Tokens per n-gram whose recurrence counts as repetition."""

_CHUNK = 1 << 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def diversity(tokens: Int64[np.ndarray, "b l"]) -> dict[str, Float64[np.ndarray, " b"]]:
    """Measures of each sequence by itself. Those of n-grams are left out for sequences shorter than n.

    - unigram_entropy: entropy in nats of the distribution of its tokens; log l if no token occurs twice.
    - distinct_n: distinct n-grams per n-gram (Li et al., 2016).
    - repetition: share of its 4-grams that occurred before in the same sequence, which is 1 - distinct_4 (seq-rep-4;
      Welleck et al., 2020).
    """
    measures = {"unigram_entropy": _entropy(tokens)}
    for n in (1, 2, 3):
        if n <= tokens.shape[1]:
            measures[f"distinct_{n}"] = _distinct(tokens, n)
    if tokens.shape[1] >= REPETITION:
        measures["repetition"] = 1 - _distinct(tokens, REPETITION)
    return measures


def _entropy(tokens: Int64[np.ndarray, "b l"]) -> Float64[np.ndarray, " b"]:
    b, length = tokens.shape
    vocabulary = int(tokens.max(initial=0)) + 1
    numbered, counts = np.unique(np.arange(b)[:, None] * vocabulary + tokens, return_counts=True)
    share = counts / length
    return np.bincount(numbered // vocabulary, weights=share * -np.log(share), minlength=b)


def _distinct(tokens: Int64[np.ndarray, "b l"], n: int) -> Float64[np.ndarray, " b"]:
    """Distinct n-grams of each row, as a share of its n-grams."""
    b, length = tokens.shape
    size = length - n + 1
    vocabulary = int(tokens.max(initial=0)) + 1
    # Prefixes are numbered one token at a time, rows apart, so that no code outgrows 64 bits.
    code = np.repeat(np.arange(b), size)
    first = np.zeros(0, dtype=np.int64)
    for offset in range(n):
        extended = code * vocabulary + tokens[:, offset : offset + size].ravel()
        _, first, code = np.unique(extended, return_index=True, return_inverse=True)
    return np.bincount(first // size, minlength=b) / size


def copied(
    tokens: Int64[np.ndarray, "b l"], stream: np.ndarray, width: int, processes: Processes
) -> Bool[np.ndarray, "b w"]:
    """Which windows of ``width`` tokens occur verbatim in a token stream, by where they begin.

    The stream is searched in chunks, which the processes share: windows are looked up by a rolling hash of 64 bits,
    and those with equal hashes are compared token by token.

    Args:
        stream: ids `(s,)`; may be a memory map.
        width: at most l.
    """
    hashes = np.stack([_rolling_hash(row, width) for row in tokens])
    wanted, first = np.unique(hashes, return_index=True)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, width, axis=1).reshape(-1, width)[first]
    # Most of the stream is ruled out by the first bits of its hashes, in a table with room for about one in 32.
    shift = np.uint64(64 - min(max(len(wanted).bit_length() + 5, 16), 26))
    maybe = np.zeros(1 << (64 - int(shift)), dtype=bool)
    maybe[wanted >> shift] = True

    def search(part: range) -> Int64[np.ndarray, " f"]:
        """The wanted windows that begin in this part of the stream."""
        text = np.asarray(stream[part.start : part.stop + width - 1])
        found = _rolling_hash(text, width)
        begins = np.flatnonzero(maybe[found >> shift])
        place = np.searchsorted(wanted, found[begins]).clip(max=len(wanted) - 1)
        equal = wanted[place] == found[begins]
        place, where = np.unique(place[equal], return_index=True)
        begins = begins[equal][where]
        same = (text[begins[:, None] + np.arange(width)] == windows[place]).all(axis=1)
        return place[same]

    occurs = np.zeros(len(wanted), dtype=bool)
    for place in processes.map(search, batches(max(0, len(stream) - width + 1), _CHUNK), "searching the training text"):
        occurs[place] = True
    return occurs[np.searchsorted(wanted, hashes)]


def _rolling_hash(tokens: np.ndarray, width: int) -> UInt64[np.ndarray, " w"]:
    """Polynomial hash modulo 2^64 of every window of ``width`` tokens."""
    size = len(tokens) - width + 1
    wide = tokens.astype(np.uint64)
    hashes = wide[:size].copy()
    for offset in range(1, width):
        hashes *= _MULTIPLIER
        hashes += wide[offset : offset + size]
    return hashes
