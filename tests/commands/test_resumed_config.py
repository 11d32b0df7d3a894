"""A run goes on with its own settings and what the command line says; nothing else, and nothing foreign."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from mdm_lightning.checkpoint.run import Run
from mdm_lightning.commands.options.resumed_line import continue_in_place
from mdm_lightning.commands.resume import changes, chosen_groups, refuse_changes, resumed_config
from mdm_lightning.data.tasks.sudoku import Sudoku
from mdm_lightning.data.tokenizer.tokenizer import from_characters
from mdm_lightning.errors import UserError
from mdm_lightning.sampling.cache import NoCache
from mdm_lightning.sampling.eos import EosFree

CONF = Path(__file__).parents[2] / "conf"
BEGAN = (
    "model=small", "tokenizer=bpe", "data=files", "data.path=/texts", "optimizer.lr=1e-4", "trainer.max_steps=100",
    "lr_schedule.warmup_steps=7", "trainer.gradient_clip_val=0.5", "trainer=ddp", "trainer.devices=8", "logger=csv",
    "schedule@training.schedule=sine", "+trainer.limit_val_batches=3", "run_dir=old/place",
)  # fmt: skip


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


def command(*overrides: str) -> tuple[DictConfig, Any]:
    """A configuration as a command gets it, and Hydra's own."""
    config = compose("train", list(overrides), return_hydra_config=True)
    with open_dict(config.hydra):
        config.hydra.runtime.output_dir = "/here"
        config.hydra.job.config_name = "train"
    HydraConfig.instance().set_config(config)
    hydra = HydraConfig.get()
    with open_dict(config):
        del config["hydra"]
    return config, hydra


def begin(*overrides: str, **fields: Any) -> Run:
    """What a checkpoint would know of a run that began with these."""
    config, hydra = command(*overrides)
    plain = OmegaConf.to_container(config, resolve=True)
    known = {"tokenizer": "of the run", "tokenizer_state": {"content": from_characters("ab")}, "data": "d"}
    known |= {"choices": chosen_groups(hydra)} | fields
    return Run(path=Path("run/checkpoints/last.ckpt"), step=5, config=plain, fingerprint="f", **known)  # pyright: ignore


def go_on(run: Run, *overrides: str) -> tuple[DictConfig, dict[str, tuple[Any, Any]]]:
    """As train.py does it: Hydra composes with the run's choices before those of the command line."""
    given = {override.partition("=")[0] for override in overrides}
    choices = [choice for choice in run.choices or () if choice.partition("=")[0] not in given]
    today, hydra = command(*choices, *overrides)
    config = resumed_config(today, run, hydra)
    found = changes(run, config)
    refuse_changes(run, config)
    return config, found


def test_nothing_said_nothing_changed():
    run = begin(*BEGAN)
    config, found = go_on(run, "run_dir=new/place", "ckpt=run")
    assert found == {}
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain == run.config | {"run_dir": "new/place", "ckpt": "run"}
    assert config.logger.csv.folder == "/here"
    assert OmegaConf.to_yaml(config, resolve=True)


def test_the_settings_outlive_the_defaults():
    """What a run was told by defaults of then is stored like the rest."""
    run = begin(*BEGAN)
    run.config["optimizer"]["weight_decay"] = 0.123
    run.config["training"]["global_batch_size"] = 96
    config, found = go_on(run)
    assert (config.optimizer.weight_decay, config.training.global_batch_size, found) == (0.123, 96, {})


def test_a_run_of_before_there_were_rules_for_eos_and_caches_goes_on():
    run = begin(*BEGAN)
    for part in ("eos", "cache"):
        del run.config[part], run.config["sampler"][part]
    config, _ = go_on(run)
    sampler = instantiate(config.sampler)
    assert (sampler.eos, sampler.cache) == (EosFree(), NoCache())


def test_values_of_the_command_line_count_and_what_follows_from_them():
    """As today's default, too: max_steps=1000000 is what model=small would bring."""
    for steps in (200, 1_000_000):
        run = begin("model=small", "lr_schedule=cosine", "data=owt", "trainer.max_steps=100", "optimizer.lr=1e-4")
        config, found = go_on(run, f"trainer.max_steps={steps}", "optimizer.eps=1e-6")
        assert (config.lr_schedule.total_steps, config.optimizer.lr, config.optimizer.eps) == (steps, 1e-4, 1e-6)
        assert found["trainer.max_steps"] == (100, steps)
        assert found["lr_schedule.total_steps"] == (100, steps)
        assert found["optimizer.eps"] == (run.config["optimizer"].get("eps"), 1e-6)
        assert len(found) == 3


def test_the_same_command_again_changes_nothing():
    """What a requeued job types: also the groups that it began with."""
    run = begin(*BEGAN)
    run.config["training"]["global_batch_size"] = 96
    config, found = go_on(run, *BEGAN)
    assert found == {}
    assert config.training.global_batch_size == 96


