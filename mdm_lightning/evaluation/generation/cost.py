"""What generating cost."""

from collections.abc import Iterator

from mdm_lightning.evaluation.base import Row, Settings
from mdm_lightning.evaluation.generation.generate import GeneratedBatch
from mdm_lightning.evaluation.statistics import standard_error


def cost_rows(generated: GeneratedBatch, settings: Settings) -> Iterator[Row]:
    """Forward passes per sequence, and generated tokens per second and process."""
    passes = generated.sequence_nfe.double()
    n, scores = len(passes), passes.tolist()
    yield Row("forward_passes", float(passes.mean()), standard_error(scores), n, settings, None, scores)
    tokens = int((generated.revealed_at >= 0).sum())
    yield Row("tokens_per_second", tokens / generated.seconds, None, n, settings)
