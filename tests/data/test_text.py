import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mdm_lightning.data.text import corpus
from mdm_lightning.data.text.corpus import FileCorpus, Piece
from mdm_lightning.data.text.sources import Files, Stdlib
from mdm_lightning.data.text.split import ByCharacter, ByHash, FirstDocuments, LastDocuments
from mdm_lightning.data.tokenizer.spec import ByteLevel, BytePairEncoding, Character, FromTask
from mdm_lightning.errors import UserError

from .conftest import make_texts, write_jsonl


def gather(sequences) -> torch.Tensor:
    return sequences.__getitems__(list(range(len(sequences))))["tokens"]


def documents(found: corpus.Corpus) -> list[str]:
    whole, parts = [], ""
    for text, last in found.pieces():
        parts += text
        if last:
            whole.append(parts)
            parts = ""
    assert not parts
    return whole


# Packing


def test_blocks_are_the_joined_documents(tmp_path, corpus_file, texts):
    data = Files(str(corpus_file), length=32).prepare(ByteLevel(), tmp_path)
    sides = ByHash().divide({"train": FileCorpus([corpus_file])})
    for sequences, side in zip((data.train, data.validation), sides, strict=True):
        joined = b"".join(text.encode() + b"\xff" for text in documents(side))
        expected = torch.tensor([256 if byte == 255 else byte for byte in joined])
        assert len(sequences) == len(joined) // 32
        assert torch.equal(gather(sequences).reshape(-1), expected[: len(sequences) * 32])
    assert sorted(documents(sides[0]) + documents(sides[1])) == sorted(texts)


def test_wrapped_blocks_hold_the_same_stream_between_bos_and_eos(tmp_path, corpus_file):
    plain = Files(str(corpus_file), length=30).prepare(BytePairEncoding(300), tmp_path)
    wrapped = Files(str(corpus_file), length=32, wrap=True).prepare(BytePairEncoding(300), tmp_path)
    tokens = gather(wrapped.train)
    assert (tokens[:, 0] == wrapped.tokenizer.bos_id).all()
    assert (tokens[:, -1] == wrapped.tokenizer.eos_id).all()
    assert torch.equal(tokens[:, 1:-1], gather(plain.train))
    assert plain.fingerprint != wrapped.fingerprint


def test_length_and_wrap_share_one_token_file(tmp_path, corpus_file):
    for length, wrap in ((16, False), (64, False), (16, True)):
        Files(str(corpus_file), length=length, wrap=wrap).prepare(BytePairEncoding(300), tmp_path)
    assert len(list(tmp_path.rglob("train-*.tokens"))) == 1


def test_batches(tmp_path, corpus_file):
    train = Files(str(corpus_file), length=32).prepare(ByteLevel(), tmp_path).train
    batch = train.__getitems__([5, 0, 5])
    assert batch["tokens"].dtype == torch.int64
    assert batch["maskable"].dtype == torch.bool
    assert batch["maskable"].shape == (3, 32)
    assert batch["maskable"].all()
    assert torch.equal(batch["tokens"][0], train[5]["tokens"])
    assert torch.equal(batch["tokens"][1], train[0]["tokens"])


@pytest.mark.parametrize("wrap", [False, True])
def test_bytes_per_position(wrap, tmp_path, corpus_file):
    data = Files(str(corpus_file), length=20, wrap=wrap).prepare(BytePairEncoding(400), tmp_path)
    tokens = gather(data.validation)
    text = "".join(data.tokenizer.decode(row) for row in tokens)
    # Only the dropped tail differs, less than one sequence of many.
    assert data.bytes_per_position == pytest.approx(len(text.encode()) / tokens.numel(), rel=0.03)


