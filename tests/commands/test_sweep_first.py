"""What concerns all cells of a sweep is found out before the first of them, and said once."""

import os
from datetime import timedelta

import pytest
from omegaconf import OmegaConf

from mdm_lightning.commands import devices
from mdm_lightning.commands.launch import meeting_point
from mdm_lightning.commands.sweep.run import prepare_evaluations, refuse_metric
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NoData, NotApplicable, Subject
from mdm_lightning.evaluation.generation.quality import Generation
from mdm_lightning.evaluation.generation.scorers import NgramScorer
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from tests.evaluation.corpora import ONE_AT_A_TIME, text_subject
from tests.evaluation.test_likelihood import COUNT

TEXT = Generation(ONE_AT_A_TIME, NgramScorer(order=2))
TASK = TaskAccuracy(ONE_AT_A_TIME)


def bare() -> Subject:
    """A published model, whose data are not known."""
    subject = text_subject(["abc"], ["abc"])

    def nothing():
        raise NoData("what it was trained on is not known: choose data=")

    return Subject(subject.denoiser, subject.tokenizer, 3, nothing)


def test_a_metric_that_none_of_the_evaluations_has():
    for metric in ("accuraccy", "nelbo", "forward_passes"):
        with pytest.raises(UserError, match=rf"sweep\.metric={metric} does not judge.*accuracy, valid"):
            refuse_metric([TEXT, TASK], metric)
    with pytest.raises(UserError, match=r"did you mean accuracy\?"):
        refuse_metric([TASK], "acuracy")
    for metric in ("accuracy", "scorer_perplexity", None):
        refuse_metric([TEXT, TASK], metric)
    refuse_metric([TASK, lambda subject: iter(())], "anything")  # which may have any metric


def test_only_evaluations_that_suit_the_data_are_left():
    assert prepare_evaluations([TEXT, TASK], text_subject(["abc"], ["abd"])) == [TEXT]


def test_a_scorer_without_data_fails_before_anything_is_sampled():
    for evaluations in ([TEXT], [TEXT, TASK]):
        with pytest.raises(NotApplicable, match="choose data="):
            prepare_evaluations(evaluations, bare())
    with pytest.raises(NotApplicable, match="choose data="):
        prepare_evaluations([Likelihood(COUNT)], bare())


def test_the_scorer_is_made_once():
    subject = text_subject(["abc"], ["abd"])
    assert TEXT.prepare(subject) is TEXT.prepare(subject)


@pytest.fixture
def nobody(monkeypatch):
    for name in list(os.environ):
        if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID") or name.startswith("SLURM"):
            monkeypatch.delenv(name)


def test_other_machines_on_which_nothing_was_started(nobody):
    trainer = OmegaConf.create({"accelerator": "cpu", "devices": 1, "num_nodes": 2})
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2.*torchrun --nnodes=2"):
        devices.local_ranks(trainer)


def test_processes_that_do_not_come_are_not_waited_for_forever(nobody, monkeypatch, caplog):
    """What is awaited is said at once, and how long."""
    port = meeting_point().port
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(devices, "MEETING", timedelta(seconds=1))
    with caplog.at_level("INFO"), pytest.raises(UserError, match=r"not all of 2 processes have come to 127\.0\.0\.1:"):
        devices.join_ranks(progress=False)
    assert f"waiting for all 2 processes to meet at 127.0.0.1:{port}, for 0:00:01 at most" in caplog.text
