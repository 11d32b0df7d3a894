"""Generated text to read, and what it cost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class Samples:
    """Completes masked sequences: whole ones for text, the response for tasks (then scored by the task's rule).

    Args:
        sampler: how text is generated.
        sequences: how many.
        batch_size: sequences per batch.
        show: how many to print.
    """

    sampler: Sampler
    sequences: int = 4
    batch_size: int = 64
    show: int = 4

    def __call__(self, subject: Subject) -> Iterator[Row]:
        data, started = subject.data, time.perf_counter()
        size = min(self.sequences, len(data.validation))
        passes, generated, correct = 0, 0, 0
        for start in range(0, size, self.batch_size):
            indices = range(start, min(start + self.batch_size, size))
            clean = data.validation.__getitems__(indices)
            canvas = clean["tokens"].masked_fill(clean["maskable"], data.tokenizer.mask_id).to(subject.device)
            result = self.sampler(subject.denoiser, canvas, SequenceNoise(subject.seed, indices))
            passes += result.nfe
            generated += int(clean["maskable"].sum())
            rows = result.tokens.cpu()
            if data.task is not None:
                correct += sum(data.task.check(row).correct for row in rows)
            subject.texts.extend(data.tokenizer.decode(row.tolist()) for row in rows[: self.show - len(subject.texts)])
        seconds = time.perf_counter() - started
        settings = f"{type(self.sampler.schedule).__name__}, {self.sampler.steps} steps"
        yield Row("forward_passes", float(passes), None, size, settings)
        yield Row("generated_tokens_per_second", generated / seconds, None, size, settings)
        if data.task is not None:
            share = correct / size
            yield Row("accuracy", share, (share * (1 - share) / size) ** 0.5, size, settings)
