"""Text in context: whatever is cut in two, no character comes or goes, with tokenizers of every kind."""

import itertools
import logging
from pathlib import Path

import pytest

from mdm_lightning.data.text import corpus, packing
from mdm_lightning.data.text.sources import Files
from mdm_lightning.data.tokenizer.context import (
    encode_after,
    encode_fragment,
    encode_pairs,
    encode_prompt,
    spell_out,
    split_spaces,
)
from mdm_lightning.data.tokenizer.spec import ByteLevel, Given
from tests.tokenizer_families import ALL, CORPUS, LOSSLESS, bert, characters, gpt2, llama2, mistral, phi3, t5

lossless = pytest.mark.parametrize("family", LOSSLESS.values(), ids=LOSSLESS)
every = pytest.mark.parametrize("family", ALL.values(), ids=ALL)

PROMPTS = ["", "Answer:", "Answer: ", "Question: what?\n", "def f(a):\n", "for a  ", "play", "日", "a\n\n", "a\n    "]
RESPONSES = ["yes", " yes", "    return True", "ing", "本", "\n\nb", "cafe\u0301", "a</s>b", "."]
SEAMS = list(itertools.product(PROMPTS, RESPONSES))


@lossless
def test_prompt_and_response_spell_their_text(family):
    tokenizer = family()
    for prompt, response in SEAMS:
        if not prompt.strip(" ") and response.startswith(" ") and family is mistral:
            continue  # this tokenizer takes a space at the beginning for its own
        [(before, after)] = encode_pairs(tokenizer, [prompt], [response])
        kept = split_spaces(tokenizer, prompt)[0]
        rest = (prompt + response)[len(kept) :]
        assert before == tokenizer.encode(kept) == encode_prompt(tokenizer, prompt)
        assert tokenizer.decode([*before, *after]) == prompt + response
        assert tokenizer.decode(after, after=before) == rest
        assert tokenizer.answer([*after, tokenizer.eos_id, *after], after=before) == rest


@pytest.mark.parametrize("prompt", ["or not: ", "for a  ", "a\n    "])
def test_spaces_at_a_prompts_end(prompt):
    """They go to what follows exactly where a tokenizer attaches them to it: nobody's prompt is cut otherwise."""
    for attaches in (gpt2, llama2, t5):
        assert split_spaces(attaches(), prompt) == (prompt.rstrip(" "), prompt[len(prompt.rstrip(" ")) :])
    for single in (characters, lambda: ByteLevel().build(list, Path())):
        tokenizer = single()
        assert split_spaces(tokenizer, prompt) == (prompt, "")
        assert tokenizer.decode(encode_prompt(tokenizer, prompt)) == prompt


@every
def test_what_is_lost_is_what_the_whole_text_loses(family):
    tokenizer = family()
    for prompt, response in SEAMS:
        [(before, after)] = encode_pairs(tokenizer, [prompt], [response])
        whole = tokenizer.encode(prompt + response)
        if tokenizer.unknown_id not in whole:  # neighbouring unknown characters may be one token
            assert tokenizer.decode([*before, *after]) == tokenizer.decode(whole)


@every
def test_words_have_the_ids_that_they_have_in_the_whole(family):
    tokenizer = family()
    for text in ("what is it? yes no", "once upon a time there was a cat."):
        words = text.split(" ")
        for cut in range(1, len(words)):
            before, after = " ".join(words[:cut]), " ".join(words[cut:])
            for prompt, response in ((before, f" {after}"), (f"{before} ", after)):
                [(ids, more)] = encode_pairs(tokenizer, [prompt], [response])
                assert ids + more == tokenizer.encode(text)


@every
def test_an_empty_response_has_no_ids(family):
    tokenizer = family()
    kept = split_spaces(tokenizer, "what ")[0]
    assert encode_pairs(tokenizer, ["what ", "", " "], ["", "", ""])[0] == (tokenizer.encode(kept), [])


@lossless
def test_fragments_begin_as_they_are_written(family):
    tokenizer = family()
    front = tokenizer.encode("Once")
    for text in (" upon a time", "upon a time", "    return", "\n", "日本", ""):
        ids = encode_fragment(tokenizer, text)
        assert tokenizer.decode(ids, after=front) == text
        assert tokenizer.decode([tokenizer.mask_id, *ids]) == f"░{text}"
        assert tokenizer.decode(ids, after=[tokenizer.mask_id]) == text


@lossless
@pytest.mark.parametrize("text", ["Once upon a time, é 日本 🎉!\n    return", "a  b", "é"])
def test_pieces_of_a_sequence_join_to_its_text(family, text):
    """Also where bytes of a character are missing, or masked."""
    tokenizer = family()
    ids = tokenizer.encode(text)
    pieces = spell_out(tokenizer, ids)
    assert "".join(piece for piece, _ in pieces) == text
    assert sum(size for _, size in pieces) == len(ids)
    assert max(size for _, size in pieces) <= 4
    ended = [*ids, tokenizer.eos_id, tokenizer.eos_id]
    spelled = tokenizer.special_names["eos_token"]
    assert [piece for piece, _ in spell_out(tokenizer, ended)][-2:] == [spelled, spelled]
    for place in range(len(ids)):
        masked = [*ids[:place], tokenizer.mask_id, *ids[place + 1 :]]
        found = spell_out(tokenizer, masked)
        assert sum(size for _, size in found) == len(ids)
        assert "░" in "".join(piece for piece, _ in found)


