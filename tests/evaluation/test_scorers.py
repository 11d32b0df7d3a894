"""Judges: every token of every text is scored, whatever the batch, and what is missing is said in one line."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.generation.huggingface_scorer import HuggingFaceScorer
from mdm_lightning.evaluation.generation.ngram import KneserNey
from mdm_lightning.evaluation.generation.scorers import NgramScorer, NoScorer

from .corpora import text_subject

CONFIGS = Path(__file__).parents[2] / "conf" / "scorer"
TEXTS = ["the cat sat on the mat", "a", "", "ab", "the dog sat on the log, and then it sat on the cat", "zzzz" * 20]


@pytest.mark.parametrize("name", ["ngram", "hf", "none"])
def test_configs_build(name):
    scorer = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert scorer.protocol


def test_ngram_scorer_is_fitted_on_the_first_training_tokens():
    subject = text_subject(["abcabcab", "cabcabca", "aaaabbbb"], ["abcabcaa"])
    tokens = subject.data.validation.__getitems__([0])["tokens"].numpy()
    stream = subject.data.train.stream.astype(np.int64)
    for limit in (10, 16, 10_000):
        nats, counted = NgramScorer(order=3, tokens=limit).prepare(subject)(tokens, ["abcabcaa"])
        model = KneserNey.fit(stream[:limit], subject.tokenizer.vocab_size, 3)
        assert nats == pytest.approx(model.nats(tokens).sum(1))
        assert counted.tolist() == [8]


def test_protocols_tell_scorers_apart():
    scorers = [
        NgramScorer(),
        NgramScorer(order=3),
        NgramScorer(tokens=7),
        HuggingFaceScorer(),
        HuggingFaceScorer("gpt2"),
    ]
    scorers += [HuggingFaceScorer(max_tokens=128), NoScorer()]
    assert len({scorer.protocol for scorer in scorers}) == len(scorers)


def test_no_scorer_counts_nothing():
    score = NoScorer().prepare(text_subject(["ab"], ["ab"]))
    nats, counted = score(np.zeros((3, 2), dtype=np.int64), ["ab"] * 3)
    assert nats.tolist() == [0, 0, 0]
    assert counted.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "build",
    [
        lambda: NgramScorer(order=0),
        lambda: NgramScorer(tokens=0),
        lambda: HuggingFaceScorer(max_tokens=1),
        lambda: HuggingFaceScorer(batch_size=0),
    ],
)
def test_bad_arguments(build):
    with pytest.raises(ValueError, match="must be at least"):
        build()


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"mdm-lightning\[scorer\]"):
        HuggingFaceScorer().prepare(text_subject(["ab"], ["ab"]))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    """A tiny GPT-2 with random weights, and a byte-level tokenizer, in a folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizers = importlib.import_module("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    wrapped.save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():  # far from uniform predictions
        parameter.data.mul_(5)
    model.save_pretrained(folder)
    return folder


def one_by_one(folder: Path, texts: list[str], most: int) -> tuple[list[float], list[int]]:
    """Each text alone, one token at a time, in its first ``most`` tokens."""
    transformers = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    nats, counted = [], []
    for text in texts:
        ids, total = tokenizer(text)["input_ids"][:most], 0.0
        for i in range(1, len(ids)):
            with torch.no_grad():
                logits = model(torch.tensor([ids[:i]])).logits[0, -1]
            total -= float(logits.double().log_softmax(0)[ids[i]])
        nats.append(total)
        counted.append(max(0, len(ids) - 1))
    return nats, counted


@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize("max_tokens", [2, 20, 64])
def test_every_text_is_scored_as_if_alone(gpt2, batch_size, max_tokens):
    scorer = HuggingFaceScorer(path=str(gpt2), batch_size=batch_size, max_tokens=max_tokens)
    nats, counted = scorer.prepare(text_subject(["ab"], ["ab"]))(np.zeros((len(TEXTS), 1), dtype=np.int64), TEXTS)
    expected, tokens = one_by_one(gpt2, TEXTS, max_tokens)
    assert counted.tolist() == tokens
    np.testing.assert_allclose(nats, expected, rtol=1e-5)
    assert nats.sum() / counted.sum() > math.log(257)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_text_lies_where_it_lies_alone(gpt2, batch_size):
    """Whatever it is batched with: the hidden state of the last layer at its last token."""
    texts = [text for text in TEXTS if text]
    scorer = HuggingFaceScorer(path=str(gpt2), max_tokens=12, batch_size=batch_size)
    got = scorer.encoder(text_subject(["ab"], ["ab"]))(np.zeros((len(texts), 1), dtype=np.int64), texts)
    transformers = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2)
    model = transformers.AutoModel.from_pretrained(gpt2).eval()
    for point, text in zip(got, texts, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:12]])
        with torch.inference_mode():
            np.testing.assert_allclose(point, model(ids).last_hidden_state[0, -1].numpy(), rtol=1e-4, atol=1e-5)


def test_end_of_text_is_one_token_to_the_scorer(gpt2):
    score = HuggingFaceScorer(path=str(gpt2)).prepare(text_subject(["ab"], ["ab"]))
    assert score(np.zeros((1, 1), dtype=np.int64), ["ab<|endoftext|>cd"]).counted.tolist() == [4]


def test_a_folder_without_a_model(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="cannot load the scorer") as caught:
        HuggingFaceScorer(path=str(tmp_path)).prepare(text_subject(["ab"], ["ab"]))
    assert "\n" not in str(caught.value)
