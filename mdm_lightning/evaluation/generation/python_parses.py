"""Models of Python source: the share of samples that parse."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject, batches
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.generate import SEQUENCES, generate
from mdm_lightning.evaluation.generation.python_syntax import parses
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class PythonParses:
    """Share of unconditional samples that parse, and beside it that of validation sequences: the share to expect,
    below one because a fragment may lie inside a string.

    A sample is the fragments between its end-of-text tokens. None of them may fail to parse, and at least one must
    have code on a whole line.

    Args:
        sampler: how source is generated.
        sequences: how many; None for 64.
        batch_size: sequences per batch.

    Raises:
        ValueError: a number is not positive.
    """

    judging: ClassVar[Sequence[str]] = ("parses",)
    sampler: Sampler
    sequences: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, sequences=1, batch_size=1)

    def prepare(self, subject: Subject) -> object:
        """The data.

        Raises:
            NotApplicable: the data are prompts with responses, or not known.
        """
        if subject.prompted:
            raise NotApplicable("evaluation=python is for source code; for tasks choose evaluation=task or samples")
        return subject.data

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        NotApplicable: as ``prepare``.
        """
        self.prepare(subject)
        generated = generate(subject, self.sampler, self.sequences or SEQUENCES, self.batch_size)
        yield self._share(subject, generated.tokens, {"text": "generated", **describe_sampler(self.sampler)})
        validation = subject.data.validation
        if size := min(len(generated.tokens), len(validation)):
            held_out = validation.__getitems__(range(size))["tokens"]
            yield self._share(subject, held_out, {"text": "validation", "data": subject.data.name})

    def _share(self, subject: Subject, tokens: Tensor, settings: dict[str, str | int | float]) -> Row:
        def judge(unit: range) -> list[bool]:
            return [parses_as_python(row, subject.tokenizer) for row in tokens[unit.start : unit.stop].tolist()]

        verdicts = subject.processes.map(judge, batches(len(tokens), self.batch_size), "parsing")
        return Row.of_scores("parses", np.concatenate(verdicts), settings, "higher")


def parses_as_python(tokens: list[int], tokenizer: Tokenizer) -> bool:
    """Whether the fragments of source in a sequence, separated by EOS or BOS, parse, and there is any code."""
    ends = [i for i, token in enumerate(tokens) if token in (tokenizer.eos_id, tokenizer.bos_id)]
    verdicts = []
    for begin, end in zip([0, *(i + 1 for i in ends)], [*ends, len(tokens)], strict=True):
        text = tokenizer.decode(tokens[begin:end])
        verdicts.append(parses(text, from_start=begin > 0, to_end=end < len(tokens)))
    return True in verdicts and False not in verdicts
