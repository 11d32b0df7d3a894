import gzip
import json
import logging
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
from lightning.pytorch.plugins import Precision

from mdm_lightning.data.source import PreparedData
from mdm_lightning.data.text.sources import Files
from mdm_lightning.data.tokenizer.chat import render_chat
from mdm_lightning.data.tokenizer.context import encode_prompt
from mdm_lightning.data.tokenizer.spec import ByteLevel, BytePairEncoding, Character, Given, Pretrained, TokenizerSpec
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.errors import UserError
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.training.dashboards import GeneratedText
from mdm_lightning.training.datamodule import MaskedDataModule
from mdm_lightning.training.module import MaskedDiffusion
from tests.patience import SECONDS
from tests.tokenizer_families import LOSSLESS, TEMPLATE, phi3

from .conftest import WORDS

# As published with LLaDA-8B-Instruct: it opens another answer, whether asked to or not.
LLADA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADINGS = (
    "{% for message in messages %}{{ '### ' + message.role + ':\n' + message.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
SPECIAL = ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>")


def make_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    return [(f"{i}. {rng.choice(WORDS)}?", " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))) for i in range(count)]


def write_pairs(path: Path, pairs) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"question": prompt, "answer": response, "id": 7}) + "\n" for prompt, response in pairs)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def prepare(path: Path, length: int = 100, spec: TokenizerSpec | None = None, **keywords) -> PreparedData:
    files = Files(str(path), length=length, **{"prompt_field": "question", "response_field": "answer", **keywords})
    cache = (path if path.is_dir() else path.parent).parent / "cache"
    return files.prepare(spec or ByteLevel(), cache)


def whole(sequences) -> dict[str, torch.Tensor]:
    return sequences.__getitems__(range(len(sequences)))


def decoded(data: PreparedData, sequences) -> list[tuple[str, str]]:
    """Of every sequence, what is not maskable and what is."""
    batch = whole(sequences)
    decode = data.tokenizer.decode
    return [(decode(row[~side]), decode(row[side])) for row, side in zip(*batch.values(), strict=True)]


def chat_spec(folder: Path, template: str | None) -> Pretrained:
    """Bytes, with the special tokens of LLaDA and of Qwen."""
    content = ByteLevel().build(lambda: [], folder).state()["content"]
    tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    config = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Pretrained(str(folder))


@pytest.fixture
def pairs() -> list[tuple[str, str]]:
    return make_pairs(500)


@pytest.fixture
def path(tmp_path, pairs) -> Path:
    return write_pairs(tmp_path / "data" / "pairs.jsonl", pairs)


# Sequences


@pytest.mark.parametrize("spec", [ByteLevel(), BytePairEncoding(300)], ids=["byte", "bpe"])
def test_a_sequence_is_prompt_response_and_eos(spec, path, pairs):
    data = prepare(path, spec=spec)
    tokenizer = data.tokenizer
    assert sorted(decoded(data, data.train) + decoded(data, data.validation)) == sorted(pairs)
    answers = dict(pairs)
    batch = whole(data.train)
    assert batch["tokens"].dtype == torch.int64
    assert batch["maskable"].dtype == torch.bool
    for row, maskable in zip(*batch.values(), strict=True):
        prompt = tokenizer.decode(row[~maskable])
        asked, answered = tokenizer.encode(prompt), tokenizer.encode(answers[prompt])
        fill = [tokenizer.eos_id] * (100 - len(asked) - len(answered))
        assert row.tolist() == [*asked, *answered, *fill]
        assert maskable.tolist() == [place >= len(asked) for place in range(100)]


def test_batches(path):
    train = prepare(path).train
    batch = train.__getitems__([5, 0, 5])
    for number, index in enumerate([5, 0, 5]):
        assert torch.equal(batch["tokens"][number], train[index]["tokens"])
        assert torch.equal(batch["maskable"][number], train[index]["maskable"])


