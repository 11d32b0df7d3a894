import json
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from mdm_lightning.data import hub
from mdm_lightning.data.tokenizer.spec import ByteLevel, BytePairEncoding, Character, FromTask, Pretrained
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.errors import UserError
from tests.patience import SECONDS

from .conftest import make_texts

HARD = ["", "a", "  two  spaces\n\n\ttabs\r\n", "naïve café 東京 🙂 \u200b", "<|endoftext|> [MASK] ░ �", "\x00\x7f"]


def build(spec, tmp_path: Path, texts: list[str] | None = None) -> Tokenizer:
    return spec.build(lambda: texts or make_texts(200), tmp_path)


@pytest.mark.parametrize("spec", [ByteLevel(), BytePairEncoding(400)], ids=["byte", "bpe"])
@pytest.mark.parametrize("text", HARD)
def test_byte_level_tokenizers_spell_every_text(spec, text, tmp_path):
    tokenizer = build(spec, tmp_path)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, "x"])[0] == ids
    assert not {tokenizer.mask_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)


def test_byte_ids_are_bytes(tmp_path):
    tokenizer = build(ByteLevel(), tmp_path)
    assert tokenizer.encode("né東") == list("né東".encode())
    assert (tokenizer.vocab_size, tokenizer.mask_id, tokenizer.eos_id) == (257, 257, 256)


def test_mask_follows_the_vocabulary_and_is_shown(tmp_path):
    tokenizer = build(BytePairEncoding(300), tmp_path)
    assert tokenizer.mask_id == tokenizer.vocab_size == 300
    ids = [tokenizer.bos_id, *tokenizer.encode("mask"), tokenizer.mask_id, tokenizer.mask_id, *tokenizer.encode(" me")]
    assert tokenizer.decode(torch.tensor(ids)) == "mask░░ me"
    assert tokenizer.decode(ids, skip_special=False) == "<|endoftext|>mask░░ me"
    with pytest.raises(UserError, match="do not fit"):
        tokenizer.decode([301])


def test_unknown_characters_do_not_vanish(tmp_path):
    tokenizer = build(Character("ab "), tmp_path)
    assert tokenizer.decode(tokenizer.encode("ab xy")) == "ab ��"
    assert tokenizer.encode("x") == [tokenizer.unknown_id]


def test_alphabet_comes_from_the_corpus(tmp_path):
    tokenizer = build(Character(), tmp_path, ["banana", "東"])
    assert tokenizer.decode(tokenizer.encode("ban東")) == "ban東"
    assert [tokenizer.decode([i]) for i in range(4)] == ["a", "b", "n", "東"]
    with pytest.raises(UserError, match="no text"):
        Character().build(lambda: [], tmp_path / "other")


def test_training_is_deterministic_over_processes(tmp_path):
    code = """if True:
        import sys
        from pathlib import Path
        from tests.data.conftest import make_texts
        from mdm_lightning.data.tokenizer.spec import BytePairEncoding
        print(BytePairEncoding(600).build(lambda: make_texts(400), Path(sys.argv[1])).fingerprint)
    """
    found = set()
    for threads, seed in (("1", "1"), ("2", "2")):
        environment = {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed, "PATH": ""}
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / threads)],
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        found.add(run.stdout)
    assert len(found) == 1


def test_built_once_then_found(tmp_path):
    first = build(BytePairEncoding(300), tmp_path)
    assert BytePairEncoding(300).build(lambda: pytest.fail("read again"), tmp_path).fingerprint == first.fingerprint


def test_damaged_cache_is_built_again(tmp_path, caplog):
    first = build(BytePairEncoding(300), tmp_path)
    file = next(tmp_path.rglob("tokenizer.json"))
    file.write_text(file.read_text()[:-50])
    assert build(BytePairEncoding(300), tmp_path).fingerprint == first.fingerprint
    assert "built again" in caplog.text
    file.write_text(file.read_text().replace('"end_of_word_suffix": null', '"end_of_word_suffix": ""'))
    assert build(BytePairEncoding(300), tmp_path).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "copy",
    [
        lambda tokenizer, folder: (tokenizer.save(folder), Tokenizer.load(folder))[1],
        lambda tokenizer, folder: pickle.loads(pickle.dumps(tokenizer)),
        lambda tokenizer, folder: Tokenizer.from_state(json.loads(json.dumps(tokenizer.state()))),
    ],
    ids=["save", "pickle", "state"],
)
def test_copies_are_equal(copy, tmp_path):
    tokenizer = Tokenizer(
        from_characters("abc", special=["<s>", "<e>", "<p>"]), bos_token="<s>", eos_token="<e>", pad_token="<p>"
    )
    other = copy(tokenizer, tmp_path)
    for name in ("vocab_size", "bos_id", "eos_id", "pad_id", "fingerprint"):
        assert getattr(other, name) == getattr(tokenizer, name)
    assert other.encode("a<e>b") == tokenizer.encode("a<e>b")
    assert tokenizer.eos_id not in other.encode("<e>")