def test_masks_take_no_space_away():
    for tokenizer in (llama2(), mistral(), t5()):
        once, *rest = encode_fragment(tokenizer, " once"), encode_fragment(tokenizer, " upon a")
        masks = [tokenizer.mask_id] * 2
        assert tokenizer.decode([*once, *masks, *rest[0]], after=masks) == " once░░ upon a"


# Chats


@pytest.mark.parametrize("response", ["yes", " yes", "</s> is text", "\n  yes"])
def test_behind_a_special_token(response):
    """As the tokenizer begins a text there, or does not; what a response spells is never special."""
    for tokenizer, prompt in ((phi3(), "<|user|>\nwhat</s>"), (mistral(), "[INST]what[/INST]")):
        if response == " yes" and tokenizer is phi3():
            continue  # this tokenizer takes a space at the beginning for its own
        [(before, after)] = encode_pairs(tokenizer, [prompt], [response], special=True)
        assert before == tokenizer.encode(prompt, special=True)
        assert tokenizer.eos_id not in after
        assert tokenizer.decode(after, after=before) == response
        if "</s>" not in response:
            assert before + after == tokenizer.encode(prompt + response, special=True)


# Special tokens that text spells out


SPELLED = ["a</s>b", "<s>", "a <|endoftext|> b", "[MASK] [SEP] [CLS]", "<pad> <unk> <s>", "<|assistant|> x"]


@every
@pytest.mark.parametrize("text", SPELLED)
def test_text_never_becomes_a_special_token(family, text):
    tokenizer = family()
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    assert special.isdisjoint(tokenizer.encode(text))
    assert special.isdisjoint(encode_pairs(tokenizer, ["x"], [text])[0][1])
    if family in LOSSLESS.values():
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for name in tokenizer.special_names.values():
        assert tokenizer.encode(f"x{name}", special=True)[-1] in special


def test_whole_words_of_a_vocabulary_are_no_special_tokens():
    """[MASK] between spaces would be found in BERT's vocabulary."""
    tokenizer = bert()
    ids = tokenizer.encode("[MASK] [UNK] [PAD] cat")
    assert not {0, 2, 3, 4} & set(ids)
    assert tokenizer.encode("cat [SEP]", special=True)[-1] == tokenizer.eos_id
    assert tokenizer.decode([4, 3], skip_special=False) == "[MASK][SEP]"


# Unknown characters


@pytest.mark.parametrize("family", [t5, bert, characters])
def test_unknown_characters_are_noticed(family, tmp_path, caplog):
    tokenizer = family()
    assert tokenizer.unknown_id in tokenizer.encode("what 日本 is")
    (tmp_path / "text.txt").write_text("what 日 is it? " * 100, encoding="utf-8")
    data = Files(str(tmp_path), length=8).prepare(Given(tokenizer), tmp_path / "cache")
    assert "stand for unknown characters" in caplog.text
    assert tokenizer.unknown_id in data.train.stream


# Long documents


@lossless
@pytest.mark.parametrize("size", [5, 17, 64])
def test_pieces_of_a_document_lose_and_gain_nothing(family, size, tmp_path, monkeypatch):
    """However it is cut: one document gives one text, with one EOS behind it."""
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", size)
    monkeypatch.setattr(packing, "_BATCH_CHARACTERS", 3 * size)
    tokenizer = family()
    text = "".join(CORPUS[:3]) + "日本é🎉 " * 20 + "x" * 100
    path = tmp_path / "data"
    path.mkdir()
    (path / "a.txt").write_text(text, encoding="utf-8", newline="")
    (path / "b.txt").write_text("Once", encoding="utf-8")
    files = Files(str(path), length=4, validation_path=str(path))
    data = files.prepare(Given(tokenizer), tmp_path / "cache")
    stream = data.train.stream.tolist()
    end = stream.index(tokenizer.eos_id)
    assert tokenizer.decode(stream[:end]) == text
    assert tokenizer.decode(stream[end + 1 :]) == "Once"
    assert data.changed_text == 0


def test_a_document_in_pieces_has_the_ids_of_the_whole():
    for tokenizer in (gpt2(), llama2(), mistral()):
        text = "".join(CORPUS[:3])
        cuts = [i for i in range(1, len(text)) if text[i] == " " and text[i - 1].isalpha()]
        found = tokenizer.encode(text[: cuts[0]])
        for begin, end in itertools.pairwise([*cuts, len(text)]):
            found += encode_after(tokenizer, [text[max(0, begin - 64) : begin]], [text[begin:end]])[0]
        assert found == tokenizer.encode(text)


# Bits per byte


@pytest.mark.parametrize(("family", "kept"), [(gpt2, True), (llama2, True), (bert, False), (t5, False)])
def test_bits_per_byte_only_of_text_that_is_kept(family, kept, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "data"
    path.mkdir()
    for number in range(600):
        (path / f"{number}.txt").write_text(f"The cat number {number}  plays.", encoding="utf-8")
    for _ in range(2):  # also where all is cached
        caplog.clear()
        data = Files(str(path), length=8).prepare(Given(family()), tmp_path / "cache")
        assert (data.bytes_per_position is not None) == kept
        assert (data.changed_text == 0) == kept
        assert ("bits per byte are left out: the tokenizer does not give back 1e+02 %" in caplog.text) != kept
