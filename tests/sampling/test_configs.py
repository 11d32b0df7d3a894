"""Every preset composes, instantiates and runs; every part can be chosen on the command line."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate

from mdm_lightning.sampling import presets
from mdm_lightning.sampling.sampler import Sampler

from .toys import TinyDenoiser, masks, noise

CONF = Path(__file__).parents[2] / "conf"


def names(group: str) -> list[str]:
    """Of what needs nothing but itself: ``sampler=advised`` needs a file."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem not in ("base", "advised"))


def sampler(*overrides: str) -> Sampler:
    schedule = {"_target_": "mdm_lightning.diffusion.schedule.BetaSchedule", "alpha": 1.0, "beta": 1.0}
    primary = {"defaults": [{"sampler": "mdlm_ancestral"}, "_self_"], "schedule": schedule}
    ConfigStore.instance().store("primary_of_the_sampling_tests", primary)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("primary_of_the_sampling_tests", overrides=list(overrides)).sampler)


@pytest.mark.parametrize("name", names("sampler"))
def test_every_preset_runs(name):
    denoiser = TinyDenoiser(length=40)
    samples = sampler(f"sampler={name}", "schedule.alpha=0.6")(denoiser, masks(2, 40, denoiser), noise(2))
    assert (samples.tokens < denoiser.mask_id).all()


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("count", "order", "tokens") for name in names(group)]
)
def test_every_part_can_be_chosen_apart(group, name):
    assert isinstance(sampler(f"{group}={name}"), Sampler)


def test_options_are_reached_on_the_command_line():
    made = sampler(
        "sampler=llada",
        "order=margin",
        "count=entropy_bounded",
        "count.gamma=0.25",
        "tokens.temperature=0.5",
        "tokens.top_p=0.9",
        "tokens.banned=[1,2]",
        "sampler.blocks.length=16",
        "sampler.guidance.scale=1.5",
        "sampler.steps=8",
        "eos=never",
        "eos.turns=true",
        "cache=dual",
        "cache.every=4",
        "sampler.tempered_evidence=true",
        "schedule.beta=0.3",
    )
    assert made.steps == 8
    assert repr(made) == (
        "Sampler(schedule=BetaSchedule(alpha=1.0, beta=0.3), count=EntropyBounded(gamma=0.25), order=Margin(), "
        "tokens=TokenSampler(temperature=0.5, top_k=None, top_p=0.9, banned=(1, 2)), blocks=Blocks(length=16), "
        "guidance=Guidance(scale=1.5), steps=8, eos=EosNever(early_end=False, turns=True), "
        "tempered_evidence=True, cache=DualCache(every=4), ending=None)"
    )
    assert made == sampler(
        *["sampler=mdlm_ancestral", "order=margin", "count=entropy_bounded", "count.gamma=0.25"],
        *["tokens.temperature=0.5", "tokens.top_p=0.9", "tokens.banned=[1,2]"],
        *["sampler.blocks.length=16", "sampler.guidance.scale=1.5", "sampler.steps=8"],
        *["eos=never", "eos.turns=true", "cache=dual", "cache.every=4", "sampler.tempered_evidence=true"],
        "schedule.beta=0.3",
    )


def test_the_llada_preset_has_lladas_counts_per_block():
    denoiser = TinyDenoiser(length=64)
    samples = sampler("sampler=llada", "sampler.steps=24", "schedule.alpha=0.5", "schedule.beta=0.5")(
        denoiser, masks(1, 64, denoiser), noise(1)
    )
    per_step = torch.bincount(samples.revealed_at[0], minlength=24).tolist()
    assert per_step == [3] * 8 + [2] * 4 + [3] * 8 + [2] * 4


@pytest.mark.parametrize("name", names("sampler"))
def test_presets_as_functions_are_those_of_the_configuration(name):
    made = getattr(presets, name)()
    configured = sampler(f"sampler={name}")
    assert replace(made, schedule=configured.schedule) == configured


def test_every_preset_is_also_a_function():
    functions = {name for name, value in vars(presets).items() if inspect.isfunction(value)}
    assert functions == set(names("sampler"))