@pytest.mark.parametrize("suffix", ["jsonl.gz", "parquet"])
def test_other_formats(suffix, path, pairs):
    other = path.parent.parent / "other" / f"pairs.{suffix}"
    other.parent.mkdir()
    if suffix == "parquet":
        prompts, responses = zip(*pairs, strict=True)
        pq.write_table(pa.table({"n": [0] * len(pairs), "answer": responses, "question": prompts}), other)
    else:
        other.write_bytes(gzip.compress(path.read_bytes()))
    (other.parent / "README.md").write_text("not a row")
    same, data = prepare(path), prepare(other.parent)
    assert torch.equal(whole(data.train)["tokens"], whole(same.train)["tokens"])


def test_the_file_holds_no_fill_and_serves_every_length(path, tmp_path):
    data = prepare(path)
    ends = data.train.stream == data.tokenizer.eos_id
    assert ends.sum() == len(data.train)
    assert ends[-1]
    assert len(prepare(path, length=40).train) < len(data.train)
    assert len(list(tmp_path.rglob("train-*.tokens"))) == 1
    assert len(pickle.dumps(data.train)) < 30 * len(data.train) + 10_000


def test_half_a_surrogate_pair_and_unknown_characters(tmp_path, caplog):
    path = tmp_path / "data" / "a.jsonl"
    path.parent.mkdir()
    path.write_text('{"question": "a\\ud800", "answer": "b"}\n{"question": "b", "answer": "c"}\n')
    data = prepare(path, spec=Character("abc"))
    assert sorted(decoded(data, data.train) + decoded(data, data.validation)) == [("a�", "b"), ("b", "c")]
    assert "stand for unknown characters" in caplog.text


@pytest.mark.parametrize(
    "process", [IndependentMasking(LinearSchedule(), StratifiedTimes()), CountMasking(StratifiedTimes())]
)
def test_training_masks_responses_and_their_ends_only(process, path):
    data = prepare(path)
    module = MaskedDataModule(data, process, process, batch_size=8, global_batch_size=8)
    module.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)
    clean = whole(data.validation)
    batches = list(module.val_dataloader())
    tokens = torch.cat([batch.tokens for batch in batches])
    masked = tokens == data.tokenizer.mask_id
    assert not (masked & ~clean["maskable"]).any()
    assert torch.equal(tokens[~masked], clean["tokens"][~masked])
    assert torch.equal(torch.cat([batch.targets for batch in batches]), clean["tokens"][masked])
    assert torch.equal(torch.cat([batch.lengths for batch in batches]), clean["maskable"].sum(1))
    # Half of the maskable positions, on average; EOS as often as any other.
    ends = clean["maskable"] & (clean["tokens"] == data.tokenizer.eos_id)
    assert masked[ends].float().mean() == pytest.approx(0.5, abs=0.1)
    assert masked[clean["maskable"] & ~ends].float().mean() == pytest.approx(0.5, abs=0.1)
    assert next(iter(module.train_dataloader())).tokens.shape == (8, 100)


def test_samples_while_training_complete_prompts(path):
    data = prepare(path, length=60)
    model = MaskedDiffusion(
        DiT(data.tokenizer.vocab_size, 60, hidden_size=8, depth=1, heads=1), lambda module: None, lambda step: 1.0
    )
    text = GeneratedText(Sampler(LinearSchedule(), Expected(), Random(), steps=3), data, sequences=3)
    trainer = SimpleNamespace(
        sanity_checking=False, precision_plugin=Precision(), is_global_zero=True, loggers=[], global_step=0
    )
    text.on_validation_epoch_end(trainer, model.eval())  # pyright: ignore[reportArgumentType]
    prompts = [prompt for prompt, _ in decoded(data, data.validation)]
    assert [shown.split("\n→ ")[0] for shown in text.latest] == prompts[:3]


# Splits


