"""What a training run says before its first step: its recipe, its data, what it trains, and what might be better."""

import logging

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.data.source import PreparedData
from mdm_lightning.denoiser.base import Denoiser

log = logging.getLogger(__name__)

# What recipes set, and makes the most difference.
_OF_RECIPES = (
    "trainer.max_steps",
    "training.global_batch_size",
    "training.batch_size",
    "optimizer.lr",
    "lr_schedule.warmup_steps",
    "training.ema",
    "trainer.precision",
)

# A token of fewer bytes is hardly more than a letter: sequences then span few words. Vocabularies of 1,024 tokens reach
# 2.5 bytes and more on English and on code; what stays below is short of vocabulary, or in a script whose characters
# take two to four bytes each.
_FEW_BYTES = 2.0

# Tokens of a forward pass from which on a larger one is no faster per token, about: one sequence of the length that the
# recipe for fine-tuning (one per pass) is made for.
_FULL_PASS = 4096


def announce_recipe(config: DictConfig, hydra: HydraConf) -> None:
    """Says which recipe set values across groups: a model's size brings its own along."""
    recipe, model = hydra.runtime.choices["recipe"], hydra.runtime.choices["model"]
    typed = any(override.lstrip("+").startswith("recipe=") for override in hydra.overrides.task)
    others = [name for name in GlobalHydra.instance().config_loader().get_group_options("recipe") if name != recipe]
    values = ", ".join(f"{key}={OmegaConf.select(config, key)}" for key in _OF_RECIPES)
    log.info(
        "Recipe %s%s: %s; another: recipe=%s, or any of these options",
        recipe, "" if typed else f" (comes with model={model})", values, "|".join(others),
    )  # fmt: skip


def announce(denoiser: Denoiser, data: PreparedData, config: DictConfig, accumulate: int, world: int) -> None:
    """Says what is trained on what, and gives the advice that applies."""
    log.info(
        "%s: %s training and %s validation sequences of %d tokens, vocabulary %s",
        data.name, f"{len(data.train):,}", f"{len(data.validation):,}", data.length, f"{data.tokenizer.vocab_size:,}",
    )  # fmt: skip
    log.info(
        "%s: %s parameters; %d sequences per step = %d per device x %d processes x %d accumulated",
        type(denoiser).__name__, _millions(sum(p.numel() for p in denoiser.parameters())),
        config.training.global_batch_size, config.training.batch_size, world, accumulate,
    )  # fmt: skip
    if trained := trained_part(denoiser):
        log.info("Trained: %s", trained)
    for hint in (tokenizer_hint(config.tokenizer, data), batch_hint(config.training.batch_size, data, accumulate)):
        if hint:
            log.info("Hint: %s", hint)


def trained_part(denoiser: Denoiser) -> str:
    """What is trained of a denoiser some of whose weights stay as they are, in words; empty if all are trained."""
    trained = {name: p.numel() for name, p in denoiser.named_parameters() if p.requires_grad}
    whole, part = sum(p.numel() for p in denoiser.parameters()), sum(trained.values())
    if part == whole:
        return ""
    layers: dict[str, set[str]] = {}  # those of one name, one in each block
    for name in trained:
        path = name.partition(".lora_")[0]
        layers.setdefault(path.rpartition(".")[2], set()).add(path)
    listed = ", ".join(name if len(paths) == 1 else f"{name} (x{len(paths)})" for name, paths in layers.items())
    return f"{_millions(part)} of {_millions(whole)} parameters ({100 * part / whole:.2g} %), adapters of {listed}"


def tokenizer_hint(tokenizer: DictConfig, data: PreparedData) -> str:
    """Where a vocabulary made from the corpus is too small for it, so that sequences span little text; else empty."""
    size, per_token = tokenizer.get("vocab_size"), data.bytes_per_position
    if size is None or per_token is None or per_token >= _FEW_BYTES:
        return ""
    text = data.tokenizer.decode(data.validation[0]["tokens"])
    per_character = len(text.encode()) / max(1, len(text))
    instead = f"tokenizer.vocab_size={4 * size}"
    if per_character > per_token:
        instead += f", or tokenizer=character ({per_character:.1f} bytes each)"
    return (
        f"a token has {per_token:.1f} bytes of text on average, a sequence {per_token * data.length:,.0f}: "
        f"{instead} puts more text into it"
    )


def batch_hint(batch_size: int, data: PreparedData, accumulate: int) -> str:
    """Where a step takes many forward passes of few tokens each; else empty."""
    if accumulate == 1 or batch_size * data.length >= _FULL_PASS:
        return ""
    at_most = max(batch_size, _FULL_PASS // data.length)
    larger = max(size for size in range(1, at_most + 1) if batch_size * accumulate % size == 0)
    if larger == batch_size:
        return ""
    return (
        f"a forward pass has {batch_size} x {data.length} tokens, and a step {accumulate} of them: "
        f"training.batch_size={larger} is faster where the memory suffices"
    )


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f}M"
