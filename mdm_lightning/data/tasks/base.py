"""Synthetic tasks with responses that a rule can check: a prompt that is never masked, then a response that is."""

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdm_lightning.data.source import Batch, Example, PreparedData, Source, Verdict, digest
from mdm_lightning.data.token_file import TokenFile, TokenWriter, cached_tokens, progress
from mdm_lightning.data.tokenizer.spec import FromTask, TokenizerSpec
from mdm_lightning.data.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, from_characters
from mdm_lightning.errors import UserError

_PAD = "<|pad|>"
_HELD_OUT = 16  # one puzzle in so many may only be used for validation


class Rows:
    """Prompts of `prompt_length` positions, each followed by its response, the only part that is maskable."""

    def __init__(self, file: TokenFile, length: int, prompt_length: int) -> None:
        self.file = file
        self.length = length
        self.prompt_length = prompt_length

    @property
    def stream(self) -> np.ndarray:
        """All ids `(n_tokens,)`, row after row, memory-mapped."""
        return self.file.tokens

    def __len__(self) -> int:
        return self.file.meta.n_tokens // self.length

    def maskable_counts(self, indices: Sequence[int]) -> np.ndarray:
        return np.full(len(indices), self.length - self.prompt_length)

    def __getitem__(self, index: int) -> Example:
        batch = self.__getitems__([index])
        return {"tokens": batch["tokens"][0], "maskable": batch["maskable"][0]}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = self.stream.reshape(len(self), self.length)[list(indices)]
        tokens = torch.from_numpy(rows.astype(np.int64))
        maskable = torch.arange(self.length) >= self.prompt_length
        return {"tokens": tokens, "maskable": maskable.expand_as(tokens).clone()}


class TaskSource(Source):
    """Base of the synthetic tasks: generates the examples from a seed, once, into the cache.

    Args:
        prompt_length: positions of a prompt; shorter ones are padded.
        response_length: positions of a response, likewise.
        train: number of training examples.
        validation: number of validation examples.
        seed: of the examples; training runs that compare with each other share it.

    No puzzle is in both splits: a hash of the puzzle decides on which side it may be used.
    """

    alphabet: str
    prompted = True
    filled = False
    """Whether responses are of different lengths, with fill behind them."""

    def __init__(self, *, prompt_length: int, response_length: int, train: int, validation: int, seed: int) -> None:
        if train < 1 or validation < 1:
            raise UserError(f"data.train={train} and data.validation={validation} should both be at least 1")
        self.prompt_length = prompt_length
        self.response_length = response_length
        self.length = prompt_length + response_length
        self.train = train
        self.validation = validation
        self.seed = seed

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """One id per character, EOS and PAD."""
        content = from_characters(self.alphabet, special=[END_OF_TEXT, _PAD])
        return Tokenizer(content, eos_token=END_OF_TEXT, pad_token=_PAD)

    @abstractmethod
    def settings(self) -> list[object]:
        """Everything, besides the seed and the split, that the examples depend on."""

    @abstractmethod
    def examples(self, rng: random.Random, *, validation: bool) -> Iterator[tuple[str, str]]:
        """Endless (prompt, response) pairs, of puzzles for which `held_out` equals `validation`."""

    @abstractmethod
    def judge(self, prompt: str, response: str) -> Verdict:
        """Check a response; a position that is still masked reads "░"."""

    def check(self, tokens: Sequence[int] | Tensor) -> Verdict:
        """Judge a whole sequence `(l,)`, prompt and response.

        Raises:
            UserError: the sequence does not have this task's length.
        """
        ids = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        if len(ids) != self.length:
            raise UserError(f"{self.name} sequences have {self.length} tokens, not {len(ids)}")
        tokenizer = self.tokenizer
        prompt = tokenizer.decode(ids[: self.prompt_length])
        response = ids[self.prompt_length :]
        ends = [i for i, token in enumerate(response) if token in (tokenizer.eos_id, tokenizer.pad_id)]
        return self.judge(prompt, tokenizer.decode(response[: ends[0]] if ends else response))

    def prepare(self, tokenizer: TokenizerSpec | None, cache: Path) -> PreparedData:
        if not isinstance(tokenizer, FromTask | None):
            raise UserError(f"data={self.name} brings its own tokenizer: leave out tokenizer=, or use tokenizer=task")
        built = self.tokenizer
        identity = digest(self.settings(), self.seed, built.fingerprint)

        def open_split(name: str, count: int) -> Rows:
            def produce(writer: TokenWriter) -> None:
                self._generate(writer, built, name, count)

            path = Path(cache).expanduser() / f"{self.name}-{identity}" / f"{name}-{count}.tokens"
            file = cached_tokens(path, digest(identity, name, count), built.vocab_size, produce)
            return Rows(file, self.length, self.prompt_length)

        return PreparedData(
            name=self.name,
            tokenizer=built,
            length=self.length,
            train=open_split("train", self.train),
            validation=open_split("validation", self.validation),
            bytes_per_position=None,
            fingerprint=digest(identity, self.train, self.validation),
            task=self,
            answer_end=built.eos_id if self.filled else None,
        )

    def _generate(self, writer: TokenWriter, tokenizer: Tokenizer, split: str, count: int) -> None:
        rng = random.Random(f"{self.name} {split} {self.seed}")
        examples = self.examples(rng, validation=split == "validation")
        with progress(f"generating {self.name} {split}", "puzzle", count) as bar:
            for _ in range(count):
                writer.write(self._row(tokenizer, *next(examples)))
                writer.n_documents += 1
                bar.update()

    def _row(self, tokenizer: Tokenizer, prompt: str, response: str) -> list[int]:
        """Prompts are padded in front, so that the response always begins at the same position."""
        asked, answered = tokenizer.encode(prompt), tokenizer.encode(response)
        room = self.response_length - len(answered)
        ending = [tokenizer.eos_id, *[tokenizer.pad_id] * room][:room]
        return [tokenizer.pad_id] * (self.prompt_length - len(asked)) + asked + answered + ending


def held_out(puzzle: str) -> bool:
    """Whether a puzzle may be used for validation only, rather than for training only."""
    return int.from_bytes(blake2b(puzzle.encode(), digest_size=8).digest()) % _HELD_OUT == 0
