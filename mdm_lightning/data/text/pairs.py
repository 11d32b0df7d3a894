"""Prompts with responses, for supervised fine-tuning: the prompt is given, everything after it may be masked.

A sequence is a prompt, its response, what ends the answer in a chat, and EOS up to the full length. These EOS are
modelled like any other token: a model that fills canvases of a fixed length must know where its answer ends.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch

from mdm_lightning.data.source import Batch, Example, PreparedData, digest
from mdm_lightning.data.text.corpus import files_identity, find_files, is_table, reading, table_rows
from mdm_lightning.data.text.split import plenty, text_hash
from mdm_lightning.data.token_file import TokenFile, TokenWriter, cached_tokens, progress
from mdm_lightning.data.tokenizer.chat import render_chat
from mdm_lightning.data.tokenizer.context import ENCODING, encode_pairs
from mdm_lightning.data.tokenizer.spec import TokenizerSpec
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000
_PROBE = "an answer that no template contains"
_ANY_NUMBER = 1 << 32  # a token file of pairs holds numbers of ids too, which may be beyond the vocabulary


class Pair(NamedTuple):
    """A prompt with its response; either may be empty."""

    prompt: str
    response: str


class PairFormat:
    """How a pair becomes ids: prompt and response as they are, with nothing between them (`encode_pairs`).

    Attributes:
        ending: ids after every response, in front of EOS.
    """

    ending: Sequence[int] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = digest(tokenizer.fingerprint, ENCODING)

    def encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        """Ids of each prompt and of its response; none for a response that is empty."""
        prompts, responses = zip(*pairs, strict=True)
        return encode_pairs(self.tokenizer, prompts, responses)


class ChatFormat(PairFormat):
    """The prompt as a user's message in the tokenizer's chat template, up to where the assistant's answer begins.

    Raises:
        UserError: the tokenizer has no chat template, or the template does not show an assistant's answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        if tokenizer.chat_template is None:
            raise UserError("data.chat=true needs a tokenizer with a chat template, which this one lacks: leave it out")
        self.ending = self._find_ending()
        self.fingerprint = digest(tokenizer.fingerprint, ENCODING, tokenizer.chat_template, self.ending)

    def encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        rendered = [render_chat(self.tokenizer, [{"role": "user", "content": prompt}]) for prompt, _ in pairs]
        return encode_pairs(self.tokenizer, rendered, [response for _, response in pairs], special=True)

    def _find_ending(self) -> list[int]:
        messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _PROBE}]
        _, shown, after = render_chat(self.tokenizer, messages, add_generation_prompt=False).rpartition(_PROBE)
        if not shown:
            raise UserError("the tokenizer's chat template leaves out the assistant's answer: leave out data.chat=true")
        probe, both = self.tokenizer.encode_batch([_PROBE, _PROBE + after], special=True)
        ids = both[len(probe) :]
        ends = [place for place, token in enumerate(ids) if token in self.tokenizer.end_ids]
        # Up to the token at which sampled answers are cut. LLaDA's template goes on with the header of another answer,
        # whether asked to or not. Where the template has no such token, EOS alone ends an answer.
        return ids[: ends[0] + 1] if ends else []


@dataclass(frozen=True)
class PairFiles:
    """Rows of files, in the order given; streamed anew by every iteration.

    Args:
        files: .jsonl, also gzipped, and .parquet.
        prompt_field, response_field: the names of the fields.
        hashes: only rows whose hash is in this range.

    Iterating raises UserError for what cannot be read.
    """

    files: Sequence[Path]
    prompt_field: str
    response_field: str
    hashes: range = range(1 << 64)

    def __iter__(self) -> Iterator[Pair]:
        fields = {"prompt_field": self.prompt_field, "response_field": self.response_field}
        for file in self.files:
            with reading(file):
                for prompt, response in table_rows(file, fields):
                    pair = Pair(prompt, response)
                    if _hash(pair) in self.hashes:
                        yield pair

    def divide(self, fraction: float) -> tuple[Self, Self]:
        """Training rows and the given fraction of rows for validation, chosen by a hash of prompt and response.

        So the order of the rows does not matter, and duplicates fall on the same side. Of so few rows that none might
        be chosen, those with the least hashes are.

        Raises:
            UserError: there are no two different rows with a response.
        """
        enough = plenty(fraction)
        hashes = sorted(islice((_hash(pair) for pair in self if pair.response), enough))
        threshold = int(fraction * 2**64)
        if len(hashes) < enough:
            if len(set(hashes)) < 2:
                raise UserError(
                    "data.path= has fewer than two different rows with a response, and some must be set aside for "
                    "validation: give more, or data.validation_path="
                )
            count = min(max(1, round(fraction * len(hashes))), hashes.index(hashes[-1]))
            log.info("few rows: %d of %d are validation", count, len(hashes))
            threshold = hashes[count - 1] + 1
        return replace(self, hashes=range(threshold, 1 << 64)), replace(self, hashes=range(threshold))


