import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError

TEXTS = [
    "I'll say it's 12345 o'clock; we've DON'T and I'LL, they'd're 3.14159 'sure'",
    "the the there then  two   spaces\n\n\n  indented\n\ttabs\r\nand\r\rmore \n x",
    "naïve café cafe\u0301 한국어 \u1112\u1161\u11ab 東京 日本語、中文字。 ٣٤٥ ½ Ⅷ",
    "def f(x):\n    return {'a': x[0]}  # 🙂🙂🏽 \u200b\u00a0\u3000",
]
NASTY = [
    "",
    " ",
    "\n",
    " \n ",
    "'S 'LL 'Re x's",
    "a\u0301 e\u0301\u0323 \ufb01",
    "1234567890 1 22 333",
    "東京3東京 한국",
    "...!!!\n\n??",
    "<tool_call>x</tool_call> <tool_call>",
    "\x00\x7f\ud7ff",
    "\u0130\u0131'\u017fK",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
QWEN2_NAMES = {"bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


@cache
def trained() -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges of a small byte pair encoding."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def write_pair(folder: Path, config: dict, *, extra: tuple[str, ...] = (), version: str = "#version: 0.2\n") -> Path:
    """A folder as GPT-2 and Qwen2 are published, with `extra` tokens at the end of vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = trained()
    vocabulary = vocabulary | {name: len(vocabulary) + i for i, name in enumerate(extra)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "".join(f"{first} {second}\n" for first, second in merges)
    (folder / "merges.txt").write_text(version + lines, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def added(names: list[str], start: int | None = None, **flags: bool) -> dict[str, dict]:
    start = len(trained()[0]) if start is None else start
    plain = dict.fromkeys(["lstrip", "rstrip", "normalized", "single_word"], False)
    return {
        str(start + i): {**plain, "content": name, "special": not name.startswith("<tool"), **flags}
        for i, name in enumerate(names)
    }


def write_dream(folder: Path) -> Path:
    decoder = added([*SPECIAL[:3], "<tool_call>", *SPECIAL[3:]])
    decoder |= added(["<|strip|>"], len(trained()[0]) + len(decoder), lstrip=True, rstrip=True)
    config = {"tokenizer_class": "DreamTokenizer", "add_bos_token": False, "added_tokens_decoder": decoder}
    return write_pair(folder, config | QWEN2_NAMES)


def write_gpt2(folder: Path) -> Path:
    return write_pair(folder, {"model_max_length": 1024}, extra=("<|endoftext|>",))


WRITERS = {"Qwen2Tokenizer": write_dream, "GPT2Tokenizer": write_gpt2}


@pytest.fixture(scope="module", params=WRITERS)
def both(request, tmp_path_factory):
    """Ours, and transformers' reading of the same files."""
    transformers = pytest.importorskip("transformers")
    folder = WRITERS[request.param](tmp_path_factory.mktemp("pair"))
    return Tokenizer.load(folder), getattr(transformers, request.param).from_pretrained(folder)


texts = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from([*"'\n\r\t 019", "'ll", "'RE", "  ", "\r\n", "é", "e\u0301", "東", "한", "\u0301", "½"]),
        st.sampled_from([*SPECIAL, "<tool_call>", "<|strip|>", "<|im_", "end|>"]),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300)
@given(text=texts)
@example(text="".join(TEXTS))
@example(text=" ".join(NASTY))
def test_same_ids_as_transformers(both, text):
    ours, theirs = both
    ids = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, special=True) == ids
    assert ours.decode(ids, skip_special=False) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    plain = ours.encode(text)
    assert not set(plain) & set(theirs.all_special_ids)
    assert ours.encode_batch([text]) == [plain]


@pytest.mark.parametrize("text", [*TEXTS, *NASTY])
def test_nasty_texts(both, text):
    ours, theirs = both
    assert ours.encode(text) == ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False)


def test_special_names_of_dream(tmp_path):
    tokenizer = Tokenizer.load(write_dream(tmp_path))
    first = len(trained()[0])
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (first, first, first + 4)
    assert tokenizer.vocab_size == first + 7
    assert tokenizer.end_ids == {first, first + 2}
    assert tokenizer.encode("<|im_start|>", special=True) == [first + 1]


def test_gpt2_in_both_forms(tmp_path):
    pair = Tokenizer.load(write_gpt2(tmp_path / "pair"))
    vocabulary, merges = trained()
    model = models.BPE({**vocabulary, "<|endoftext|>": len(vocabulary)}, [(a, b) for a, b in merges])
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    raw.add_special_tokens(["<|endoftext|>"])
    (tmp_path / "one").mkdir()
    raw.save(str(tmp_path / "one" / "tokenizer.json"))
    one = Tokenizer.load(tmp_path / "one")
    assert (one.vocab_size, one.eos_id, one.end_ids) == (pair.vocab_size, pair.eos_id, pair.end_ids)
    for text in [*TEXTS, *NASTY, "a<|endoftext|>b"]:
        assert one.encode(text) == pair.encode(text)
        assert one.encode(text, special=True) == pair.encode(text, special=True)


def test_prefix_space_and_version_line(tmp_path):
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    prefixed = Tokenizer.load(write_pair(tmp_path / "a", config, extra=("<|endoftext|>",), version=""))
    plain = Tokenizer.load(write_gpt2(tmp_path / "b"))
    assert prefixed.encode("then") == plain.encode(" then") != plain.encode("then")