def test_fingerprint_follows_what_matters(tmp_path, texts):
    def fingerprint(length=16, spec=None, **keywords) -> str:
        return Files(length=length, **keywords).prepare(spec or ByteLevel(), tmp_path / "cache").fingerprint

    first, second = write_jsonl(tmp_path / "1" / "a.jsonl", texts), write_jsonl(tmp_path / "2" / "a.jsonl", texts[1:])
    same = write_jsonl(tmp_path / "3" / "a.jsonl", texts)
    base = fingerprint(path=str(first))
    assert fingerprint(path=str(same)) == base
    others = [
        fingerprint(path=str(second)),
        fingerprint(path=str(first), length=17),
        fingerprint(path=str(first), spec=Character()),
        fingerprint(path=str(first), validation_fraction=0.1),
        fingerprint(path=str(first), validation_path=str(second)),
    ]
    assert len({base, *others}) == 6


def test_changed_file_is_tokenised_again(tmp_path, texts):
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    before = Files(str(path), length=16).prepare(ByteLevel(), tmp_path / "cache")
    write_jsonl(path, texts[:-200])
    assert len(Files(str(path), length=16).prepare(ByteLevel(), tmp_path / "cache").train) < len(before.train)


def test_unknown_characters_are_reported(tmp_path, corpus_file, caplog):
    Files(str(corpus_file), length=16).prepare(Character("abc"), tmp_path)
    assert "stand for unknown characters" in caplog.text


