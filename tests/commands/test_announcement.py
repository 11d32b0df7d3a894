"""What a training run says before its first step applies where it is said, and nowhere else."""

from types import SimpleNamespace

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mdm_lightning.commands.announcement import batch_hint, tokenizer_hint, trained_part
from mdm_lightning.denoiser.lora import LoRA

BPE, BYTES = OmegaConf.create({"vocab_size": 1024}), OmegaConf.create({})


def text(shown: str, bytes_per_position: float | None) -> SimpleNamespace:
    tokenizer = SimpleNamespace(decode=lambda tokens: shown)
    return SimpleNamespace(
        tokenizer=tokenizer, validation=[{"tokens": None}], bytes_per_position=bytes_per_position, length=128
    )


def test_short_tokens_ask_for_a_larger_vocabulary():
    assert "tokenizer.vocab_size=4096" in tokenizer_hint(BPE, text("plain", 1.5))
    assert "tokenizer=character" not in tokenizer_hint(BPE, text("plain", 1.5))  # which would make them shorter
    assert "tokenizer=character (3.0 bytes each)" in tokenizer_hint(BPE, text("文字", 1.5))
    assert not tokenizer_hint(BPE, text("文字", 2.8))
    assert not tokenizer_hint(BPE, text("plain", None))
    assert not tokenizer_hint(BYTES, text("plain", 1.0))


@pytest.mark.parametrize(
    ("batch_size", "length", "accumulate", "better"),
    [(1, 512, 32, 8), (2, 1024, 3, 3), (1, 512, 1, None), (1, 4096, 32, None), (4, 300, 3, 12), (1, 128, 7, 7)],
)
def test_passes_of_few_tokens_ask_for_larger_ones(batch_size, length, accumulate, better):
    hint = batch_hint(batch_size, SimpleNamespace(length=length), accumulate)
    assert (f"training.batch_size={better} " in hint) if better else not hint


def test_what_an_adapter_trains_is_said_in_numbers():
    model = {"_target_": "mdm_lightning.denoiser.dit.DiT", "vocab_size": 64, "length": 8, "hidden_size": 32}
    denoiser = instantiate({**model, "depth": 2, "heads": 2, "cond_dim": 8})
    assert not trained_part(denoiser)
    whole = sum(p.numel() for p in denoiser.parameters())
    LoRA(rank=4).inject(denoiser)
    part = sum(p.numel() for p in denoiser.parameters()) - whole
    said = trained_part(denoiser)
    assert f"{part / 1e6:.2f}M of {(whole + part) / 1e6:.2f}M parameters" in said
    assert "(x2)" in said
