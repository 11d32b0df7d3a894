"""The files in which tokenizers are published, read as the text of a `tokenizer.json` and what is declared beside it.

Two forms are read: a `tokenizer.json` (LLaDA, and most others), or GPT-2's `vocab.json` with `merges.txt`, as
Dream and others that descend from Qwen2 are published.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from mdm_lightning.errors import UserError
from mdm_lightning.files import read_json_object, read_text

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
SAVED_FILE = "mdm_tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_ROLES = ("bos_token", "eos_token", "pad_token")
_QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
# From Qwen2's published tokenizer. Unlike with GPT-2, every digit is a piece, and contractions may be in capitals.
_QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PublishedTokenizer:
    """A tokenizer's files.

    Attributes:
        origin: the file that the content is from, for messages.
        content: the text of a `tokenizer.json`.
        names: of `bos_token`, `eos_token` and `pad_token`, where they are declared.
        ids: of the added tokens, where they are declared beside the content.
        chat_template: Jinja source, if there is one.
        fingerprint: of the tokenizer that was saved, if the files were written by `Tokenizer.save`.
    """

    origin: str
    content: str
    names: dict[str, str | None]
    ids: dict[str, int]
    chat_template: str | None
    fingerprint: str | None


def read_published_tokenizer(path: Path) -> PublishedTokenizer:
    """Read a folder with a `tokenizer.json`, or with `vocab.json` and `merges.txt`; or a `tokenizer.json`.

    What `Tokenizer.save` declared beside it counts alone; else `tokenizer_config.json` goes before
    `special_tokens_map.json`. A `chat_template.jinja` goes before a template in one of them.

    Raises:
        UserError: missing, unreadable or contradictory files.
    """
    folder = path if path.is_dir() else path.parent
    # A folder that was saved into may still hold the configuration of another tokenizer.
    declared = read_json_object(folder / SAVED_FILE) or _configuration(folder)
    names = {role: _token_name(declared.get(role)) for role in _ROLES}
    added = _added_tokens(folder / _CONFIG_FILE, declared)
    if path.is_dir() and not (path / TOKENIZER_FILE).exists() and (path / "vocab.json").exists():
        origin, content = path / "vocab.json", _from_vocabulary(path, declared, added, names.values())
    else:
        origin = path / TOKENIZER_FILE if path.is_dir() else path
        if not origin.is_file():
            raise UserError(
                f"there is no tokenizer at {origin}; give a {TOKENIZER_FILE}, or a folder that contains one or "
                "vocab.json and merges.txt"
            )
        content = read_text(origin)
    fingerprint = str(declared["fingerprint"]) if "fingerprint" in declared else None
    ids = {token["content"]: token["id"] for token in added}
    return PublishedTokenizer(str(origin), content, names, ids, _chat_template(folder, declared), fingerprint)


def _configuration(folder: Path) -> dict[str, object]:
    config = {key: value for key, value in read_json_object(folder / _CONFIG_FILE).items() if value is not None}
    return read_json_object(folder / "special_tokens_map.json") | config


def _chat_template(folder: Path, declared: dict[str, object]) -> str | None:
    file = folder / TEMPLATE_FILE
    if file.is_file():
        # Exactly as it was saved: line ends are part of a template.
        return read_text(file, newline="")
    template = declared.get("chat_template")
    if isinstance(template, list):
        # Several templates with names; the others are for tools and retrieval.
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise UserError(f"chat_template in {folder / _CONFIG_FILE} should be text or a list of named texts; correct it")
    return template


def _from_vocabulary(folder: Path, config: dict[str, object], added: list[dict], named: Iterable[str | None]) -> str:
    """The `tokenizer.json` text of byte-level byte pair encoding, pre-tokenised as the configuration's class does.

    Args:
        added: the added tokens that the configuration lists.
        named: special tokens, which the configuration may not list.
    """
    file = folder / "vocab.json"
    vocabulary = _vocabulary(file)
    merges = _merges(folder / "merges.txt", vocabulary)
    by_id = {id_: name for name, id_ in vocabulary.items()}
    if len(by_id) < len(vocabulary):
        raise UserError(f"{file} gives several tokens the same id (damaged?); fetch it again")
    for token in added:
        name, id_ = token["content"], token["id"]
        # In the model's vocabulary as well, because the library numbers other added tokens as it likes.
        if vocabulary.setdefault(name, id_) != id_ or by_id.setdefault(id_, name) != name:
            raise UserError(
                f"added_tokens_decoder in {folder / _CONFIG_FILE} says that token {id_} is {name!r}, which "
                f"contradicts {file}: they are not of the same tokenizer, or damaged; fetch them again"
            )
    # GPT-2 is published without a list of added tokens.
    unlisted = {name for name in (END_OF_TEXT, *named) if name in vocabulary} - {token["content"] for token in added}
    added = added + [_added_token(vocabulary[name], {"content": name, "special": True}) for name in unlisted]
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": sorted(added, key=lambda token: token["id"]),
            **_pieces(config),
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        },
        ensure_ascii=False,
    )


def _pieces(config: dict[str, object]) -> dict[str, object]:
    """Normaliser and pre-tokeniser."""
    qwen2 = config.get("tokenizer_class") in _QWEN2
    prefix = bool(config.get("add_prefix_space"))
    bytes_ = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": not qwen2}
    if not qwen2:
        return {"normalizer": None, "pre_tokenizer": bytes_}
    split = {"type": "Split", "pattern": {"Regex": _QWEN2_PIECES}, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
    }


def _vocabulary(file: Path) -> dict[str, int]:
    vocabulary = read_json_object(file)
    ids = {name: id_ for name, id_ in vocabulary.items() if isinstance(id_, int)}
    if len(ids) < len(vocabulary):
        raise UserError(f"{file} should give every token a whole number (damaged or another format); fetch it again")
    missing = [symbol for symbol in ByteLevel.alphabet() if symbol not in ids]
    if missing:
        # Byte pair encoding drops what it cannot spell, without a word.
        raise UserError(f"{file} lacks {len(missing)} of the 256 bytes, so it is no byte-level vocabulary; fetch it")
    return ids


def _merges(file: Path, vocabulary: dict[str, int]) -> list[str]:
    """The merges, one "first second" each, first the most important."""
    if not file.is_file():
        raise UserError(f"there is no {file} to go with vocab.json; fetch it as well")
    merges = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        first, _, second = line.partition(" ")
        # The library panics at some of these.
        if first not in vocabulary or second not in vocabulary or first + second not in vocabulary:
            raise UserError(f"line {number} of {file} does not go with vocab.json (damaged?); fetch both again")
        merges.append(line)
    return merges


def _added_tokens(file: Path, config: dict[str, object]) -> list[dict]:
    """Entries of a `tokenizer.json`'s `added_tokens`."""
    declared = config.get("added_tokens_decoder", {})
    if not isinstance(declared, dict):
        raise UserError(f"added_tokens_decoder in {file} should be an object; fetch it again")
    added = []
    for id_, entry in declared.items():
        if not (id_.isdecimal() and isinstance(entry, dict) and _token_name(entry)):
            raise UserError(f"entry {id_!r} of added_tokens_decoder in {file} is no numbered token; fetch it again")
        added.append(_added_token(int(id_), entry))
    return added


def _added_token(id_: int, entry: dict) -> dict:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": id_, "content": entry["content"], **{flag: bool(entry.get(flag)) for flag in flags}}


def _token_name(entry: object) -> str | None:
    """A token's name; the files give either the name or an object with its `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None
