"""Generated text to read: unconditional, completing a prompt, or filling a gap."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import torch
from jaxtyping import Int64
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.data.tokenizer.chat import render_chat
from mdm_lightning.data.tokenizer.context import encode_fragment, encode_prompt, spell_out
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.cost import cost_rows
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.evaluation.generation.task import prompts
from mdm_lightning.evaluation.generation.trajectory import trajectory_page
from mdm_lightning.evaluation.generation.transcript import transcript
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class SampleTexts:
    """Completes masked sequences and shows them; without a prompt of one's own, those of data that have prompts.

    Args:
        sampler: how text is generated.
        prompt: text at the beginning of every sequence; spaces at its end are left to what follows, if the
            tokenizer attaches spaces to words.
        suffix: text at the end of every sequence.
        chat: the prompt is what a user says, and the tokenizer's chat template goes around it.
        length: positions per sequence, prompt and suffix included; None for the length of the data.
        sequences: how many.
        batch_size: sequences per batch.
        trajectory: also write a page that shows which token appeared at which step.

    Raises:
        ValueError: a number is out of range.
    """

    sampler: Sampler
    prompt: str | None = None
    suffix: str | None = None
    chat: bool = False
    length: int | None = None
    sequences: int = 4
    batch_size: int = 64
    trajectory: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, length=1, sequences=1, batch_size=1)

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: prompt and suffix leave no room or cannot be spelled, the length is beyond the model's, or there is
            no chat template.
        """
        own_text = self.prompt is not None or self.suffix is not None
        if subject.prompted and not own_text:
            size = subject.validation_size(self.sequences)
            generated = generate(subject, self.sampler, size, self.batch_size, lambda unit: prompts(subject, unit))
            first = range(subject.first, subject.first + size)
            lengths = subject.data.validation.__getitems__(first)["maskable"].int().argmax(1).tolist()
        else:
            canvas = self._canvas(subject)
            length = int((canvas[0] == subject.tokenizer.mask_id).int().argmax()) if self.chat else 0
            lengths = [length] * self.sequences
            generated = generate(
                subject, self.sampler, self.sequences, self.batch_size, lambda unit: canvas.expand(len(unit), -1)
            )
        tokenizer, settings = subject.tokenizer, describe_sampler(self.sampler)
        for number, (row, length) in enumerate(zip(generated.tokens, lengths, strict=True)):
            subject.outputs.text(f"samples/{number}", transcript(tokenizer, row, length))
        if self.trajectory:
            pieces = [spell_out(tokenizer, row.tolist()) for row in generated.tokens]
            caption = ", ".join(f"{name}: {value}" for name, value in settings.items())
            page = trajectory_page(pieces, generated.revealed_at.tolist(), caption)
            subject.outputs.file("trajectory.html", page)
        yield from cost_rows(generated, settings)

    def _canvas(self, subject: Subject) -> Int64[Tensor, "1 l"]:
        length = self.length or subject.length
        if length > subject.denoiser.length:
            raise UserError(f"evaluation.samples.length={length} is beyond the model's {subject.denoiser.length}")
        return text_canvas(subject.tokenizer, length, self.prompt or "", self.suffix or "", chat=self.chat)


def text_canvas(
    tokenizer: Tokenizer, length: int, prompt: str, suffix: str, *, chat: bool = False
) -> Int64[Tensor, "1 l"]:
    """One sequence of so many tokens: the prompt, masks, the suffix.

    Args:
        chat: the prompt is what a user says, and the tokenizer's chat template goes around it.

    Raises:
        UserError: prompt and suffix leave no room or cannot be spelled, or there is no chat template.
    """
    begin = _spelled(tokenizer, encode_prompt(tokenizer, prompt), prompt)
    end = _spelled(tokenizer, encode_fragment(tokenizer, suffix), suffix)
    if chat:
        rendered = render_chat(tokenizer, [{"role": "user", "content": prompt}])
        begin = encode_prompt(tokenizer, rendered, special=True)
    gap = length - len(begin) - len(end)
    if gap < 1:
        raise UserError(
            f"prompt and suffix have {len(begin)} and {len(end)} tokens, which leaves no room in {length}: shorten them"
        )
    return torch.tensor([[*begin, *[tokenizer.mask_id] * gap, *end]])


def _spelled(tokenizer: Tokenizer, ids: list[int], text: str) -> list[int]:
    if tokenizer.unknown_id in ids:
        raise UserError(f"the model's tokenizer has no tokens for some characters of {text!r}: leave them out")
    return ids


def spelled(percent: str) -> str:
    """A text from its percent-encoding, in which the command line hands on what a configuration would interpret."""
    return unquote(percent)
