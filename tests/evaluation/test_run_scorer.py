"""A run of one's own as a scorer: what it can read."""

from types import SimpleNamespace

import pytest
import torch

from mdm_lightning.checkpoint import run_scorer
from mdm_lightning.checkpoint.run_scorer import RunScorer
from mdm_lightning.denoiser.autoregressive import Autoregressive
from mdm_lightning.errors import UserError

from .test_exact_distribution import toy_subject


def test_a_scorer_that_reads_shorter_texts_is_refused(monkeypatch):
    subject = toy_subject()
    scorer = Autoregressive(2, subject.length - 1, hidden_size=4, depth=1, heads=1, cond_dim=2)
    loaded = SimpleNamespace(denoiser=scorer, tokenizer=subject.tokenizer, device=torch.device("cpu"))
    monkeypatch.setattr(run_scorer, "load", lambda *_, **__: loaded)
    with pytest.raises(UserError, match=r"reads 4 tokens at most, and the texts have 5: .* model\.length=5"):
        RunScorer("twin").prepare(subject)