def test_declared_ids_with_gaps_are_kept(tmp_path):
    decoder = added(["<|endoftext|>"], 900) | added(["<|im_end|>"], 700)
    tokenizer = Tokenizer.load(write_pair(tmp_path, {"added_tokens_decoder": decoder}))
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (900, 901)
    assert tokenizer.encode("x<|im_end|>", special=True)[1:] == [700]
    assert tokenizer.end_ids == {700, 900}


def test_pair_survives_saving_and_pickling(tmp_path):
    tokenizer = Tokenizer.load(write_dream(tmp_path / "pair"))
    tokenizer.encode("x", special=True)
    tokenizer.save(tmp_path / "saved")
    # Over the published files as well: what was saved counts.
    tokenizer.save(tmp_path / "pair")
    copies = [
        Tokenizer.load(tmp_path / "saved"),
        Tokenizer.load(tmp_path / "pair"),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    for copy in copies:
        assert (copy.fingerprint, copy.end_ids) == (tokenizer.fingerprint, tokenizer.end_ids)
        assert copy.encode("a <|strip|> b<|im_end|>", special=True) == tokenizer.encode(
            "a <|strip|> b<|im_end|>", special=True
        )


def test_special_and_plain_encoding_interleaved(tmp_path):
    tokenizer = Tokenizer.load(write_dream(tmp_path))
    text = "<|im_start|>the tokyo 東京<|im_end|>" * 20
    want = {special: tokenizer.encode(text, special=special) for special in (False, True)}
    assert want[False] != want[True]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: tokenizer.encode(text, special=bool(i % 2)) == want[bool(i % 2)], range(400))
    assert all(found)


def test_special_tokens_map(tmp_path):
    folder = write_dream(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"bos_token": None, "pad_token": "<|mask|>"}
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    names = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    expected = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|mask|>"}
    assert Tokenizer.load(folder).special_names == expected


def damage(name: str, content: str | bytes | None):
    def change(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def change_json(name: str, change):
    def rewrite(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return rewrite


def decoder(change):
    return change_json("tokenizer_config.json", lambda config: change(config["added_tokens_decoder"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage("vocab.json", None), "no tokenizer at"),
        (damage("vocab.json", "{"), "vocab.json is not valid JSON"),
        (damage("vocab.json", b"\xff\xfe"), "vocab.json is not UTF-8"),
        (damage("vocab.json", "[]"), "JSON object"),
        (damage("vocab.json", "{}"), "lacks 256 of the 256 bytes"),
        (change_json("vocab.json", lambda v: v.update(a="1")), "whole number"),
        (change_json("vocab.json", lambda v: v.update(a=[])), "whole number"),
        (change_json("vocab.json", lambda v: v.update(a=-1)), "vocab.json is not a valid tokenizer"),
        (change_json("vocab.json", lambda v: v.update(a=v["b"])), "same id"),
        (change_json("vocab.json", lambda v: v.pop("Ġthe")), r"line \d+ of .*merges.txt"),
        (change_json("vocab.json", lambda v: v.update({"\ud800": 999})), "not a valid tokenizer"),
        (damage("merges.txt", None), "no .*merges.txt"),
        (damage("merges.txt", "#version: 0.2\nh e\nt\n"), "line 3 of .*merges.txt"),
        (damage("merges.txt", "#version: 0.2\nt h e\n"), "line 2 of .*merges.txt"),
        (damage("merges.txt", "of another vocabulary\n"), "line 1 of .*merges.txt"),
        (damage("merges.txt", b"\xff"), "merges.txt is not UTF-8"),
        (damage("tokenizer_config.json", "{"), "tokenizer_config.json is not valid JSON"),
        (change_json("tokenizer_config.json", lambda c: c.update(added_tokens_decoder=[])), "should be an object"),
        (change_json("tokenizer_config.json", lambda c: c.update(chat_template=5)), "chat_template in"),
        (change_json("tokenizer_config.json", lambda c: c.update(eos_token="<x>")), "no token '<x>'"),
        (decoder(lambda d: d.update(x={"content": "<y>"})), "entry 'x'"),
        (decoder(lambda d: d.update({"999": {}})), "entry '999'"),
        (decoder(lambda d: d.update({"999": {"content": ""}})), "entry '999'"),
        (decoder(lambda d: d.update({"7": {"content": "<y>"}})), "token 7 is '<y>', which contradicts"),
        (decoder(lambda d: d.update({"999": {"content": "the"}})), "token 999 is 'the', which contradicts"),
        (decoder(lambda d: d.update({"999": {"content": "<|im_end|>"}})), "token 999 is '<|im_end|>'"),
    ],
)
def test_damaged_files(change, message, tmp_path):
    change(write_dream(tmp_path))
    with pytest.raises(UserError, match=message.replace("|", r"\|")) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_single_file_wins_over_the_pair(tmp_path):
    folder = write_dream(tmp_path / "pair")
    other = Tokenizer.load(write_gpt2(tmp_path / "other"))
    other.save(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text("{}")
    assert Tokenizer.load(folder).fingerprint == other.fingerprint


def test_renumbered_tokens_are_noticed(tmp_path):
    tokenizer = Tokenizer.load(write_dream(tmp_path / "pair"))
    content = json.loads(tokenizer.state()["content"])
    for token in content["added_tokens"]:
        del content["model"]["vocab"][token["content"]]
        token["id"] += 100
    config = {"added_tokens_decoder": {token["id"]: token for token in content["added_tokens"]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not give '<\|endoftext\|>' the id \d+ that"):
        Tokenizer.load(tmp_path)