def test_another_choice_of_a_group_changes_what_it_changes():
    run = begin(*BEGAN)
    config, found = go_on(run, "trainer=auto", "trainer.devices=2", "lr_schedule=cosine", "logger=tensorboard")
    assert config.lr_schedule._target_.endswith("Cosine")
    assert "warmup_steps" in config.lr_schedule
    assert config.lr_schedule.total_steps == 100
    assert (config.trainer.devices, config.trainer.max_steps, config.trainer.gradient_clip_val) == (2, 100, 0.5)
    assert config.trainer.limit_val_batches == 3
    assert list(config.logger) == ["tensorboard"]
    config, found = go_on(run, "schedule@training.schedule=cosine")
    assert config.training.masking.schedule._target_ == config.training.schedule._target_
    assert {key.rpartition(".")[0] for key in found} == {"training.schedule", "training.masking.schedule"}


def test_a_recipe_upon_a_run_changes_what_the_recipes_disagree_about():
    run = begin(*BEGAN, "training.log_every=3")
    config, found = go_on(run, "recipe=quick")
    assert (config.optimizer.lr, config.training.global_batch_size, config.trainer.max_steps) == (6e-3, 32, 600)
    assert config.lr_schedule._target_.endswith("Linear")
    assert config.trainer.devices == 8
    assert "model.hidden_size" not in found


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.depth=3"], ["model.depth is 12 there, 3 here", "leave that out"]),
        (["model=tiny"], ["another architecture", "model.hidden_size is 768 there, 128 here"]),
        (["adapter=lora"], ["adapter._target_ is"]),
        (["tokenizer=byte"], ["another tokenizer", "tokenizer._target_ is"]),
        (["tokenizer.vocab_size=2000"], ["tokenizer.vocab_size is 1024 there, 2000 here"]),
        (["data.path=/others"], ["was made from its data", "data.path is /texts there, /others here", "ckpt=FOLDER"]),
        (["data=stdlib"], ["was made from its data"]),
        (["data=sudoku_4x4"], ["data._target_ is mdm_lightning.data.text.sources.Files there"]),
    ],
)
def test_what_cannot_change(overrides, words):
    with pytest.raises(UserError) as refusal:
        go_on(begin("model=small", "tokenizer=bpe", "data=files", "data.path=/texts"), *overrides)
    for word in words:
        assert word in str(refusal.value)


def test_a_task_brings_its_tokenizer_along():
    run = begin(
        "model=tiny", "model.length=256", "data=sudoku_4x4", tokenizer=Sudoku(box=2, clues=6).tokenizer.fingerprint
    )
    assert go_on(run, "data.clues=10")[1] == {"data.clues": (6, 10)}
    with pytest.raises(UserError, match="another tokenizer than sudoku"):
        go_on(run, "data=sudoku")


def test_what_can_change():
    fixed = begin("model=small", "tokenizer=gpt2", "data=files", "data.path=/texts")
    _, found = go_on(fixed, "data.path=/others", "model.activation_checkpointing=true", "seed=4")
    assert found.keys() == {"data.path", "model.activation_checkpointing", "seed"}
    with pytest.raises(UserError, match="without trainer=fsdp"):
        go_on(fixed, "trainer=fsdp")


def test_weights_under_a_former_name_are_not_read_sharded():
    """The library that reads them knows today's names only."""
    run = begin(*BEGAN, "trainer=fsdp", shapes={"unembedding.weight": (8, 4)})
    with pytest.raises(UserError, match="before the head was called lm_head"):
        go_on(run)
    go_on(begin(*BEGAN, "trainer=fsdp", shapes={"lm_head.weight": (8, 4)}))


def test_callbacks_are_those_of_the_command_line():
    run = begin(*BEGAN, "+training.callbacks.mine._target_=os.system", "+training.callbacks.mine.command=reboot")
    assert go_on(run)[0].training.callbacks == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.profiler", {"_target_": "os.system", "command": "true"}),
        ("optimizer._target_", "os.system"),
        ("trainer._target_", "subprocess.Popen"),
        ("training.samples", [{"_target_": "os.system"}]),
        ("model.length", "${oc.env:HOME}"),
    ],
)
def test_nothing_foreign_is_taken_from_a_checkpoint(key, value):
    run = begin(*BEGAN)
    config = OmegaConf.create(run.config)
    OmegaConf.update(config, key, value, force_add=True)
    run.config.clear()
    run.config.update(OmegaConf.to_container(config, resolve=False))
    with pytest.raises(UserError, match="checkpoint"):
        go_on(run)


@pytest.mark.parametrize("choice", ["hydra/launcher=joblib", "data=../../evil", "model=a --cfg=job", "+x=y"])
def test_choices_of_a_checkpoint_are_names_of_our_files(choice):
    with pytest.raises(UserError, match="no choice of a configuration group"):
        chosen_groups(command()[1], begin(*BEGAN, choices=[choice]))


def test_runs_of_before_the_choices_were_kept():
    config, found = go_on(begin(*BEGAN, choices=None), "seed=3")
    assert (config.optimizer.lr, config.trainer.max_steps) == (1e-4, 100)
    assert {key.split(".")[0] for key in found} == {"logger", "seed"}


def test_command_lines_that_go_on_with_nothing_stay_as_they_are():
    for line in (["optimizer.lr=1"], ["ckpt=auto"], ["ckpt=null", "run_dir=x"], ["ckpt=auto", "run_dir=/nowhere"]):
        assert continue_in_place(line) == line
