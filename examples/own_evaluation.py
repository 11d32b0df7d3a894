"""An evaluation of one's own: the share of generated texts whose brackets match.

python examples/own_evaluation.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mdm_lightning.data.tasks.toy import Balanced
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.sampling.presets import expected_random
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class BracketsMatch:
    """Share of unconditional samples with as many opening as closing brackets.

    An evaluation turns a subject (denoiser, tokenizer, data, seed) into rows: metric, value, standard error, number of
    samples, settings. A row that also has each sample's own score lets sweeps compare schedules sample by sample.
    """

    sampler: Sampler
    opening: str = "("
    closing: str = ")"
    sequences: int = 64
    batch_size: int = 64

    def __call__(self, subject: Subject) -> Iterator[Row]:
        generated = generate(subject, self.sampler, self.sequences, self.batch_size)
        texts = [subject.tokenizer.decode(tokens) for tokens in generated.tokens]
        scores = [float(text.count(self.opening) == text.count(self.closing)) for text in texts]
        share = sum(scores) / len(scores)
        stderr = (share * (1 - share) / len(scores)) ** 0.5
        yield Row("brackets_match", share, stderr, len(scores), describe_sampler(self.sampler), "higher", scores)


def main() -> None:
    # A toy in the place of a trained model: sequences with as many a's as b's, and its exact denoiser.
    source = Balanced(length=8, train=1, validation=1, seed=0)
    denoiser = ExactDenoiser(source.distribution.sequences, source.distribution.probabilities)
    with TemporaryDirectory() as cache:
        subject = Subject(denoiser, source.tokenizer, source.length, lambda: source.prepare(None, Path(cache)))
        for steps in (1, 2, 4, 8):
            evaluation = BracketsMatch(expected_random(steps=steps), opening="a", closing="b", sequences=1000)
            for row in evaluation(subject):
                print(f"{row.metric} in {steps} steps: {row.value:.3f} ± {row.stderr:.3f} (n = {row.n})")


if __name__ == "__main__":
    main()