def test_half_a_surrogate_pair_does_not_stop_anything(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud800 and some more text that is long enough"}\n' * 20)
    assert len(Files(str(path), length=8).prepare(ByteLevel(), tmp_path).train)


# Reading


def test_every_format_gives_the_same_documents(tmp_path, texts):
    write_jsonl(tmp_path / "a.jsonl", texts[:2])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in texts[2:4]))
    pq.write_table(pa.table({"text": texts[4:6], "other": [1, 2]}), tmp_path / "c.parquet")
    with gzip.open(tmp_path / "d.txt.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(texts[6])
    (tmp_path / "e.md").write_text(texts[7], encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "f.py").write_text(texts[8], encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "image.png").write_bytes(b"\xff")
    found = corpus.find_files(tmp_path, (".txt", ".md", ".py", ".jsonl", ".parquet"))
    assert sorted(documents(FileCorpus(found))) == sorted(texts[:9])
    assert FileCorpus(found).count() == 9
    assert corpus.find_files(tmp_path / "*.md", ()) == [tmp_path / "e.md"]


@pytest.mark.parametrize("spec", [ByteLevel(), BytePairEncoding(400)], ids=["byte", "bpe"])
@pytest.mark.parametrize("separator", [" ", "\n", "  \n\n "])
def test_pieces_of_a_big_file_are_tokenised_as_the_whole(spec, separator, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 500)
    path = tmp_path / "big.txt"
    whole = separator.join(" ".join(make_texts(60)).split(" "))
    path.write_text(whole, encoding="utf-8")
    pieces = list(FileCorpus([path]).pieces())
    assert len(pieces) > 10
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert "".join(piece.text for piece in pieces) == whole
    tokenizer = spec.build(lambda: [whole], tmp_path)
    apart = [token for piece in pieces for token in tokenizer.encode(piece.text)]
    if separator == "  \n\n " and isinstance(spec, BytePairEncoding):
        # No clean cut exists; the text is still all there.
        assert tokenizer.decode(apart) == whole
    else:
        assert apart == tokenizer.encode(whole)


def test_text_is_read_as_it_is_written(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert documents(FileCorpus([tmp_path / "a.txt"])) == ["one\r\ntwo\rthree\n"]


def test_stdlib(tmp_path):
    data = Stdlib(length=64).prepare(ByteLevel(), tmp_path)
    assert 5e6 < len(data.train) * 64 < 2e7
    assert 0.01 < len(data.validation) / len(data.train) < 0.15
    assert "import" in data.tokenizer.decode(gather(data.validation)[:50].reshape(-1))


# Splits


class Listed(corpus.Corpus):
    def __init__(self, pieces: list[Piece]) -> None:
        self.listed = pieces

    def pieces(self):
        return iter(self.listed)


def halves(texts: list[str]) -> Listed:
    return Listed([piece for text in texts for piece in (Piece(text[:3], False), Piece(text[3:], True))])


@pytest.mark.parametrize("rule", [ByHash(0.1), LastDocuments(40), FirstDocuments(40)])
def test_documents_are_divided_whole(rule, texts):
    train, validation = (documents(side) for side in rule.divide({"train": halves(texts)}))
    assert sorted(train + validation) == sorted(texts)
    assert 20 < len(validation) < 100
    if isinstance(rule, LastDocuments):
        assert validation == texts[-40:]
    if isinstance(rule, FirstDocuments):
        assert validation == texts[:40]


def test_duplicates_fall_on_one_side(texts):
    train, validation = ByHash(0.1).divide({"train": halves(texts + texts)})
    assert not set(documents(train)) & set(documents(validation))


@pytest.mark.parametrize("rule", [ByHash(0.1), LastDocuments(1000), FirstDocuments(1000)])
@pytest.mark.parametrize("count", [1, 3, 15])
def test_small_corpora_have_both_splits(rule, count, caplog):
    caplog.set_level("INFO")
    texts = make_texts(count)
    train, validation = rule.divide({"train": halves(texts)})
    sizes = [sum(map(len, side.texts())) for side in (train, validation)]
    assert sum(sizes) == sum(map(len, texts))
    assert 0 < sizes[1] < 0.3 * sizes[0]
    assert "small corpus" in caplog.text or "few documents" in caplog.text


def test_characters_are_divided_exactly():
    train, validation = ByCharacter(0.9, 0.95).divide({"train": halves(["0123456789" * 10, "x" * 20])})
    assert documents(train) == [("0123456789" * 10)[:90], "x" * 18]
    assert documents(validation) == [("0123456789" * 10)[90:95], "x"]


def test_explicit_validation_text(tmp_path, texts):
    train, held = write_jsonl(tmp_path / "t.jsonl", texts[:9]), write_jsonl(tmp_path / "v.jsonl", texts[9:12])
    data = Files(str(train), validation_path=str(held), length=8).prepare(ByteLevel(), tmp_path)
    assert data.train.stream.size == sum(len(text.encode()) + 1 for text in texts[:9])
    assert data.validation.stream.size == sum(len(text.encode()) + 1 for text in texts[9:12])


# Bad input


def prepare(path: Path | str, length: int = 8, **keywords):
    return Files(str(path), length=length, **keywords).prepare(ByteLevel(), Path(path).parent / "cache")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no text"),
        ("a.txt", b"abc", "less than one sequence"),
        ("a.txt", b"\xff\xfe\xfa" * 99, "not UTF-8"),
        ("a.txt.gz", b"no gzip at all", "damaged"),
        ("a.txt.gz", gzip.compress(b"word " * 9999, mtime=0)[:-20], "damaged"),
        ("a.jsonl", b'{"text": "one"}\n{"text": ', "a.jsonl:2 is not valid JSON"),
        ("a.jsonl", b'{"body": "one"}\n', "set data.text_field= to one of: body"),
        ("a.jsonl", b'["one"]\n', "no field 'text'"),
        ("a.jsonl", b'{"text": 5}\n', "no text but int"),
        ("a.jsonl", b'{"text": ""}\n{"text": null}\n', "no text"),
        ("a.jsonl", b'"\xff\xfe"\n', "not UTF-8"),
        ("a.parquet", b"PAR1", "not a valid parquet"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / name)


def test_bad_parquet_column(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="to one of: body"):
        prepare(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: prepare(path / "nothing.txt"), "does not exist"),
        (lambda path: prepare(path / "*.txt"), "matches no file"),
        (lambda path: prepare(path), "contains none of"),
        (lambda path: Files(None, length=8), "data.path="),
        (lambda path: Files("x", length=0), "no room"),
        (lambda path: Files("x", length=2, wrap=True), "no room"),
        (lambda path: Files("x", length=8, validation_fraction=1.0), "between 0 and 1"),
        (lambda path: LastDocuments(0), "at least 1"),
        (lambda path: ByCharacter(0.9, 0.8), "train_end"),
        (lambda path: Stdlib(length=8).prepare(None, path), "needs a tokenizer"),
        (lambda path: Stdlib(length=8).prepare(FromTask(), path), "needs a tokenizer"),
    ],
)
def test_bad_settings(make, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        make(tmp_path / "empty")
