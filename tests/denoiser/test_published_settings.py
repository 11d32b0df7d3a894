"""Every setting of a published configuration is read, known to change nothing, or refused by its name."""

import logging
from dataclasses import replace

import pytest
import torch

from mdm_lightning.denoiser.published.loading import read_published

from . import plain_llama
from .published import (
    HIDDEN,
    MLP,
    Published,
    dream,
    fast_dllm,
    llada,
    llama3,
    llama_shapes,
    qwen3,
    random,
    refusal,
    sdar,
)
from .test_llama import logits, plain_logits, sequences

# What stands in the configurations on the hub, beside sizes and what is read.
LLADA = {
    "alibi_bias_max": 8.0, "attention_dropout": 0.0, "attention_layer_norm_with_affine": True, "auto_map": {"A": "b.C"},
    "bias_for_layer_norm": False, "block_group_size": 1, "embedding_dropout": 0.0, "flash_attention": False,
    "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
    "layer_norm_with_affine": True, "multi_query_attention": None, "precision": "amp_bf16", "residual_dropout": 0.0,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.3", "use_cache": False,
}  # fmt: skip
QWEN = {
    "auto_map": {"A": "b.C"}, "bos_token_id": 1, "initializer_range": 0.02, "max_window_layers": 28, "mlp_bias": False,
    "pretraining_tp": 1, "rope_scaling": None, "sliding_window": 4096, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip
SDAR = {"debug": False, "fuse_cross_entropy": True}


def read(published: Published, folder):
    return read_published(
        published.write(folder), dtype=torch.float64, vocab_size=published.vocab_size, unstated=published.unstated
    )


@pytest.mark.parametrize(
    ("published", "said"),
    [(llada(), LLADA), (dream(), QWEN), (qwen3(), QWEN), (sdar(), QWEN | SDAR), (fast_dllm(), QWEN)],
    ids=["LLaDA", "Dream", "Qwen", "SDAR", "Fast-dLLM"],
)
def test_published_configurations_are_known(published, said, tmp_path, caplog):
    """None of their settings is a surprise, and those that are not read change nothing."""
    with caplog.at_level(logging.WARNING):
        expected = logits(read(published, tmp_path / "bare"), sequences(published))
        told = replace(published, config=said | published.config)
        assert torch.equal(logits(read(told, tmp_path / "told"), sequences(published)), expected)
    assert not caplog.messages


@pytest.mark.parametrize("setting", [{"rope_full_precision": False}, {"attention_dropout": 0.1}, {"norm_after": None}])
def test_of_rounding_and_training(setting, tmp_path, caplog):
    published = replace(llada(), config=llada().config | setting)
    expected = logits(read(llada(), tmp_path / "bare"), sequences(published))
    assert torch.equal(logits(read(published, tmp_path / "told"), sequences(published)), expected)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("published", "setting", "value"),
    [
        (llada(), "activation_type", "swiglu"),
        (llada(), "activation_type", "gelu"),
        (llada(), "alibi", True),
        (llada(), "attention_layer_norm", True),
        (llada(), "bias_for_layer_norm", True),
        (llada(), "block_group_size", 2),
        (llada(), "block_type", "sequential"),
        (llada(), "clip_qkv", 8.0),
        (llada(), "embedding_layer_norm", True),
        (llada(), "include_bias", True),
        (llada(), "input_emb_norm", True),
        (llada(), "layer_norm_type", "gemma_rms"),
        (llada(), "layer_norm_with_affine", False),
        (llada(), "multi_query_attention", True),  # beside as many heads as there are queries
        (llada(), "norm_after", True),
        (llada(), "rope", False),
        (llada(), "scale_logits", True),
        (dream(), "hidden_act", "gelu"),
        (dream(), "use_sliding_window", True),
        (qwen3(), "attention_dropout", 0.1),
        (llama3(), "attention_multiplier", 0.1),
        (llama3(), "attn_logit_softcapping", 50.0),
        (llama3(), "embedding_multiplier", 12.0),
        (llama3(), "final_logit_softcapping", 30.0),
        (llama3(), "hidden_activation", "gelu_pytorch_tanh"),
        (llama3(), "layer_types", ["sliding_attention"]),
        (llama3(), "logit_scale", 0.0625),
        (llama3(), "logits_scaling", 8.0),
        (llama3(), "partial_rotary_factor", 0.5),
        (llama3(), "residual_multiplier", 0.2),
        (llama3(), "sliding_window", 4096),  # Mistral's: it does not say that it is not used
        (sdar(), "rope_scaling", {"type": "linear", "factor": 2.0}),
        (fast_dllm(), "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}),
    ],
)
def test_what_changes_the_mathematics_is_refused(published, setting, value, tmp_path):
    folder = replace(published, config=published.config | {setting: value}).write(tmp_path)
    assert setting in refusal(folder, unstated=published.unstated)


@pytest.mark.parametrize("setting", ["activation_type", "block_type", "layer_norm_type", "rope"])
def test_what_llada_leaves_out_has_its_own_default(setting, tmp_path):
    """Which is another network: that of its class before Llama's blocks."""
    config = {key: value for key, value in llada().config.items() if key != setting}
    assert setting in refusal(replace(llada(), config=config).write(tmp_path))


def test_an_unknown_setting_is_named(tmp_path, caplog):
    told = replace(llama3(), config=llama3().config | {"new_scale": 3, "new_switch": False, "new_list": []})
    read(told, tmp_path)
    (message,) = caplog.messages
    assert "new_scale=3" in message
    assert "new_switch" not in message


def llada_of(mlp: int = MLP, **settings) -> Published:
    heads = 1 if settings.get("multi_query_attention") else 4
    shapes = llama_shapes(plain_llama.LLADA, tied=False, bias=False, key_value_heads=heads)
    shapes = {name: tuple(mlp if size == MLP else size for size in shape) for name, shape in shapes.items()}
    return replace(llada(), config=llada().config | settings, weights=random(shapes))


@pytest.mark.parametrize(
    "published",
    [
        llada_of(mlp=4 * HIDDEN, mlp_hidden_size=None),
        llada_of(mlp=2 * HIDDEN, mlp_hidden_size=None, mlp_ratio=2),
        llada_of(multi_query_attention=False, n_kv_heads=None),
        llada_of(multi_query_attention=True, n_kv_heads=1),
        llada_of(multi_query_attention=True, n_kv_heads=None),
    ],
)
def test_sizes_that_follow_from_other_settings(published, tmp_path):
    model, tokens = read(published, tmp_path), sequences(published)
    heads = 1 if published.config.get("multi_query_attention") else 4
    plain = replace(published, config=published.config | {"n_kv_heads": heads})
    for row, expected in zip(logits(model, tokens), tokens.tolist(), strict=True):
        torch.testing.assert_close(row.softmax(-1), plain_logits(plain, expected).softmax(-1), rtol=1e-4, atol=1e-7)
