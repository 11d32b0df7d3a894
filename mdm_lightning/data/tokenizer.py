"""The one place where text becomes ids and where the special tokens (MASK, BOS, EOS, PAD) are handled."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from torch import Tensor

from mdm_lightning.data.atomic import write_atomically
from mdm_lightning.errors import UserError

# Left unset, the library prints a warning in every DataLoader worker that is forked after a corpus was tokenised.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

MASK_SYMBOL = "░"
UNKNOWN = "�"
END_OF_TEXT = "<|endoftext|>"
_SPECIAL_IDS = "mdm_tokenizer.json"
_COMMON_EOS = (END_OF_TEXT, "</s>", "[SEP]", "<eos>", "<|end_of_text|>")


class Tokenizer:
    """Text to ids and back, around a `tokenizers.Tokenizer`.

    The ids 0 .. `vocab_size` - 1 are what a model can predict, BOS, EOS and PAD included. MASK comes after them, is
    never predicted and never encoded from text; nor is any other special token: text that spells one out is
    encoded as ordinary text.

    Args:
        content: the text of a `tokenizer.json`.
        bos_token, eos_token, pad_token: names of tokens in it. A missing EOS is looked up under the usual names and
            added (`<|endoftext|>`) if there is none; missing BOS and PAD fall back to EOS.

    Raises:
        UserError: the content is no tokenizer, or a named token is not in its vocabulary.
    """

    vocab_size: int
    mask_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    unknown_id: int | None
    """What a character that the vocabulary cannot spell becomes; None where every text can be spelled."""
    fingerprint: str

    def __init__(
        self,
        content: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        origin: str = "the tokenizer",
    ) -> None:
        tokenizer = _parse(content, origin)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        for name in (bos_token, eos_token, pad_token):
            if name is not None and name not in vocabulary:
                raise UserError(f"{origin} has no token {name!r}; name one that is in its vocabulary")
        if eos_token is None:
            eos_token = next((name for name in _COMMON_EOS if name in vocabulary), None)
        if eos_token is None:
            eos_token = END_OF_TEXT
            tokenizer.add_special_tokens([tokenizers.AddedToken(eos_token, special=True, normalized=False)])
            content = tokenizer.to_str()
            vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._content = content
        # Not the number of entries: published vocabularies have gaps.
        self.vocab_size = self.mask_id = max(vocabulary.values()) + 1
        self.unknown_id = vocabulary.get(getattr(tokenizer.model, "unk_token", None) or "")
        self._special = {
            "bos_token": bos_token or eos_token,
            "eos_token": eos_token,
            "pad_token": pad_token or eos_token,
        }
        self.bos_id, self.eos_id, self.pad_id = (vocabulary[name] for name in self._special.values())
        special = json.dumps([self.bos_id, self.eos_id, self.pad_id])
        self.fingerprint = hashlib.sha256((content + special).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without special tokens, on all cores."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int] | Tensor | np.ndarray, *, skip_special: bool = True) -> str:
        """Text of a sequence of ids `(l,)`; MASK is shown as "░".

        BOS, EOS and PAD are left out unless `skip_special` is False.

        Raises:
            UserError: an id is beyond MASK, so the ids belong to another tokenizer.
        """
        listed: list[int] = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else list(ids)
        if listed and not 0 <= min(listed) <= max(listed) <= self.mask_id:
            raise UserError(
                f"token ids {min(listed)} to {max(listed)} do not fit a vocabulary of {self.vocab_size}: "
                "use the tokenizer that the ids were made with"
            )
        skipped = {self.bos_id, self.eos_id, self.pad_id} if skip_special else set()
        runs: list[list[int]] = [[]]
        for token in listed:
            if token == self.mask_id:
                runs.append([])
            elif token not in skipped:
                runs[-1].append(token)
        return MASK_SYMBOL.join(self._tokenizer.decode(run, skip_special_tokens=skip_special) for run in runs)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the special ids into a folder, each file whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        special = self._special | {"fingerprint": self.fingerprint}
        write_atomically(folder / "tokenizer.json", self._content)
        write_atomically(folder / _SPECIAL_IDS, json.dumps(special, indent=1))

    def __reduce__(self) -> tuple[object, ...]:
        # The wrapped tokenizer would forget, when pickled, that text never yields special tokens.
        return Tokenizer.from_state, (self.state(),)

    def state(self) -> dict[str, str]:
        """The tokenizer as plain strings, for a checkpoint; `from_state` is the way back."""
        return {"content": self._content, **self._special}

    @classmethod
    def from_state(cls, state: Mapping[str, str]) -> Self:
        return cls(**state)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> Self:
        """Read a folder that holds a `tokenizer.json`, or such a file.

        Special tokens not named here are taken from the files that lie beside it: the one that `save` writes or a
        `tokenizer_config.json` as published on the hub.

        Raises:
            UserError: missing, unreadable, or not what was saved.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise UserError(f"there is no tokenizer at {file}; give a tokenizer.json or a folder that contains one")
        beside = _json_object(file.with_name("tokenizer_config.json"))
        saved = _json_object(file.with_name(_SPECIAL_IDS))
        names = {}
        for key, given in (("bos_token", bos_token), ("eos_token", eos_token), ("pad_token", pad_token)):
            names[key] = given or _token_name(saved.get(key)) or _token_name(beside.get(key))
        try:
            content = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text, so it is no tokenizer.json; fetch or write it again") from error
        tokenizer = cls(content, origin=str(file), **names)
        renamed = any((bos_token, eos_token, pad_token))
        if not renamed and saved.get("fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(f"{file} is not the tokenizer that was saved there (damaged or replaced); restore it")
        return tokenizer


def from_characters(characters: Iterable[str], *, special: Sequence[str] = ()) -> str:
    """The `tokenizer.json` text of a tokenizer with one id per character, in the order given.

    Every other character becomes "�", which is last among the characters. The names in `special` are special tokens
    with the ids that follow.
    """
    listed = dict.fromkeys([*characters, UNKNOWN])
    # Byte pair encoding without merges: the fastest way to one token per character that the library has.
    model = BPE({c: i for i, c in enumerate(listed)}, [], unk_token=UNKNOWN, fuse_unk=False)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer.to_str()


def _parse(content: str, origin: str) -> tokenizers.Tokenizer:
    # The library raises the bare Exception class for a bad file, so what can be wrong is looked at first.
    problem = UserError(f"{origin} is not a valid tokenizer.json (damaged or another format); fetch or write it again")
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise problem from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise problem
    tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _json_object(file: Path) -> dict[str, object]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON; restore or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} should hold a JSON object; restore or remove it")
    return content


def _token_name(entry: object) -> str | None:
    """A token's name; tokenizer_config.json gives either the name or an object with its `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
