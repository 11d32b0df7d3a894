"""Classes and configurations of one's own, in a folder outside the clone: every process and every cell finds them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from mdm_lightning.commands.options.command_line import Flags, read_flags, same_command
from mdm_lightning.commands.sweep.compositions import Compositions
from mdm_lightning.errors import UserError
from tests.commands.conftest import REPOSITORY, Measuring, Start
from tests.commands.test_configs import CONF
from tests.commands.test_evaluate import rows_of
from tests.commands.test_sweep import cells

CLASS = '''
import torch
from mdm_lightning.diffusion.mask_schedule import MaskSchedule

class Power(MaskSchedule):
    """alpha_t = t ** exponent."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def alpha_t(self, t):
        return torch.as_tensor(t, dtype=torch.float64) ** self.exponent

    def masked_t(self, t):
        return 1 - self.alpha_t(t)

    def dalpha_t(self, t):
        return self.exponent * torch.as_tensor(t, dtype=torch.float64) ** (self.exponent - 1)
'''
FILES = {
    "own_schedules.py": CLASS,
    "own_conf/schedule/power.yaml": "_target_: own_schedules.Power\nexponent: 2.0\n",
    "own_conf/own_sweep.yaml": """
defaults: [sweep, _self_]
seed: 7
hydra:
  sweeper:
    params:
      schedule.exponent: 1,2
""",
}
FLAG, SEARCHED = "--config-dir=own_conf", "hydra.searchpath=[file://own_conf]"
TOY = ("experiment=toy", "sampler.steps=2")


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """The environment in which the class is found; the files lie where the commands are called."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(tmp_path)])}


def on(processes: int) -> Sequence[str]:
    return ["trainer=ddp", "trainer.devices=2"] if processes == 2 else []


PROCESSES = [1, pytest.param(2, marks=pytest.mark.ddp)]


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("place", [FLAG, SEARCHED])
def test_training(start: Start, own, tmp_path, place, processes):
    chosen = "schedule@training.schedule=power", "training.schedule.exponent=3", "trainer.max_steps=2", "run_dir=run"
    outcome = start(place, *chosen, *on(processes), environment=own).wait()
    assert outcome.status == 0, outcome.stderr
    assert (tmp_path / "run/results.json").exists()
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["training"]["schedule"] == {"_target_": "own_schedules.Power", "exponent": 3}


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("place", [FLAG, SEARCHED])
def test_evaluating(evaluate: Measuring, own, tmp_path, place, processes):
    """alpha_t = t, as one's own class and as ours."""
    for name, chosen in {"own": ["schedule=power", "schedule.exponent=1.0"], "ours": ["schedule=linear"]}.items():
        outcome = evaluate.start(place, *TOY, *chosen, f"run_dir={name}", *on(processes), environment=own).wait()
        assert outcome.status == 0, outcome.stderr
    values = [{row["metric"]: row["value"] for row in rows_of(tmp_path / name)} for name in ("own", "ours")]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("place", [FLAG, SEARCHED])
def test_sweeping(sweep: Measuring, own, tmp_path, place, processes):
    """With baselines beside it and a report at the end."""
    options = "schedule=power", "schedule.exponent=1,3.0", "sweep.baselines=[linear]", "sweep.dir=sweep"
    outcome = sweep.start(place, *TOY, *options, *on(processes), environment=own).wait()
    assert outcome.status == 0, outcome.stderr
    found = {label: cell.row("kl") for (_, label, *_), cell in cells(tmp_path / "sweep").items()}
    assert set(found) == {"power (exponent=1)", "power (exponent=3.0)", "linear"}
    assert found["power (exponent=1)"].value == pytest.approx(found["linear"].value, rel=1e-12)
    assert found["power (exponent=3.0)"].value != pytest.approx(found["linear"].value, rel=1e-3)
    assert "power (exponent=3.0)" in outcome.stdout
    assert (tmp_path / "sweep/report.html").exists()


@pytest.mark.ddp
def test_a_primary_configuration_with_axes_of_its_own(sweep: Measuring, own, tmp_path):
    options = *TOY, "schedule=power", "sweep.baselines=[]", "sweep.dir=sweep", *on(2)
    outcome = sweep.start(FLAG, "--config-name=own_sweep", *options, environment=own).wait()
    assert outcome.status == 0, outcome.stderr
    found = cells(tmp_path / "sweep")
    assert {label for _, label, *_ in found} == {"power (exponent=1)", "power (exponent=2)"}
    assert json.loads((tmp_path / "sweep/sweep.json").read_text())["seed"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-dir=nowhere"], "--config-dir nowhere is no folder"),
        (["--config-name=nowhere"], "there is no configuration nowhere"),
        (["--config-nam=sweep", "--fast"], "there is no flag --fast"),
        ([SEARCHED, "schedule=powr"], "schedule has no such choice; did you mean power?"),
        ([FLAG, "schedule=powr"], "schedule has no such choice; did you mean power?"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_what_is_not_there(request, own, command, arguments, words):
    outcome = request.getfixturevalue(command).start(*TOY, *arguments, environment=own).wait()
    assert outcome.status == 1
    assert words in outcome.error


def test_another_process_composes_the_same(own, tmp_path, monkeypatch):
    """Whatever was typed of flags, of Hydra's own options and of ours; what is pinned is pinned."""
    monkeypatch.chdir(tmp_path)
    plugins = Plugins.instance().plugin_type_to_subclass_list
    monkeypatch.setitem(plugins, SearchPathPlugin, list(plugins[SearchPathPlugin]))  # this folder is for this test only
    typed = [
        "-cd", "own_conf", "hydra.job.chdir=true", "schedule=power", "-cn", "own_sweep", "+hydra.job.env_set.A=b",
        "sweep.dir=x", "prompt='a, b=c'", "~sweep.profile",
    ]  # fmt: skip
    flags, overrides = read_flags(typed, CONF, "sweep")
    assert flags == Flags(CONF, "own_sweep", tmp_path / "own_conf")
    once = Compositions(flags)(overrides)
    again, others = read_flags(same_command(once.hydra, "sweep.dir=y"), REPOSITORY, "other")
    assert again == flags
    twice = Compositions(again)(others)
    assert (once.sweep.dir, twice.sweep.dir) == ("x", "y")
    twice.sweep.dir = "x"
    for config in (once, twice):
        config.hydra.overrides.task, config.hydra.job.override_dirname = [], ""
        config.hydra.runtime.config_sources = []
    assert OmegaConf.to_yaml(twice) == OmegaConf.to_yaml(once)


def test_flags_that_have_hydra_show_something():
    for typed in (["--cfg", "job"], ["-c", "all", "--resolve"], ["--info"], ["-i", "defaults"], ["--version"]):
        assert read_flags(["seed=1", *typed], CONF, "sweep")[0].show, typed
    assert not read_flags(["-m", "seed=1"], CONF, "sweep")[0].show
    with pytest.raises(UserError, match="ambiguous option"):
        read_flags(["--config=x"], CONF, "sweep")
