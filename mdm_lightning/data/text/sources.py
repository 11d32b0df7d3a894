"""Sources of text: the standard library, local files, the hub."""

import logging
import sysconfig
from abc import abstractmethod
from functools import cache as once
from pathlib import Path

from mdm_lightning.data.hub import copy_identity, load_copy, load_hub
from mdm_lightning.data.source import PreparedData, Source, digest, why_no_bits_per_byte
from mdm_lightning.data.text.corpus import Corpus, FileCorpus, Grouped, files_identity, find_files
from mdm_lightning.data.text.packing import PackedBlocks, tokenize
from mdm_lightning.data.text.pairs import PairSource
from mdm_lightning.data.text.split import ByHash, Split
from mdm_lightning.data.token_file import TokenWriter, cached_tokens
from mdm_lightning.data.tokenizer.context import ENCODING
from mdm_lightning.data.tokenizer.spec import TokenizerSpec
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

_TEXT_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")


class TextSource(Source):
    """Base of all text sources.

    Args:
        length: positions per sequence.
        wrap: put the text of each sequence, length - 2 tokens, between BOS and EOS.
    """

    token_limit: int | None = None
    """Stop after about so many training tokens."""

    def __init__(self, *, length: int, wrap: bool = False) -> None:
        if length < (3 if wrap else 1):
            raise UserError(f"data.length={length} leaves no room for text; set model.length= to more")
        self.length = length
        self.wrap = wrap

    @abstractmethod
    def identity(self) -> str:
        """What the text depends on; cheap, and without a network, since it is asked even if all is cached."""

    @abstractmethod
    def divide(self) -> tuple[Corpus, Corpus]:
        """The training and the validation corpus; asked only if something must be built."""

    def prepare(self, tokenizer: TokenizerSpec | None, cache: Path) -> PreparedData:
        if tokenizer is None:
            raise UserError(f"data={self.name} is text and needs a tokenizer: choose one, as in tokenizer=bpe")
        identity = digest(self.name, self.identity())
        folder = Path(cache).expanduser() / f"{self.name}-{identity}"
        divided = once(self.divide)
        built = tokenizer.build(lambda: divided()[0].texts(), folder)

        def open_split(split: int, name: str, limit: int | None) -> PackedBlocks:
            def produce(writer: TokenWriter) -> None:
                # Bits per byte are those of the validation text.
                decode = name == "validation"
                tokenize(divided()[split], built, writer, name=f"{self.name} {name}", limit=limit, decode=decode)

            fingerprint = digest(identity, name, built.fingerprint, limit, ENCODING)
            path = folder / f"{name}-{built.fingerprint}.tokens"
            file = cached_tokens(path, fingerprint, built.vocab_size, produce)
            blocks = PackedBlocks(file, self.length, (built.bos_id, built.eos_id) if self.wrap else None)
            if not len(blocks):
                raise UserError(
                    f"the {name} text of data={self.name} has {file.meta.n_tokens} tokens, less than one sequence of "
                    f"{self.length}: give more text or set model.length= to less"
                )
            return blocks

        train = open_split(0, "train", self.token_limit)
        validation = open_split(1, "validation", None)
        changed = validation.file.meta.n_bytes_changed / validation.file.meta.n_bytes
        if changed:
            log.warning("bits per byte are left out: %s", why_no_bits_per_byte(changed))
        return PreparedData(
            name=self.name,
            tokenizer=built,
            length=self.length,
            train=train,
            validation=validation,
            bytes_per_position=None if changed else self._bytes_per_position(validation),
            changed_text=changed,
            fingerprint=digest(identity, built.fingerprint, ENCODING, self.token_limit, self.length, self.wrap),
        )

    def _bytes_per_position(self, blocks: PackedBlocks) -> float:
        meta = blocks.file.meta
        return meta.n_bytes / meta.n_tokens * (self.length - 2 * self.wrap) / self.length


class Stdlib(TextSource):
    """The source code of the running interpreter's standard library: text that is there on every machine.

    Validation is a twentieth of the files.
    """

    name = "stdlib"
    # Not the code: tests and their data, installed packages, and the character tables of `encodings`.
    _LEFT_OUT = frozenset(
        {"test", "tests", "idle_test", "idlelib", "turtledemo", "site-packages", "dist-packages", "encodings"}
    )

    def _files(self) -> list[Path]:
        root = Path(sysconfig.get_path("stdlib"))
        files = [f for f in sorted(root.rglob("*.py")) if not self._LEFT_OUT.intersection(f.relative_to(root).parts)]
        if not files:
            raise UserError(f"this Python has no standard library sources in {root}; use data=files data.path=FOLDER")
        return files

    def identity(self) -> str:
        return files_identity(self._files())

    def divide(self) -> tuple[Corpus, Corpus]:
        return ByHash(0.05).divide({"train": FileCorpus(self._files(), skip_undecodable=True)})


