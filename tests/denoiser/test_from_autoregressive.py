"""Masked diffusion models that begin as autoregressive ones, against the transformers library."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.denoiser.published.loading import read_published

from .published import dream, llada, mdlm, refusal, sdar

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
MODELS = {
    "Qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", {"tie_word_embeddings": False, "head_dim": 6}),
    "Llama": ("Llama", {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}),
}
each_model = pytest.mark.parametrize("name", MODELS)


def write(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A random autoregressive model of the transformers library, and its folder."""
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **settings)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model, folder


def read(folder: Path, vocab_size: int, **known) -> Llama:
    model = read_published(folder, vocab_size=vocab_size, unstated=Unstated(autoregressive=True, **known))
    assert isinstance(model, Llama)
    return model


@torch.no_grad()
@each_model
@pytest.mark.parametrize("vocab_size", [37, 40])
def test_with_causal_attention_the_first_masked_token_is_the_next_one(name, vocab_size, tmp_path):
    """Where everything before is revealed; what comes after, MASK or not, is not read."""
    theirs, folder = write(name, tmp_path)
    ours = read(folder, vocab_size, block_size=1)
    tokens = torch.randint(vocab_size, (3, 9), generator=torch.Generator().manual_seed(1))
    for k in range(1, 9):
        canvas = tokens.clone()
        canvas[0, k:] = canvas[1:, k] = ours.mask_id
        expected = theirs(tokens[:, :k]).logits[:, -1, :vocab_size]
        torch.testing.assert_close(ours.head(ours(canvas)[:, k]), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@each_model
def test_mask_has_the_mean_of_the_embeddings_and_no_output(name, tmp_path):
    """A row of its own where every row is a token's; else the first that is no token's."""
    theirs, folder = write(name, tmp_path)
    table = theirs.get_input_embeddings().weight
    for vocab_size, rows in ((40, 41), (37, 40)):
        ours = read(folder, vocab_size)
        assert (ours.mask_row, ours.embedding.num_embeddings) == (vocab_size, rows)
        torch.testing.assert_close(ours.embedding.weight[vocab_size], table[:vocab_size].mean(0))
        assert torch.equal(ours.embedding.weight[:vocab_size], table[:vocab_size])
        assert ours.head(ours(torch.full((1, 3), ours.mask_id)))[0].shape == (3, vocab_size)


def test_what_else_the_user_may_say(tmp_path):
    """A token for MASK, whose row stays; no shift; blocks."""
    theirs, folder = write("Llama", tmp_path)
    ours = read(folder, 40, mask_id=7, shifted=False, block_size=4)
    assert (ours.mask_row, ours.shifted, ours.embedding.num_embeddings) == (7, False, 40)
    assert ours.attention.block_size == 4
    assert torch.equal(ours.embedding.weight, theirs.get_input_embeddings().weight)


def test_it_is_never_guessed(tmp_path):
    _, folder = write("Llama", tmp_path)
    assert "published.autoregressive=true" in refusal(folder, vocab_size=40)


@pytest.mark.parametrize("published", [llada(), dream(), sdar(), mdlm()], ids=lambda p: p.config["model_type"])
def test_a_masked_diffusion_model_is_none(published, tmp_path):
    folder = published.write(tmp_path)
    message = refusal(folder, unstated=Unstated(autoregressive=True))
    assert "leave published.autoregressive=true out" in message


def test_one_that_says_where_mask_is_is_none(tmp_path):
    _, folder = write("Llama", tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"mask_token_id": 39}
    (folder / "config.json").write_text(json.dumps(config))
    assert "no autoregressive model" in refusal(folder, unstated=Unstated(autoregressive=True))


def test_the_tokenizer_must_fit(tmp_path):
    _, folder = write("Llama", tmp_path)
    assert "has 41 ids, but" in refusal(folder, vocab_size=41, unstated=Unstated(autoregressive=True))


def test_tied_weights_that_are_stored_twice(tmp_path):
    from safetensors.torch import load_file, save_file

    _, folder = write("Qwen2, tied", tmp_path)
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert read(folder, 40).embedding.num_embeddings == 41
