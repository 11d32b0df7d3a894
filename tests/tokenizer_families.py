"""Small tokenizers that are built as the published ones are: normaliser, pieces, model, decoder."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from mdm_lightning.data.tokenizer.spec import ByteLevel, Character
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer

CORPUS = [
    "Once upon a time there was a cat. Question: what is it?\nAnswer: yes no maybe 12345\n\n",
    "def has_close_elements(numbers, threshold):\n    for a in numbers:\n        if a:\n            return True\n",
    "the quick brown fox plays; playing, it jumped over the lazy dog again and again, A B C.\n    return False",
] * 8
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@lru_cache
def _sentencepiece() -> str:
    """Byte pair encoding with "▁" for spaces, and bytes for unknown characters."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *_BYTES], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *["a  b    c"] * 30], trainer)
    content = json.loads(tokenizer.to_str())
    content["model"] |= {"byte_fallback": True, "fuse_unk": True}
    content["pre_tokenizer"] = None
    content["added_tokens"] = content["added_tokens"][:3]
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    begin = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, begin],
    }
    return json.dumps(content)


def _with_special(*names: str, rstrip: bool = False) -> dict[str, Any]:
    content = json.loads(_sentencepiece())
    first = 1 + max(content["model"]["vocab"].values())
    flags = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False, "special": True}
    content["added_tokens"] += [{"id": id_, "content": name, **flags} for id_, name in enumerate(names, first)]
    return content


@lru_cache
def llama2() -> Tokenizer:
    return Tokenizer(_sentencepiece(), bos_token="<s>", eos_token="</s>")


@lru_cache
def mistral() -> Tokenizer:
    """No space behind special tokens."""
    content = _with_special("[INST]", "[/INST]")
    content["normalizer"] = None
    content["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
    }  # fmt: skip
    return Tokenizer(json.dumps(content), bos_token="<s>", eos_token="</s>")


@lru_cache
def phi3() -> Tokenizer:
    """Special tokens swallow the white space behind them."""
    content = _with_special("<|user|>", "<|assistant|>", "<|end|>", rstrip=True)
    return Tokenizer(json.dumps(content), bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)


@lru_cache
def t5() -> Tokenizer:
    """Unigram; white space is collapsed."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex("[ \n]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>", "<s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return Tokenizer(tokenizer.to_str(), eos_token="</s>", pad_token="<pad>")


@lru_cache
def gpt2() -> Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return Tokenizer(tokenizer.to_str())


@lru_cache
def bert() -> Tokenizer:
    """Word pieces: letters become small, white space is lost."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return Tokenizer(tokenizer.to_str(), bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]")


@lru_cache
def characters() -> Tokenizer:
    return Character(" abcdefghijklmnopqrstuvwxyz?:.\n").build(lambda: [], Path())


@lru_cache
def bytes_() -> Tokenizer:
    return ByteLevel().build(lambda: [], Path())


LOSSLESS: dict[str, Callable[[], Tokenizer]] = {
    "llama2": llama2, "mistral": mistral, "phi3": phi3, "gpt2": gpt2, "bytes": bytes_,
}  # fmt: skip
"""Those that can spell every text that does not begin with a space."""
ALL = LOSSLESS | {"t5": t5, "bert": bert, "characters": characters}
