"""What a cache changes, compared instance by instance."""

import dataclasses

import pytest
import torch
from torch import nn

from mdm_lightning.data.source import Verdict
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.caching import Caching
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.evaluation.generation.task import prompts
from mdm_lightning.report.records import judging_rows
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.cache import DualCache, NoCache
from mdm_lightning.sampling.count import LargestRemainder
from mdm_lightning.sampling.order import Confidence
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

from .corpora import Rows, text_subject

LENGTH, GIVEN = 12, 2
SAMPLER = Sampler(LinearSchedule(), LargestRemainder(), Confidence(), TokenSampler(0.0), Blocks(5), steps=10)


class Even:
    """The sum of all tokens has to be even; every response is valid."""

    prompt_length = GIVEN

    def check(self, tokens):
        return Verdict(valid=True, correct=int(tokens.sum()) % 2 == 0)


class Problems(Rows):
    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        batch["maskable"] = (torch.arange(LENGTH) >= GIVEN).expand(len(indices), LENGTH)
        return batch


@pytest.fixture
def subject() -> Subject:
    texts = [f"{i:02d}{'abcdefghij'}" for i in range(30)]
    plain = text_subject(texts, texts)
    torch.manual_seed(0)
    denoiser = Llama(
        plain.tokenizer.vocab_size, LENGTH, rows=plain.tokenizer.vocab_size + 1, mask_row=plain.tokenizer.vocab_size,
        hidden_size=16, depth=2, heads=2, key_value_heads=2, mlp_size=32, rope_theta=1e4, norm_eps=1e-6,
    )  # fmt: skip
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.6)
    data = dataclasses.replace(plain.data, validation=Problems(plain.data.validation.stream.reshape(-1, LENGTH)))
    denoiser = denoiser.double().eval()
    return dataclasses.replace(plain, denoiser=denoiser, prepare=lambda: data, task=Even(), prompted=True)


def measure(subject: Subject, every: int | None) -> dict[tuple[str, object], float]:
    cached = dataclasses.replace(SAMPLER, cache=DualCache(every))
    return {(row.metric, row.settings["cache"]): row.value for row in Caching(cached, batch_size=7)(subject)}


def test_a_cache_that_keeps_nothing_changes_nothing(subject):
    rows = measure(subject, every=1)
    name = "DualCache(1)"
    assert rows["tokens_changed", name] == rows["accuracy_change", name] == rows["valid_change", name] == 0
    assert rows["tokens_computed", name] == rows["tokens_computed", "none"] == 10 * LENGTH
    assert 0 < rows["accuracy", name] < 1


def test_what_an_approximation_changes(subject):
    """As found by running both; its cost is that of two whole passes and of four of five positions each."""
    rows = measure(subject, every=None)
    plain, cached = (
        generate(subject, dataclasses.replace(SAMPLER, cache=cache), 30, 30, lambda unit: prompts(subject, unit)).tokens
        for cache in (NoCache(), DualCache())
    )
    changed = float((plain != cached)[:, GIVEN:].double().mean())
    assert rows["tokens_changed", "DualCache"] == pytest.approx(changed)
    assert changed > 0.01
    correct = [float((tokens.sum(1) % 2 == 0).double().mean()) for tokens in (plain, cached)]
    assert [rows["accuracy", "none"], rows["accuracy", "DualCache"]] == pytest.approx(correct)
    assert rows["accuracy_change", "DualCache"] == pytest.approx(correct[1] - correct[0])
    assert rows["tokens_computed", "DualCache"] == 2 * (LENGTH + 4 * 5)
    assert rows["forward_passes", "DualCache"] == rows["forward_passes", "none"] == 10


def test_text_is_generated_from_nothing(subject):
    text = dataclasses.replace(subject, task=None, prompted=False)
    rows = list(Caching(dataclasses.replace(SAMPLER, cache=DualCache()), sequences=3)(text))
    assert {row.n for row in rows} == {3}
    assert [row.metric for row in rows][-1] == "tokens_changed"


def test_sweeps_judge_by_the_cached_run(subject):
    """The row that a cell of cache=prefix,dual is compared by."""
    rows = list(Caching(dataclasses.replace(SAMPLER, cache=DualCache()), sequences=3)(subject))
    for metric in Caching.judging:
        (row,) = judging_rows([row for row in rows if row.metric == metric], metric)
        assert row.settings["cache"] == "DualCache"


def test_there_has_to_be_a_cache(subject):
    with pytest.raises(UserError, match="choose cache=prefix, dual or exact"):
        Caching(SAMPLER).prepare(subject)