class Files(TextSource):
    """Local files: .txt, .md and .py (a document each), .jsonl and .parquet (a document per row), also gzipped.

    Args:
        path: a file, a folder or a glob.
        text_field: the column of .jsonl and .parquet that holds the text.
        validation_path: validation text; None sets some of `path` aside.
        validation_fraction: of the documents, chosen by a hash of their text.
        prompt_field: a column of .jsonl and .parquet; a sequence then is one row, its prompt followed by its response,
            and only the response is masked.
        response_field: the column of the response.
        chat: put prompt and response into the tokenizer's chat template.
    """

    name = "files"

    def __init__(
        self,
        path: str | None,
        *,
        length: int,
        wrap: bool = False,
        text_field: str = "text",
        validation_path: str | None = None,
        validation_fraction: float = 0.05,
        prompt_field: str | None = None,
        response_field: str | None = None,
        chat: bool = False,
    ) -> None:
        super().__init__(length=length, wrap=wrap)
        if not path:
            raise UserError("data=files needs data.path=: a file, a folder or a quoted glob of text")
        self.path = path
        self.text_field = text_field
        self.validation_path = validation_path
        self.split: Split = ByHash(validation_fraction)
        self.pairs: PairSource | None = None
        if prompt_field and response_field:
            if wrap:
                raise UserError("data.wrap=true is for text; prompts with responses bring their own EOS: leave it out")
            self.prompted = True
            self.pairs = PairSource(
                self.name, length, path, prompt_field, response_field, chat, validation_path, validation_fraction
            )
        elif prompt_field or response_field or chat:
            raise UserError("set both data.prompt_field= and data.response_field=, or neither and no data.chat=")

    def prepare(self, tokenizer: TokenizerSpec | None, cache: Path) -> PreparedData:
        if self.pairs is None or tokenizer is None:
            return super().prepare(tokenizer, cache)
        return self.pairs.prepare(tokenizer, cache)

    def identity(self) -> str:
        paths = [self.path, *([self.validation_path] if self.validation_path else [])]
        files = [files_identity(find_files(path, _TEXT_SUFFIXES)) for path in paths]
        return digest(files, self.text_field, _describe(self.split))

    def divide(self) -> tuple[Corpus, Corpus]:
        corpus = FileCorpus(find_files(self.path, _TEXT_SUFFIXES), text_field=self.text_field)
        if not self.validation_path:
            return self.split.divide({"train": corpus})
        return corpus, FileCorpus(find_files(self.validation_path, _TEXT_SUFFIXES), text_field=self.text_field)


class Hub(TextSource):
    """A data set of the Hugging Face hub, or a local copy of it.

    Args:
        name: how the data set is called here.
        repository: its name on the hub.
        config: which of its configurations.
        revision: a branch, tag or commit.
        split: what is validation.
        path: a local copy: a `save_to_disk` folder, a clone of the repository, parquet, jsonl or txt.
        streaming: read it as it arrives, up to `token_limit`, instead of downloading it whole.
        token_limit: training tokens, about; None takes all.
        document_start: a pattern; rows up to the next that matches it make one document. None: a row is a document.
    """

    def __init__(
        self,
        name: str,
        repository: str,
        *,
        length: int,
        split: Split,
        wrap: bool = False,
        config: str | None = None,
        revision: str | None = None,
        text_field: str = "text",
        path: str | None = None,
        streaming: bool = False,
        token_limit: int | None = None,
        document_start: str | None = None,
    ) -> None:
        super().__init__(length=length, wrap=wrap)
        if token_limit is not None and token_limit < 1:
            raise UserError(f"data.token_limit={token_limit} should be at least 1, or null for no limit")
        self.name = name
        self.repository = repository
        self.config = config
        self.revision = revision
        self.text_field = text_field
        self.split = split
        self.path = path
        self.streaming = streaming
        self.token_limit = token_limit
        self.document_start = document_start

    def identity(self) -> str:
        if self.path:
            origin = copy_identity(Path(self.path).expanduser(), self.config)
        else:
            origin = digest(self.repository, self.config, self.revision)
        return digest(origin, self.text_field, _describe(self.split), self.document_start)

    def divide(self) -> tuple[Corpus, Corpus]:
        if self.path:
            corpora = load_copy(Path(self.path).expanduser(), self.config, self.text_field)
        else:
            corpora = load_hub(self.repository, self.config, self.revision, self.text_field, streaming=self.streaming)
        if self.document_start is not None:
            corpora = {name: Grouped(corpus, self.document_start) for name, corpus in corpora.items()}
        return self.split.divide(corpora)


def _describe(split: Split) -> list[object]:
    """A rule and its numbers, for the fingerprint."""
    numbers = [_describe(value) if isinstance(value, Split) else value for value in vars(split).values()]
    return [type(split).__name__, *numbers]