class PairRows:
    """Sequences of a prompt, its response and EOS; what follows the prompt is maskable.

    The token file holds the ids of one row after the other, each with a single EOS at its end, and then, for all rows,
    the number of ids in the prompt and in the whole row. Rows without a response have no ids.

    Args:
        length: positions per sequence; longer rows are left out.
    """

    def __init__(self, file: TokenFile, length: int) -> None:
        self.file = file
        self.length = length
        self.total = file.meta.n_documents
        """Rows in the file, those that are left out included."""
        prompts, sizes = file.tokens[file.meta.n_tokens - 2 * self.total :].astype(np.int64).reshape(2, self.total)
        self.empty = int((sizes == 0).sum())
        self.too_long = int((sizes > length).sum())
        kept = (sizes > 0) & (sizes <= length)
        self.sizes = sizes[kept]
        """Positions `(n,)` of each sequence up to its first EOS, that one included."""
        self._begins = (sizes.cumsum() - sizes)[kept]
        self._prompts = prompts[kept]

    @property
    def stream(self) -> np.ndarray:
        """The ids of all rows in the file `(n_tokens,)`, without the fill, memory-mapped."""
        return self.file.tokens[: self.file.meta.n_tokens - 2 * self.total]

    def __len__(self) -> int:
        return len(self.sizes)

    def maskable_counts(self, indices: Sequence[int]) -> np.ndarray:
        return self.length - self._prompts[np.asarray(indices, dtype=np.int64)]

    def __getitem__(self, index: int) -> Example:
        batch = self.__getitems__([index])
        return {"tokens": batch["tokens"][0], "maskable": batch["maskable"][0]}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = np.asarray(indices, dtype=np.int64)[:, None]
        positions = np.arange(self.length)
        # Every row ends with EOS: read again and again, its last id is the fill.
        places = self._begins[chosen] + np.minimum(positions, self.sizes[chosen] - 1)
        return {
            "tokens": torch.from_numpy(self.stream[places].astype(np.int64)),
            "maskable": torch.from_numpy(positions >= self._prompts[chosen]),
        }


@dataclass(frozen=True)
class PairSource:
    """Prompts with responses from local files; the arguments are those of `Files`."""

    name: str
    length: int
    path: str
    prompt_field: str
    response_field: str
    chat: bool
    validation_path: str | None
    validation_fraction: float

    def prepare(self, tokenizer: TokenizerSpec, cache: Path) -> PreparedData:
        """As `Source.prepare`; without bytes per position, because EOS that fill a sequence stand for no text."""
        files = [_find(path) for path in (self.path, self.validation_path) if path]
        identity = digest(
            [files_identity(found) for found in files],
            [self.prompt_field, self.response_field, self.chat, self.validation_fraction],
        )
        folder = Path(cache).expanduser() / f"{self.name}-{identity}"
        divided = once(lambda: self._divide(files))
        built = tokenizer.build(lambda: chain.from_iterable(divided()[0]), folder)
        pair_format = ChatFormat(built) if self.chat else PairFormat(built)

        def open_split(split: int, name: str) -> PairRows:
            def produce(writer: TokenWriter) -> None:
                _tokenize(divided()[split], pair_format, writer, f"{self.name} {name}")

            path = folder / f"{name}-{pair_format.fingerprint}.tokens"
            file = cached_tokens(path, digest(identity, name, pair_format.fingerprint), _ANY_NUMBER, produce)
            return _checked(PairRows(file, self.length), f"{self.name} {name}")

        train = open_split(0, "train")
        log.info(
            "%.0f %% of all training positions are EOS after an answer; the longest row fits into data.length=%d",
            100 * (1 - (train.sizes - 1).mean() / self.length), train.sizes.max(),
        )  # fmt: skip
        return PreparedData(
            name=self.name,
            tokenizer=built,
            length=self.length,
            train=train,
            validation=open_split(1, "validation"),
            bytes_per_position=None,
            fingerprint=digest(identity, pair_format.fingerprint, self.length),
            answer_end=built.eos_id,
        )

    def _divide(self, files: Sequence[Sequence[Path]]) -> tuple[PairFiles, PairFiles]:
        first, *others = (PairFiles(found, self.prompt_field, self.response_field) for found in files)
        return (first, others[0]) if others else first.divide(self.validation_fraction)


def _find(path: str) -> list[Path]:
    files = find_files(path, (".jsonl", ".parquet"))
    for file in files:
        if not is_table(file):
            raise UserError(f"{file} has no rows with fields: prompts and responses come from .jsonl and .parquet")
    return files


def _hash(pair: Pair) -> int:
    return text_hash("\0".join(pair))


def _tokenize(pairs: Iterable[Pair], pair_format: PairFormat, writer: TokenWriter, name: str) -> None:
    """Write the ids of all rows and then their numbers of ids, as `PairRows` reads them."""
    log.info("tokenizing %s", name)
    tokenizer = pair_format.tokenizer
    ending = [*pair_format.ending, tokenizer.eos_id]
    prompt_sizes, sizes = array("Q"), array("Q")
    unknown = 0
    rows = iter(pairs)
    with progress(f"tokenizing {name}", "tok") as bar:
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            stream: list[int] = []
            for prompt, response in pair_format.encode(batch):
                ids = [*prompt, *response, *ending] if response else []
                prompt_sizes.append(len(prompt))
                sizes.append(len(ids))
                stream.extend(ids)
            if tokenizer.unknown_id is not None:
                unknown += stream.count(tokenizer.unknown_id)
            writer.write(stream)
            writer.n_documents += len(batch)
            bar.update(len(stream))
    if unknown:
        log.warning("%d of the %d tokens of %s stand for unknown characters", unknown, writer.n_tokens, name)
    writer.write(np.concatenate([prompt_sizes, sizes]))


def _checked(rows: PairRows, name: str) -> PairRows:
    """Say which rows are left out.

    Raises:
        UserError: all are.
    """
    if not len(rows):
        raise UserError(
            f"{name}: none of {rows.total:,} rows can be used, {rows.too_long:,} are longer than "
            f"data.length={rows.length}, {rows.empty:,} have no response; raise the length or check the data"
        )
    problems = {f"are longer than data.length={rows.length}": rows.too_long, "have no response": rows.empty}
    for problem, count in problems.items():
        if count:
            log.info("%s: %s of %s rows %s and are left out", name, f"{count:,}", f"{rows.total:,}", problem)
    return rows
