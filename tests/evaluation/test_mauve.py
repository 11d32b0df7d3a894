"""MAUVE: perfect samples get what held-out text gets, others less, whatever the number of processes."""

import sys
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
from jaxtyping import Float64

from mdm_lightning.arguments import BadArgument
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.mauve import Mauve
from mdm_lightning.evaluation.generation.scorers import NgramScorer, NoScorer, PreparedEncoder
from mdm_lightning.evaluation.processes import Processes
from tests.forkserver import run_side_by_side

from .corpora import ONE_AT_A_TIME, by_metric, text_subject

WORDS = ["".join(word) for word in product("abc", "abcd", "abcd")]
OTHERS = ["".join(word) for word in product("efg", "efgh", "efgh")]
HELD_OUT = np.random.default_rng(0).choice(WORDS, 240).tolist()


@dataclass(frozen=True)
class Letters(NoScorer):
    """A language model whose hidden state says which letters stand where."""

    def encoder(self, subject: Subject) -> PreparedEncoder:
        def encode(tokens: np.ndarray, texts: list[str]) -> Float64[np.ndarray, "b h"]:
            assert [subject.tokenizer.decode(row) for row in tokens] == list(texts)
            return np.eye(subject.tokenizer.vocab_size)[tokens].reshape(len(tokens), -1)

        return encode


def subject(distribution: list[str]) -> Subject:
    return text_subject([*WORDS, *OTHERS], HELD_OUT, distribution)


def values(subject: Subject) -> dict[str, float]:
    rows = list(Mauve(ONE_AT_A_TIME, Letters(), clusters=4, batch_size=16)(subject))
    return {text: by_metric(rows, text)["mauve"].value for text in ("generated", "validation")}


def test_perfect_samples_get_what_held_out_text_gets_and_disjoint_ones_nothing():
    pytest.importorskip("mauve")
    perfect, disjoint = values(subject(WORDS)), values(subject(OTHERS))
    assert perfect["validation"] == disjoint["validation"] > 0.95
    assert perfect["generated"] > 0.9
    assert disjoint["generated"] < 0.05


def evaluate(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    found = values(replace(subject(WORDS[:16]), processes=Processes(rank, size)))
    torch.save(found, f"{folder}/{size}-{rank}.pt")


@pytest.mark.ddp
def test_two_processes_find_what_one_finds(tmp_path):
    pytest.importorskip("mauve")
    evaluate(0, 1, str(tmp_path))
    run_side_by_side(evaluate, [(rank, 2, str(tmp_path)) for rank in range(2)])
    alone, *shared = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert 0.05 < alone["generated"] < 0.9
    assert shared == [alone, alone]


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    with pytest.raises(UserError, match="has none: choose scorer=hf, or scorer=run"):
        Mauve(ONE_AT_A_TIME, NgramScorer()).prepare(subject(WORDS))
    with pytest.raises(UserError, match="half of the validation sequences, 120, into 121 clusters"):
        Mauve(ONE_AT_A_TIME, Letters(), clusters=121).prepare(subject(WORDS))
    with pytest.raises(BadArgument, match="scaling must be positive"):
        Mauve(ONE_AT_A_TIME, Letters(), scaling=0)
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match=r"mdm-lightning\[mauve\]"):
        Mauve(ONE_AT_A_TIME, Letters()).prepare(subject(WORDS))
