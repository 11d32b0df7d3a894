"""Every choice of every group composes, and what it composes to can be built."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.training.optimizer import AdamW

CONF = Path(__file__).parents[2] / "conf"
# Published sizes in millions of parameters: GPT-2's trunk, two embeddings of V x width, adaLN and norms.
SIZES = {"micro": (0.0, 0.1), "tiny": (0.3, 0.8), "small": (85, 100), "medium": (300, 350), "large": (700, 800)}


def configure(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in choices("model") if name != "dit"])
def test_models(name):
    config = configure(f"model={name}")
    with torch.device("meta"):
        denoiser = instantiate(config.model, vocab_size=100)
    millions = sum(p.numel() for p in denoiser.parameters()) / 1e6
    least, most = SIZES[name]
    assert least < millions < most
    assert config.data.length == denoiser.length


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_published_sizes_bring_the_published_recipe(name):
    config = configure(f"model={name}", "data=owt")
    assert config.training.global_batch_size == 512
    assert config.training.ema == 0.9999
    assert config.optimizer.lr == 3e-4
    assert instantiate(config.lr_schedule).warmup_steps == 2500
    assert (config.trainer.precision, config.trainer.gradient_clip_val) == ("bf16-mixed", 1.0)
    assert config.data.wrap
    assert config.tokenizer.name_or_path == "openai-community/gpt2"


def test_what_is_said_on_the_command_line_wins_over_the_recipe():
    config = configure("model=small", "recipe=quick", "optimizer.lr=7e-4", "schedule@training.schedule=sine")
    assert config.optimizer.lr == 7e-4
    assert config.training.global_batch_size == 32
    assert config.training.schedule._target_.endswith("SineSchedule")


@pytest.mark.parametrize("name", choices("schedule"))
def test_schedules_in_both_seats(name):
    config = configure(f"schedule={name}", f"schedule@training.schedule={name}", "masking@training.masking=independent")
    for seat in (config.schedule, config.training.schedule, config.training.masking.schedule):
        assert isinstance(instantiate(seat), MaskSchedule)


@pytest.mark.parametrize("name", choices("masking"))
@pytest.mark.parametrize("times", choices("timesteps"))
def test_forward_processes(name, times):
    config = configure(f"masking@training.masking={name}", f"timesteps@training.times={times}")
    assert isinstance(instantiate(config.training.masking), IndependentMasking | CountMasking)


@pytest.mark.parametrize("name", choices("lr_schedule"))
def test_learning_rate_schedules(name):
    assert 0 < instantiate(configure(f"lr_schedule={name}").lr_schedule)(50) <= 1


@pytest.mark.parametrize("name", choices("optimizer"))
def test_optimizers(name):
    assert isinstance(instantiate(configure(f"optimizer={name}").optimizer), AdamW)


@pytest.mark.parametrize("name", [name for name in choices("trainer") if name != "gpu"])
def test_trainers(name):
    config = configure(f"trainer={name}", "trainer.accelerator=cpu", "trainer.devices=1")
    assert isinstance(instantiate(config.trainer, logger=False, enable_progress_bar=False), Trainer)


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments(name):
    assert instantiate(configure(f"experiment={name}").lr_schedule)(0) > 0


@pytest.mark.parametrize("name", choices("evaluation"))
def test_evaluations(name):
    config = configure(f"evaluation={name}", name="evaluate")
    for evaluation in config.evaluation.values():
        assert callable(instantiate(evaluation))


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_nothing_is_left_to_fill_in(name):
    config = configure(name=name)
    # The loggers refer to Hydra's output folder, which exists only while a command runs.
    config = OmegaConf.masked_copy(config, [key for key in config if key != "logger"])
    assert not OmegaConf.missing_keys(config)
    OmegaConf.to_container(config, resolve=True)