def test_split_depends_on_the_rows_alone(tmp_path, pairs):
    shuffled = [*pairs, *pairs[:50]]
    random.Random(1).shuffle(shuffled)
    first = prepare(write_pairs(tmp_path / "1" / "a.jsonl", pairs))
    second = prepare(write_pairs(tmp_path / "2" / "a.jsonl", shuffled))
    held = set(decoded(first, first.validation))
    assert held == set(decoded(second, second.validation))
    assert not held & set(decoded(second, second.train))
    assert 5 < len(held) < 60


@pytest.mark.parametrize("count", [2, 3, 15, 100])
def test_few_rows_have_both_splits_and_are_not_cut(count, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pairs = make_pairs(count)
    data = prepare(write_pairs(tmp_path / "data" / "a.jsonl", pairs))
    sides = decoded(data, data.train), decoded(data, data.validation)
    assert sorted(sides[0] + sides[1]) == sorted(pairs)
    assert len(sides[1]) == max(1, round(0.05 * count))
    assert "few rows" in caplog.text


def test_a_few_duplicates_fall_on_one_side(tmp_path):
    data = prepare(write_pairs(tmp_path / "data" / "a.jsonl", make_pairs(2) * 3), validation_fraction=0.7)
    assert len(set(decoded(data, data.train))) == len(set(decoded(data, data.validation))) == 1


def test_explicit_validation_rows(tmp_path, pairs):
    path, held = write_pairs(tmp_path / "data" / "t.jsonl", pairs[:9]), write_pairs(tmp_path / "v.jsonl", pairs[9:12])
    data = prepare(path, validation_path=str(held))
    assert decoded(data, data.train) == pairs[:9]
    assert decoded(data, data.validation) == pairs[9:12]


# The cache


def test_fingerprint_follows_what_matters(tmp_path, pairs):
    path = write_pairs(tmp_path / "1" / "a.jsonl", pairs)
    same, other = write_pairs(tmp_path / "2" / "a.jsonl", pairs), write_pairs(tmp_path / "3" / "a.jsonl", pairs[1:])
    chat, chatml = chat_spec(tmp_path / "chat", LLADA), chat_spec(tmp_path / "chatml", CHATML)
    base = prepare(path).fingerprint
    assert prepare(same).fingerprint == base
    others = [
        prepare(other),
        prepare(path, length=101),
        prepare(path, spec=BytePairEncoding(300)),
        prepare(path, validation_fraction=0.1),
        prepare(path, validation_path=str(other)),
        prepare(path, prompt_field="answer"),
        prepare(path, response_field="question"),
        prepare(path, spec=chat),
        prepare(path, spec=chat, chat=True, length=200),
        prepare(path, spec=chatml, chat=True, length=200),
    ]
    assert len({base, *(data.fingerprint for data in others)}) == 11


def test_two_processes_build_once(path, tmp_path):
    code = """if True:
        import logging, os, sys
        from pathlib import Path
        from mdm_lightning.data.text import pairs
        from mdm_lightning.data.text.sources import Files
        from mdm_lightning.data.tokenizer.spec import ByteLevel
        from tests.patience import wait_until

        def with_company(*arguments):
            wait_until(lambda: len(list(there.iterdir())) == 2, "the other process")
            tokenize(*arguments)

        there = Path(sys.argv[3])
        (there / str(os.getpid())).touch()
        tokenize, pairs._tokenize = pairs._tokenize, with_company
        logging.basicConfig(level="INFO", stream=sys.stdout)
        files = Files(sys.argv[1], length=100, prompt_field="question", response_field="answer")
        print(files.prepare(ByteLevel(), Path(sys.argv[2])).train[3]["tokens"].tolist())
    """
    (tmp_path / "there").mkdir()
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "cache"), str(tmp_path / "there")]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
    outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(output.count("tokenizing files train") for output in outputs) == 1
    expected = str(prepare(path).train[3]["tokens"].tolist())
    assert [output.splitlines()[-1] for output in outputs] == [expected, expected]


