"""What was measured of sequences, as rows: nats per token, perplexity, bits per byte."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.data.source import PreparedData, why_no_bits_per_byte
from mdm_lightning.diffusion.objective import bits_per_byte, perplexity
from mdm_lightning.evaluation.base import Row, Settings

_FILLED = "responses and the fill after their first EOS"
_ENDED = "responses up to and including their first EOS"


class Measured(NamedTuple):
    """What s sequences cost, and their numbers of positions; then both for their answers up to the first EOS, zero
    where answers do not end so."""

    nats: Float64[Tensor, " s"]
    positions: Float64[Tensor, " s"]
    answer_nats: Float64[Tensor, " s"]
    answer_positions: Float64[Tensor, " s"]


class Names(NamedTuple):
    """Of the metrics."""

    nats: str
    perplexity: str
    bits: str


def likelihood_rows(measured: Measured, data: PreparedData, settings: Settings, names: Names) -> Iterator[Row]:
    """Where responses are followed by fill up to the sequence's length, once with that fill, and once for the positions
    up to and including the first EOS alone ("_to_first_eos"): the first number falls with the length for the same
    model."""
    if data.changed_text:
        settings = {**settings, "bits_per_byte": f"left out: {why_no_bits_per_byte(data.changed_text)}"}
    if data.answer_end is None:
        yield from _rows(measured.nats, measured.positions, data.bytes_per_position, settings, names)
        return
    filled, ended = ({**settings, "positions": which} for which in (_FILLED, _ENDED))
    yield from _rows(measured.nats, measured.positions, None, filled, names)
    to_eos = Names(*(f"{name}_to_first_eos" for name in names))
    yield from _rows(measured.answer_nats, measured.answer_positions, None, ended, to_eos)


def _rows(
    nats: Float64[Tensor, " s"],
    positions: Float64[Tensor, " s"],
    bytes_per_position: float | None,
    settings: Settings,
    names: Names,
) -> Iterator[Row]:
    n = len(nats)
    per_token = float(nats.sum() / positions.sum())
    # The error of a ratio of sums (delta method); with equal lengths, that of a mean.
    residual = (nats - per_token * positions) / positions.mean()
    error = float(residual.std() / math.sqrt(n)) if n > 1 else math.nan
    scores = (nats / positions.mean()).tolist()
    yield Row(names.nats, per_token, error, n, settings, "lower", scores)
    yield Row(names.perplexity, perplexity(per_token), perplexity(per_token) * error, n, settings, "lower")
    if bytes_per_position is not None:
        scale = bits_per_byte(1.0, bytes_per_position)
        yield Row(names.bits, per_token * scale, error * scale, n, settings, "lower")
