"""The one place where text becomes ids and where the special tokens (MASK, BOS, EOS, PAD) are handled."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from torch import Tensor

from mdm_lightning.data.tokenizer.decoding import Decoder
from mdm_lightning.data.tokenizer.published import (
    END_OF_TEXT,
    SAVED_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    read_published_tokenizer,
)
from mdm_lightning.data.tokenizer.vocabulary import unknown_id, without_spelling
from mdm_lightning.errors import UserError
from mdm_lightning.files import write_atomically

# Left unset, the library prints a warning in every DataLoader worker that is forked after a corpus was tokenised.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

UNKNOWN = "�"
_COMMON_EOS = (END_OF_TEXT, "</s>", "[SEP]", "<eos>", "<|end_of_text|>")
_ENDS = {
    *(END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>"),
    *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>", "<|role_end|>"),
}


class Tokenizer:
    """Text to ids and back, around a `tokenizers.Tokenizer`.

    The ids 0 .. `vocab_size` - 1 are what a model can predict, BOS, EOS and PAD included. MASK comes after them, is
    never predicted and never encoded from text; nor, unless asked for, is any other special token: text that spells
    one out is encoded as ordinary text.

    Args:
        content: the text of a `tokenizer.json`.
        eos_token: name of the end-of-text token; None looks for the usual names, and adds `<|endoftext|>` if it finds
            none of them.
        bos_token: name of the token that text begins with; None for EOS.
        pad_token: name of the token for padding; None for EOS.
        chat_template: Jinja source of the text that a chat becomes (`data/chat.py`).

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
    end_ids: frozenset[int]
    """After one of these nothing of an answer comes: EOS, PAD and the special tokens known to end a turn."""
    special_spellings: frozenset[str]
    """How the special tokens are spelled; in text, these are text."""
    special_names: Mapping[str, str]
    """`bos_token`, `eos_token` and `pad_token`."""
    chat_template: str | None
    fingerprint: str
    """Equal where the ids mean the same; the chat template does not count."""

    def __init__(
        self,
        content: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        chat_template: str | None = None,
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
        roles = {name for name in (bos_token, eos_token, pad_token) if name is not None}
        special = _make_special(tokenizer, roles)
        model = json.loads(content)["model"]
        self._model = tokenizer.model
        if (spelling_none := without_spelling(model, special)) is not None:
            tokenizer.model = spelling_none
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._content = content
        # Not the number of entries: published vocabularies have gaps.
        self.vocab_size = self.mask_id = max(vocabulary.values()) + 1
        self.unknown_id = unknown_id(model)
        self.special_names = {
            "bos_token": bos_token or eos_token,
            "eos_token": eos_token,
            "pad_token": pad_token or eos_token,
        }
        self.bos_id, self.eos_id, self.pad_id = (vocabulary[name] for name in self.special_names.values())
        added = tokenizer.get_added_tokens_decoder()
        turns = {id_ for id_, token in added.items() if token.special and token.content in _ENDS}
        self.end_ids = frozenset({self.eos_id, self.pad_id} | turns)
        self.special_spellings = frozenset(special)
        self.chat_template = chat_template
        ids = json.dumps([self.bos_id, self.eos_id, self.pad_id])
        self.fingerprint = hashlib.sha256((content + ids).encode()).hexdigest()[:16]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text, without special tokens; with `special`, those that the text names become their ids."""
        return self.encode_batch([text], special=special)[0]

    @cached_property
    def _with_special(self) -> tokenizers.Tokenizer:
        # A second one around the same model, which costs nothing: to switch the first one would disturb other threads.
        tokenizer = tokenizers.Tokenizer(self._model)
        tokenizer.normalizer = self._tokenizer.normalizer
        tokenizer.pre_tokenizer = self._tokenizer.pre_tokenizer
        tokenizer.add_tokens([token for _, token in sorted(self._tokenizer.get_added_tokens_decoder().items())])
        return tokenizer

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Ids of many texts, on all cores; see `encode`."""
        tokenizer = self._with_special if special else self._tokenizer
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(
        self,
        ids: Iterable[int] | Tensor | np.ndarray,
        *,
        after: Iterable[int] | Tensor | np.ndarray = (),
        skip_special: bool = True,
    ) -> str:
        """Text of a sequence of ids `(l,)`; MASK is shown as "░".

        BOS, EOS and PAD are left out unless `skip_special` is False.

        Args:
            after: ids in front of these, whose text is not wanted, but decides whether this one begins with a space. A
                character of which they hold the first bytes only is part of the text.

        Raises:
            UserError: an id is beyond MASK, so the ids belong to another tokenizer.
        """
        listed = _listed(ids)
        if listed and not 0 <= min(listed) <= max(listed) <= self.mask_id:
            raise UserError(
                f"token ids {min(listed)} to {max(listed)} do not fit a vocabulary of {self.vocab_size}: "
                "use the tokenizer that the ids were made with"
            )
        return self._decoder.decode(listed, _listed(after), skip_special=skip_special)

    @cached_property
    def _decoder(self) -> Decoder:
        boundaries = frozenset({self.bos_id, self.eos_id, self.pad_id})
        added = self._tokenizer.get_added_tokens_decoder().items()
        special = {id_ for id_, token in added if token.special and id_ != self.unknown_id}
        behind_special = self.encode(f"{self.special_names['eos_token']}a", special=True)[1:]
        anything = self.encode("a")
        return Decoder(
            self._tokenizer, self.mask_id, boundaries | special, boundaries, behind_special == anything, anything
        )

    def answer(
        self, ids: Iterable[int] | Tensor | np.ndarray, *, after: Iterable[int] | Tensor | np.ndarray = ()
    ) -> str:
        """Text of an answer `(l,)` to the ids in front of it, up to the first of `end_ids`, without special tokens.

        MASK is shown as "░".

        Raises:
            UserError: an id is beyond MASK, so the ids belong to another tokenizer.
        """
        return self.decode(list(takewhile(lambda token: token not in self.end_ids, _listed(ids))), after=after)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, the special ids and the chat template into a folder, each file whole or not at all.

        A chat template that was there vanishes if this tokenizer has none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_FILE, self._content)
        if self.chat_template is None:
            (folder / TEMPLATE_FILE).unlink(missing_ok=True)
        else:
            write_atomically(folder / TEMPLATE_FILE, self.chat_template)
        special = {**self.special_names, "fingerprint": self.fingerprint}
        write_atomically(folder / SAVED_FILE, json.dumps(special, indent=1))

    def __reduce__(self) -> tuple[object, ...]:
        # The wrapped tokenizer would forget, when pickled, that text never yields special tokens.
        return Tokenizer.from_state, (self.state(),)

    def state(self) -> dict[str, str]:
        """The tokenizer as plain strings, for a checkpoint; `from_state` is the way back."""
        template = {} if self.chat_template is None else {"chat_template": self.chat_template}
        return {"content": self._content, **self.special_names, **template}

    @classmethod
    def from_state(cls, state: Mapping[str, str]) -> Self:
        """Raises:
        UserError: it is no state of a tokenizer, or of another version.
        """
        try:
            return cls(**state)
        except TypeError as error:
            raise UserError(f"the checkpoint holds no tokenizer that can be read: {error}") from error

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> Self:
        """Read a folder that holds a `tokenizer.json`, or `vocab.json` and `merges.txt`; or a `tokenizer.json`.

        Special tokens not named here are taken from the files that lie beside it: the one that `save` writes, or
        `tokenizer_config.json` and `special_tokens_map.json` as published on the hub.

        Raises:
            UserError: missing, unreadable, or not what was saved.
        """
        published = read_published_tokenizer(Path(path))
        given = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        names = {role: name or published.names[role] for role, name in given.items()}
        tokenizer = cls(published.content, origin=published.origin, chat_template=published.chat_template, **names)
        for name, id_ in published.ids.items():
            # The library numbers added tokens anew where a tokenizer.json leaves gaps between them.
            if tokenizer._tokenizer.token_to_id(name) not in (None, id_):
                raise UserError(
                    f"{published.origin} does not give {name!r} the id {id_} that tokenizer_config.json beside it "
                    "declares: they are not of the same tokenizer; fetch both again"
                )
        if not any(given.values()) and (published.fingerprint or tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(
                f"{published.origin} is not the tokenizer that was saved there (damaged or replaced); restore it"
            )
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
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content)
    # The library raises the bare Exception class.
    except Exception as error:
        raise UserError(
            f"{origin} is not a valid tokenizer ({error}); it is damaged or of another format: fetch or write it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _make_special(tokenizer: tokenizers.Tokenizer, roles: Iterable[str]) -> set[str]:
    """Names of all special tokens, the ones with a role included, whether or not the files call them special.

    A single character is text, whatever its role.
    """
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    roles = {name for name in roles if len(name) > 1}
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in sorted(roles - added)]
    )
    return added | roles


def _listed(ids: Iterable[int] | Tensor | np.ndarray) -> list[int]:
    return ids.tolist() if isinstance(ids, Tensor | np.ndarray) else list(ids)