# Rows that are left out


def test_long_and_empty_rows_are_left_out_and_counted(tmp_path, pairs, caplog):
    caplog.set_level(logging.INFO)
    pairs = [("p" * 10, "r" * 9), ("p" * 10, "r" * 10), ("p" * 20, "r"), ("p", ""), ("p", None), ("", "r" * 19)]
    path, held = write_pairs(tmp_path / "data" / "t.jsonl", pairs), write_pairs(tmp_path / "v.jsonl", [("a", "b")])
    for _ in range(2):  # also where all is cached
        caplog.clear()
        data = prepare(path, length=20, validation_path=str(held))
        assert decoded(data, data.train) == [pairs[0], pairs[5]]
        assert "files train: 2 of 6 rows are longer than data.length=20 and are left out" in caplog.text
        assert "files train: 2 of 6 rows have no response and are left out" in caplog.text
    caplog.clear()
    assert len(prepare(path, length=21, validation_path=str(held)).train) == 3
    assert "1 of 6 rows are longer than data.length=21" in caplog.text


def test_share_of_fill_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write_pairs(tmp_path / "data" / "t.jsonl", [("12", "3456"), ("12", "34")])
    prepare(path, length=20, validation_path=str(path))
    assert "75 % of all training positions are EOS after an answer" in caplog.text
    assert "the longest row fits into data.length=7" in caplog.text
    assert caplog.text.count("EOS after an answer") == 1


# Chats


@pytest.mark.parametrize(
    ("template", "ending"), [(LLADA, "<|eot_id|>"), (CHATML, "<|im_end|>"), (HEADINGS, "")], ids=["llada", "ml", "none"]
)
def test_chat(template, ending, path, tmp_path, pairs):
    data = prepare(path, spec=chat_spec(tmp_path / "tokenizer", template), chat=True, length=200)
    tokenizer = data.tokenizer
    spelled = []
    for row, maskable in zip(*whole(data.train).values(), strict=True):
        prompt, answer = row[~maskable].tolist(), row[maskable].tolist()
        text = tokenizer.decode(prompt, skip_special=False)
        assert prompt == tokenizer.encode(text, special=True)
        response = tokenizer.answer(answer)
        tail = answer[len(tokenizer.encode(response)) :]
        end = tokenizer.encode(ending, special=True)
        assert len(end) == bool(ending)
        assert tail == end + [tokenizer.eos_id] * (len(tail) - len(end))
        assert tail[-1] == tokenizer.eos_id
        spelled.append((text, response))
    rendered = {(render_chat(tokenizer, [{"role": "user", "content": prompt}]), text) for prompt, text in pairs}
    assert set(spelled) <= rendered
    assert len(spelled) == len(data.train) > 400


def test_a_response_that_spells_special_tokens_is_text(tmp_path):
    answer = "say <|eot_id|> or <|endoftext|>"
    path = write_pairs(tmp_path / "data" / "a.jsonl", [("a", answer), ("b", answer)])
    data = prepare(path, spec=chat_spec(tmp_path / "tokenizer", LLADA), chat=True, length=300)
    row = data.train[0]
    assert data.tokenizer.answer(row["tokens"][row["maskable"]]) == answer


# Bad input


