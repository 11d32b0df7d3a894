"""What generating cost."""

from collections.abc import Iterator

from mdm_lightning.evaluation.base import Row, Settings
from mdm_lightning.evaluation.generation.generate import GeneratedBatch


def cost_rows(generated: GeneratedBatch, settings: Settings) -> Iterator[Row]:
    """Forward passes per sequence, positions computed in them, and generated tokens per second and process.

    Without a cache every pass computes all positions of a sequence; runs with different caches, or that end early, are
    compared by the number of positions.
    """
    n = len(generated.tokens)
    for metric, cost in (
        ("forward_passes", generated.sequence_nfe),
        ("tokens_computed", generated.sequence_positions),
    ):
        yield Row.of_scores(metric, cost, settings)
    tokens = int((generated.revealed_at >= 0).sum())
    yield Row("tokens_per_second", tokens / generated.seconds, None, n, settings)
