"""Composing quickly must change nothing: Hydra's own composition is the distribution."""

import re
from collections.abc import Iterator

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.sweep.quick_composition import ValueOverrides

from .test_configs import CONF

BASE = ["ckpt=a.ckpt", "trainer.accelerator=cpu", "hydra.job.config.override_dirname.exclude_keys=[ckpt]"]


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoaderImpl]:
    setup_globals()
    yield ConfigLoaderImpl(create_config_search_path(str(CONF)))
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def master(loader) -> DictConfig:
    return loader.load_configuration("sweep", BASE, RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def quick(loader) -> ValueOverrides:
    """One for all tests, so that every composition has others to be confused with."""
    return ValueOverrides(loader)


def contents(config: DictConfig) -> dict:
    """Everything, but for the folder that is named after the time of composition."""
    text = OmegaConf.to_yaml(config)
    return {"text": re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "NOW", text), "flags": OmegaConf.is_struct(config)}


JOBS = [
    ["schedule.alpha=0.3", "schedule.beta=0.9", "sampler.steps=8"],
    ["schedule.alpha=0.4", "schedule.beta=0.9", "sampler.steps=16"],
    ["schedule.alpha=1e-1"],
    [],
    ["schedule=linear", "sampler.steps=8"],
    ["schedule=sine", "sampler.steps=8"],
    ["sampler.steps=8", "schedule=polynomial", "schedule.exponent=3"],
    ["schedule=polynomial", "schedule.exponent=4"],
    ["schedule={alpha:0.9,beta:0.3}"],
    ["schedule={alpha:0.8,beta:0.3}", "sampler.steps=null"],
    ["sampler=llada", "order=margin", "tokens.temperature=0.5", "sampler.blocks.length=4"],
    ["sampler=llada", "order=margin", "tokens.temperature=0.7", "sampler.blocks.length=8"],
    ["evaluation=[likelihood,task]", "evaluation.sequences=7"],
    ["evaluation.steps=[1,2]", "evaluation.first=100", "sweep.stage=refined"],
    ["+extra=1", "seed=3"],
    ["+extra=2", "seed=3"],
    ["++extra=3", "++seed=4"],
    ["+trainer.max_time=1"],
    ["~evaluation.task", "seed=1"],
    ["~sweep.profile"],
    ["scorer=none", "prompt='a = b, c'", "suffix=null"],
    ["estimator=k_step", "evaluation=likelihood"],
    ["ckpt=b.ckpt", "hydra.job.name=other"],
    ["data=sudoku_4x4", "data.clues=8"],
    ["seed=1", "seed=2"],
    ["trainer=ddp", "trainer.devices=2"],
]


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_the_configuration_is_hydras_own(loader, master, quick, job):
    own = contents(loader.load_sweep_config(master, job))
    for _ in range(2):  # composed, and from what was composed
        assert contents(quick.load_sweep_config(master, job)) == own


@pytest.mark.parametrize(
    "job",
    [
        ["schedule.gamma=1"],
        ["nothing=1"],
        ["schedule=nowhere"],
        ["+seed=1"],
        ["~nothing"],
        ["schedule=linear", "schedule.alpha=0.5"],
    ],
    ids=" ".join,
)
def test_what_hydra_refuses_is_refused_with_its_words(loader, master, quick, job):
    with pytest.raises(HydraException) as own:
        loader.load_sweep_config(master, job)
    with pytest.raises(HydraException) as ours:
        quick.load_sweep_config(master, job)
    assert str(ours.value) == str(own.value)


def test_files_are_read_once_per_choice_of_groups(loader, master, monkeypatch):
    calls = []
    original = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_sweep_config", lambda *arguments: (calls.append(1), original(*arguments))[1]
    )
    quick = ValueOverrides(loader)
    for alpha in (0.1, 0.2, 0.3):
        for order in ("random", "confidence"):
            quick.load_sweep_config(master, [f"schedule.alpha={alpha}", f"order={order}"])
    assert len(calls) == 2
