"""What generating cost."""

import math
from collections.abc import Iterator

from mdm_lightning.evaluation.base import Row, Settings
from mdm_lightning.evaluation.generate import GeneratedBatch


def cost_rows(generated: GeneratedBatch, settings: Settings) -> Iterator[Row]:
    """Forward passes per sequence, and generated tokens per second and process."""
    passes = generated.sequence_nfe.double()
    n = len(passes)
    error = float(passes.std() / math.sqrt(n)) if n > 1 else None
    yield Row("forward_passes", float(passes.mean()), error, n, settings, None, passes.tolist())
    tokens = int((generated.revealed_at >= 0).sum())
    yield Row("tokens_per_second", tokens / generated.seconds, None, n, settings)