def one_line(raised: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text", "a.txt has no rows with fields"),
        ("a.txt.gz", b"text", "has no rows with fields"),
        ("a.parquet.gz", b"text", "has no rows with fields"),
        ("a.jsonl", b"", "fewer than two different rows"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n' * 9, "fewer than two different rows"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n{"question": ', "a.jsonl:2 is not valid JSON"),
        (
            "a.jsonl",
            b'{"question": "a", "reply": "b"}\n',
            "'answer'; set data.response_field= to one of: question, reply",
        ),
        ("a.jsonl", b'{"q": "a", "answer": "b"}\n', "'question'; set data.prompt_field= to one of: q, answer"),
        ("a.jsonl", b'["one"]\n', "no field 'question'"),
        ("a.jsonl", b'{"question": "a", "answer": 5}\n', "'answer' is no text but int; set data.response_field="),
        ("a.jsonl", b'"\xff\xfe"\n', "not UTF-8"),
        ("a.jsonl.gz", b"no gzip at all", "damaged"),
        ("a.parquet", b"PAR1", "not a valid parquet"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        prepare(tmp_path / name)
    assert one_line(raised)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"question": ["a"], "reply": ["b"]}, "'answer'; set data.response_field= to one of: question, reply"),
        ({"question": [["a"]], "answer": ["b"]}, "'question' is no text but list; set data.prompt_field="),
    ],
)
def test_bad_parquet(table, message, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message) as raised:
        prepare(tmp_path / "a.parquet")
    assert one_line(raised)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"prompt_field": None}, "both data.prompt_field= and data.response_field="),
        ({"response_field": None}, "both data.prompt_field= and data.response_field="),
        ({"prompt_field": None, "response_field": None, "chat": True}, "or neither and no data.chat="),
        ({"wrap": True}, "data.wrap=true is for text"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"length": 3}, "none of [0-9]+ rows can be used, [0-9]+ are longer than data.length=3, 0 have no response"),
        ({"chat": True}, "needs a tokenizer with a chat template"),
    ],
)
def test_bad_settings(keywords, message, path):
    with pytest.raises(UserError, match=message) as raised:
        prepare(path, **keywords)
    assert one_line(raised)


def test_bad_template(path, tmp_path):
    silent = "{% for message in messages %}{{ message.role }}{% endfor %}"
    with pytest.raises(UserError, match="leaves out the assistant's answer") as raised:
        prepare(path, spec=chat_spec(tmp_path / "tokenizer", silent), chat=True)
    assert one_line(raised)


def test_a_tokenizer_is_needed(path, tmp_path):
    files = Files(str(path), length=100, prompt_field="question", response_field="answer")
    with pytest.raises(UserError, match="needs a tokenizer"):
        files.prepare(None, tmp_path)


@pytest.mark.parametrize("family", LOSSLESS.values(), ids=LOSSLESS)
def test_responses_are_tokenised_as_they_follow_their_prompts(family, tmp_path):
    pairs = [("Answer: ", "yes"), ("Answer:", " no"), ("1 +", "2"), ("def f():\n", "    return 1"), ("日", "本 é")]
    path = write_pairs(tmp_path / "data" / "pairs.jsonl", pairs)
    data = prepare(path, spec=Given(family()), validation_path=str(path))
    batch = whole(data.train)
    for (prompt, response), row, maskable in zip(pairs, *batch.values(), strict=True):
        assert data.tokenizer.decode(row) == prompt + response
        assert row[~maskable].tolist() == encode_prompt(data.tokenizer, prompt)


def test_chats_are_tokenised_as_the_tokenizer_tokenises_their_text(tmp_path):
    """Responses and what ends them, too: this tokenizer begins a text anew behind every special token."""
    pairs = [("what is it?", "Once upon"), ("Answer: ", "  yes")]
    path = write_pairs(tmp_path / "data" / "pairs.jsonl", pairs)
    tokenizer = Tokenizer.from_state(phi3().state() | {"chat_template": TEMPLATE})
    data = prepare(path, spec=Given(tokenizer), validation_path=str(path), chat=True, length=60)
    for (prompt, response), row, maskable in zip(pairs, *whole(data.train).values(), strict=True):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = render_chat(tokenizer, messages, add_generation_prompt=False)
        ids = tokenizer.encode(text[: text.rindex("<|end|>") + len("<|end|>")], special=True)
        assert row.tolist() == ids + [tokenizer.eos_id] * (60 - len(ids))
        assert tokenizer.answer(row[maskable], after=row[~maskable]) == response.strip()
