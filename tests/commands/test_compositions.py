"""Composing quickly must change nothing: Hydra's own composition is the law."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.options.command_line import Flags
from mdm_lightning.commands.sweep import compositions
from mdm_lightning.commands.sweep.compositions import Compositions

from .test_configs import CONF

BASE = ["ckpt=a.ckpt", "trainer.accelerator=cpu", "hydra.job.config.override_dirname.exclude_keys=[ckpt]"]


@pytest.fixture(scope="module")
def quick() -> Compositions:
    """One for all tests, so that every composition has others to be confused with."""
    quick = Compositions(Flags(CONF, "sweep"))
    quick(BASE)
    return quick


def hydras(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("sweep", overrides, return_hydra_config=True)


def contents(config: DictConfig) -> dict:
    """Everything, but for the folder that is named after the time of composition, and for the name that Hydra makes of
    the overrides."""
    config.hydra.job.override_dirname = ""
    text = OmegaConf.to_yaml(config)
    return {"text": re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "NOW", text), "flags": OmegaConf.is_struct(config)}


CELLS = [
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
    ["seed=1", "++seed=4"],
    ["++seed=4", "seed=1"],
    ["evaluation.generation.show=1", "evaluation.generation={show:2}"],
    ["evaluation.generation.show=1", "~evaluation.generation.show"],
    ["sampler.schedule=null", "schedule=linear"],
    ["sweep.alpha=[0.1]", "sweep.alpha=[0.2]"],
    ["+trainer.max_time=1"],
    ["~evaluation.task", "seed=1"],
    ["~sweep.profile"],
    ["scorer=none", "prompt='a = b, c'", "suffix=null"],
    ["prompt='${suffix}'", "suffix=end"],
    ["estimator=k_step", "evaluation=likelihood"],
    ["ckpt=b.ckpt", "hydra.job.name=other"],
    ["data=sudoku_4x4", "data.clues=8"],
    ["seed=1", "seed=2"],
    ["trainer=ddp", "trainer.devices=2"],
]


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_the_configuration_is_hydras_own(quick, cell):
    own = contents(hydras([*BASE, *cell]))
    for _ in range(2):  # composed, and from what was composed
        assert contents(quick([*BASE, *cell])) == own


@pytest.mark.parametrize(
    "cell",
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
def test_what_hydra_refuses_is_refused_with_its_words(quick, cell):
    with pytest.raises(HydraException) as own:
        hydras([*BASE, *cell])
    with pytest.raises(HydraException) as ours:
        quick([*BASE, *cell])
    assert str(ours.value) == str(own.value)


def test_files_are_read_once_per_choice_of_groups(monkeypatch):
    calls = []
    monkeypatch.setattr(
        compositions, "compose", lambda *arguments, **options: (calls.append(1), compose(*arguments, **options))[1]
    )
    quick = Compositions(Flags(CONF, "sweep"))
    quick(BASE)
    calls.clear()
    for alpha in (0.1, 0.2, 0.3):
        for order in ("random", "confidence"):
            quick([*BASE, f"schedule.alpha={alpha}", f"order={order}"])
    assert len(calls) == 2