def test_chat_template_is_kept(tmp_path):
    template = "{{ bos_token }}\r\n{% for m in messages %}é{% endfor %}\n"
    without = Tokenizer(from_characters("abc"))
    tokenizer = Tokenizer(from_characters("abc"), chat_template=template)
    assert tokenizer.fingerprint == without.fingerprint
    # Checkpoints from before there were templates have states without one.
    assert set(without.state()) == {"content", "bos_token", "eos_token", "pad_token"}
    assert Tokenizer.from_state(json.loads(json.dumps(tokenizer.state()))).chat_template == template
    assert pickle.loads(pickle.dumps(tokenizer)).chat_template == template
    assert pickle.loads(pickle.dumps(without)).chat_template is None
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template == template
    without.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template is None


def test_answers_end_where_a_turn_ends():
    special = ["<s>", "<e>", "<p>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
    tokenizer = Tokenizer(from_characters("ab ", special=special), bos_token="<s>", eos_token="<e>", pad_token="<p>")
    ids = {name: tokenizer.encode(name, special=True)[0] for name in special}
    said, mask = tokenizer.encode("ab"), tokenizer.mask_id
    assert tokenizer.end_ids == {ids[name] for name in ("<e>", "<p>", "<|im_end|>", "<|eot_id|>")}
    for end in tokenizer.end_ids:
        assert tokenizer.answer(torch.tensor([ids["<|im_start|>"], *said, mask, ids["<s>"], end, *said])) == "ab░"
    assert tokenizer.answer(said) == "ab"
    assert tokenizer.answer([tokenizer.eos_id]) == tokenizer.answer([]) == ""
    with pytest.raises(UserError, match="do not fit"):
        tokenizer.answer([mask + 1])


def published(folder: Path, special: list[str], config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    raw = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))  # pyright: ignore
    raw.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    raw.add_special_tokens(special)
    raw.enable_truncation(2)
    raw.enable_padding(length=9)
    raw.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_gpt2_layout(tmp_path):
    tokenizer = build(Pretrained(str(published(tmp_path, ["<|endoftext|>"]))), tmp_path)
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id == 2
    assert tokenizer.mask_id == tokenizer.vocab_size == 3
    # Neither truncated nor padded, whatever the file says.
    assert tokenizer.encode("a b a b") == [0, 1, 0, 1]


def test_special_tokens_as_declared_or_named(tmp_path):
    config = {"bos_token": "<s>", "eos_token": {"content": "<e>"}, "pad_token": None}
    folder = published(tmp_path, ["<s>", "<e>", "<p>"], config)
    declared = build(Pretrained(str(folder)), tmp_path)
    assert (declared.bos_id, declared.eos_id, declared.pad_id) == (2, 3, 3)
    named = build(Pretrained(str(folder / "tokenizer.json"), pad_token="<p>"), tmp_path)
    assert (named.bos_id, named.eos_id, named.pad_id) == (2, 3, 4)
    with pytest.raises(UserError, match="no token '<x>'"):
        build(Pretrained(str(folder), eos_token="<x>"), tmp_path)


def test_missing_end_is_added(tmp_path):
    tokenizer = build(Pretrained(str(published(tmp_path, []))), tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (3, 2)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": null}', b"\xff\xfe"])
def test_what_is_no_tokenizer(content, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(file)


def test_replaced_file_is_noticed(tmp_path):
    Tokenizer(from_characters("abc")).save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(from_characters("abd", special=["<|endoftext|>"]))
    with pytest.raises(UserError, match="not the tokenizer that was saved"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BytePairEncoding(256), "too small"),
        (lambda: BytePairEncoding(300, 0), "sample_characters"),
        (lambda: Character(""), "empty"),
        (lambda: Pretrained(None), "tokenizer.name_or_path="),
        (lambda: Pretrained("./nothing").build(list, Path()), "no tokenizer at"),
        (lambda: Pretrained("/nothing.json").build(list, Path()), "no tokenizer at"),
        (lambda: Pretrained("not a name!").build(list, Path()), "neither an existing path nor a hub name"),
        (lambda: FromTask().build(list, Path()), "tokenizer=bpe"),
        (lambda: Tokenizer.load("/nothing"), "no tokenizer at"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_hub_without_network_is_tried_once(tmp_path, monkeypatch):
    """An answer within seconds: a library that tries again and again takes minutes."""
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://nothing.invalid")
    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr(hub, "getproxies", dict)
    with pytest.raises(UserError, match=r"tokenizer\.name_or_path="):
        Pretrained("openai-community/nothing-of-that-name").build(list, tmp_path)
    assert asked == ["nothing.invalid"]
