"""Published weights are read whole and exactly, or refused with a list of what differs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.denoiser.published.loading import PublishedModel, read_published
from mdm_lightning.denoiser.published.weight_files import missing_files
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.count import Binomial
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler

from . import plain_dit, plain_llama
from .published import (
    DEPTH,
    HEADS,
    ROWS,
    Published,
    dream,
    fast_dllm,
    llada,
    llama3,
    mdlm,
    qwen2,
    qwen3,
    refusal,
    same,
    sdar,
    write_index,
)

MODELS = {
    "MDLM": mdlm(),
    "LLaDA": llada(),
    "Dream": dream(),
    "Qwen3": qwen3(),
    "Qwen2": qwen2(),
    "Llama": llama3(),
    "SDAR": sdar(),
    "Fast-dLLM": fast_dllm(),
}
each_model = pytest.mark.parametrize("published", MODELS.values(), ids=MODELS.keys())


def without(published: Published, *names: str) -> Published:
    return replace(published, weights={name: w for name, w in published.weights.items() if name not in names})


def state(path: Path, **options) -> dict[str, torch.Tensor]:
    return read_published(path, **options).state_dict()


@each_model
def test_every_tensor_arrives(published, tmp_path):
    """Each parameter is a stored tensor and each stored tensor a parameter; MDLM's output layer loses MASK's row."""
    read = state(published.write(tmp_path), unstated=published.unstated)
    weights = dict(published.weights)
    for name in ("backbone.output_layer.linear.weight", "backbone.output_layer.linear.bias"):
        if name in weights:
            weights[name] = weights[name][:-1]
    assert len(read) == len(weights)
    for value in read.values():
        name = next(name for name, stored in weights.items() if torch.equal(value, stored))
        del weights[name]


@each_model
@pytest.mark.parametrize("shards", [2, 5])
def test_shards(published, shards, tmp_path):
    whole, cut = published.write(tmp_path / "whole"), published.write(tmp_path / "cut", shards)
    assert same(state(cut, unstated=published.unstated), state(whole, unstated=published.unstated))


@each_model
def test_torch_files(published, tmp_path):
    """The same from pytorch_model.bin, in a folder, by itself with a config.json beside it, and sharded."""
    expected = state(published.write(tmp_path / "safetensors"), unstated=published.unstated)
    folder, shards = tmp_path / "torch", tmp_path / "shards"
    for path in (folder, shards):
        path.mkdir()
        (path / "config.json").write_text(json.dumps(published.config))
    torch.save(published.weights, folder / "pytorch_model.bin")
    names = list(published.weights)
    where = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    for i in range(2):
        torch.save({name: published.weights[name] for name in names[i::2]}, shards / f"pytorch_model-{i}.bin")
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    assert same(state(folder, unstated=published.unstated), expected)
    assert same(state(folder / "pytorch_model.bin", unstated=published.unstated), expected)
    assert same(state(shards, unstated=published.unstated), expected)


@each_model
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precisions(published, stored, tmp_path):
    """The weights are the stored ones, rounded once to the precision asked for; the model is in evaluation mode."""
    weights = {name: value.to(stored) for name, value in published.weights.items()}
    folder = replace(published, weights=weights).write(tmp_path)
    exact = state(folder, dtype=torch.float64, unstated=published.unstated)
    model = read_published(folder, dtype=torch.bfloat16, unstated=published.unstated)
    assert not model.training
    assert same(model.state_dict(), {name: value.bfloat16() for name, value in exact.items()})


@each_model
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_device(published, device, tmp_path):
    path = published.write(tmp_path)
    model = read_published(path, device=torch.device(device), unstated=published.unstated)
    assert {value.device.type for value in model.state_dict().values()} == {device}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert same(
        {name: value.cpu() for name, value in model.state_dict().items()}, state(path, unstated=published.unstated)
    )


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_mdlm_computes_what_was_published(time_conditioning, tmp_path):
    published = mdlm(time_conditioning=time_conditioning)
    model = read_published(published.write(tmp_path), dtype=torch.float64, vocab_size=published.vocab_size)
    assert isinstance(model, DiT)
    tokens = torch.randint(ROWS, (3, 7), generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([0.9, 0.5, 0.1])
    with torch.no_grad():
        result = model.head(model(tokens, alpha))
    weights = {name.removeprefix("backbone."): value.double() for name, value in published.weights.items()}
    for row, ids, a in zip(result, tokens.tolist(), alpha, strict=True):
        sigma = -float(a.log()) if time_conditioning else 0.0
        expected = plain_dit.logits(weights, ids, sigma, DEPTH, HEADS)
        torch.testing.assert_close(row, expected[:, : ROWS - 1], rtol=1e-4, atol=1e-5)


@each_model
def test_the_sampler_fills_mask_and_nothing_else(published, tmp_path):
    """MASK has the id that the tokenizer gives it, vocab_size, whatever row the published model keeps it in."""
    folder = published.write(tmp_path)
    model = read_published(folder, vocab_size=published.vocab_size, unstated=published.unstated)
    assert model.mask_id == model.vocab_size == published.vocab_size
    canvas = torch.full((8, 12), model.mask_id)
    canvas[:, 3] = 5
    samples = Sampler(LinearSchedule(), Binomial(), Random())(model, canvas, SequenceNoise(0, range(8)), steps=6)
    assert (samples.tokens[:, 3] == 5).all()
    assert (samples.tokens < model.vocab_size).all()
    assert not (samples.tokens == published.mask_row).any()


@pytest.mark.parametrize(
    ("published", "name"),
    [
        (llada(tied=True), plain_llama.LLADA),
        (dream(tied=True), plain_llama.DREAM),
        (qwen3(tied=True), plain_llama.DREAM),
    ],
    ids=["LLaDA", "Dream", "Qwen3"],
)
def test_tied_weights(published, name, tmp_path):
    """Once, or twice if both are equal."""
    once = state(published.write(tmp_path / "once"), unstated=published.unstated)
    embedding = published.weights[name.embedding]
    twice = replace(published, weights={**published.weights, name.head: embedding.clone()})
    assert same(state(twice.write(tmp_path / "twice"), unstated=published.unstated), once)
    assert not any("lm_head" in parameter for parameter in once)
    other = replace(published, weights={**published.weights, name.head: embedding + 1})
    assert "differs from the embedding" in refusal(other.write(tmp_path / "other"), unstated=published.unstated)


@each_model
def test_missing_unknown_and_misshapen_are_listed(published, tmp_path):
    names = list(published.weights)
    weights = {**without(published, names[3]).weights, "adapter.weight": torch.zeros(3)}
    weights[names[5]] = torch.zeros(1, 2, 3)
    message = refusal(replace(published, weights=weights).write(tmp_path), unstated=published.unstated)
    assert f"missing: {names[3]};" in message
    assert "unknown: adapter.weight;" in message
    assert f"of another shape: {names[5]} [1, 2, 3] instead of {list(published.weights[names[5]].shape)}" in message


@each_model
def test_no_tensor_can_be_missing_or_of_another_shape(published, tmp_path):
    for i, (name, value) in enumerate(published.weights.items()):
        message = refusal(without(published, name).write(tmp_path / f"{i}"), unstated=published.unstated)
        # By the embedding the family is recognised.
        assert name in message or (("embed" in name or "wte" in name) and "none of the known families" in message)
        longer = replace(published, weights={**published.weights, name: torch.zeros(len(value) + 1, *value.shape[1:])})
        assert name in refusal(longer.write(tmp_path / f"{i}"), unstated=published.unstated)


def test_a_long_list_is_cut(tmp_path):
    published = llada()
    weights = {**published.weights, **{f"extra.{i}": torch.zeros(1) for i in range(9)}}
    message = refusal(replace(published, weights=weights).write(tmp_path))
    assert "extra.4 and 4 more" in message
    assert "extra.5" not in message


@each_model
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(published, dtype, tmp_path):
    name = list(published.weights)[2]
    weights = {**published.weights, name: published.weights[name].to(dtype)}
    assert f"holds {name} (" in refusal(replace(published, weights=weights).write(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert f"holds {name} (" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(file, kept, tmp_path):
    published = mdlm()
    published.write(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    if file != "model.safetensors":
        torch.save(published.weights, tmp_path / file)
        content = (tmp_path / file).read_bytes()
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_bytes(content[: int(len(content) * kept)])
    assert "no readable file of weights, or damaged" in refusal(tmp_path)


def test_shards_and_index_must_agree(tmp_path):
    published = llada()
    folder = published.write(tmp_path / "missing shard", 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert missing_files(folder) == ["model-00002-of-00003.safetensors"]
    assert "lacks model-00002-of-00003.safetensors" in refusal(folder)

    folder = published.write(tmp_path / "missing entry", 3)
    assert missing_files(folder) == []
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    name = list(where)[4]
    write_index(folder, {key: file for key, file in where.items() if key != name})
    assert f"disagree about {name}" in refusal(folder)
    write_index(folder, {**where, "nowhere": where[name]})
    assert "disagree about nowhere" in refusal(folder)
    write_index(folder, {**where, name: "../elsewhere.safetensors"})
    assert "names files outside its folder" in refusal(folder)
    index.write_text("{}")
    assert "has no weight_map" in refusal(folder)
    index.write_text("{")
    assert "not valid JSON" in refusal(folder)


@pytest.mark.parametrize("kind", ["sdar_moe", "llada", "llada2_moe"])
def test_mixtures_of_experts_are_refused_as_such(kind, tmp_path):
    """Whatever the names of their other tensors, and before anything is asked of the user."""
    tiny = sdar()
    weights = {name.replace(".mlp.", ".mlp.experts.0."): value for name, value in tiny.weights.items()}
    if kind == "llada2_moe":
        weights = {name.replace("embed_tokens", "word_embeddings"): value for name, value in weights.items()}
    folder = replace(tiny, config=tiny.config | {"model_type": kind}, weights=weights).write(tmp_path / "model")
    assert "is a mixture of experts, which is not read here" in refusal(folder)


def test_folders_that_hold_no_model(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "has no model.safetensors" in refusal(tmp_path)
    assert missing_files(tmp_path) == ["config.json", "model.safetensors"]
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert "none of the known families (Dream, LLaDA, MDLM, Fast-dLLM, SDAR, Qwen)" in refusal(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "something else than named tensors" in refusal(tmp_path / "list.pt")


def test_an_autoregressive_model_has_no_mask_and_is_asked_for_it(tmp_path):
    """It has the same tensors as what was made of it: the user has to say what makes it another model."""
    folder = qwen2(tied=False).write(tmp_path)
    assert "does not say mask_token_id: set published.mask_id=" in refusal(folder)
    assert "does not say shifted: set published.shifted=" in refusal(folder, unstated=Unstated(mask_id=36))
    read_published(folder, unstated=Unstated(mask_id=36, shifted=False))


@pytest.mark.parametrize(
    ("published", "unstated", "message"),
    [
        (mdlm(), Unstated(mask_id=3), "published.mask_id= is not for"),
        (llada(), Unstated(shifted=True), "published.shifted= is not for"),
        (llada(), Unstated(mask_id=32), "mask_token_id=33 in config.json: leave published.mask_id=32 out"),
        (dream(), Unstated(block_size=4), "published.block_size= is not for"),
        (sdar(), Unstated(block_size=8), "block_size=4 in config.json: leave published.block_size=8 out"),
        (qwen3(), Unstated(mask_id=40, shifted=False), "mask_row must be in 0 ... 39"),
    ],
)
def test_what_the_user_says_contradicts_nothing(published, unstated, message, tmp_path):
    assert message in refusal(published.write(tmp_path), unstated=unstated)


def test_what_the_user_says_may_be_what_is_said(tmp_path):
    folder = llada().write(tmp_path)
    assert same(state(folder, unstated=Unstated(mask_id=33)), state(folder))


@pytest.mark.parametrize(
    "published", [*MODELS.values(), llada(tied=True), qwen3(tied=True)], ids=lambda p: p.config["model_type"]
)
def test_the_adapters_are_each_others_inverse(published, tmp_path):
    """Both ways and one tensor at a time; what has no name in the family is left out."""
    model = PublishedModel.open(published.write(tmp_path))
    family, stored = model.family, dict(model.weights)
    ours = dict(family.to_ours(stored))
    theirs = dict(family.to_theirs(ours))
    assert theirs.keys() == stored.keys()
    for name, value in theirs.items():
        rows = len(value) - (name.startswith("backbone.output_layer.linear."))  # MASK's, which is zero
        assert torch.equal(value[:rows], stored[name][:rows])
        assert not value[rows:].any()
    assert same(dict(family.to_ours(theirs)), ours)
    singly = {name: value for key in stored for name, value in family.to_ours({key: stored[key]})}
    assert same(singly, ours)
    assert not list(family.to_ours({"something.else": torch.zeros(2), "model.layers.0.new.weight": torch.zeros(2)}))
    built = model.build(model.arguments(None, published.unstated), torch.float32)
    assert built.state_dict().keys() == ours.keys()


@pytest.mark.parametrize(
    ("published", "changes", "message"),
    [
        (mdlm(), {"n_heads": None}, "does not say n_heads"),
        (mdlm(), {"n_heads": 3}, "describes no possible MDLM model"),
        (mdlm(), {"hidden_dim": 32}, "of another shape"),
        (llada(), {"mask_token_id": None}, "does not say mask_token_id"),
        (llada(), {"mask_token_id": 40}, "describes no possible LLaDA model"),
        (llada(), {"alibi": True}, "alibi=True"),
        (llada(), {"n_layers": 3}, "missing: model.transformer.blocks.2."),
        (llada(), {"n_layers": 1}, "unknown: model.transformer.blocks.1."),
        (llada(), {"d_model": "wide"}, "describes no possible LLaDA model"),
        (dream(), {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
        (dream(), {"block_size": 32}, "block_size=32"),
        (sdar(), {"block_size": None}, "does not say block_size: set published.block_size="),
        (llama3(), {"layer_types": ["sliding_attention"]}, "layers with a sliding window"),
        (llama3(), {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters"),
        (qwen3(), {"use_sliding_window": True}, "use_sliding_window=True"),
        (qwen3(), {"head_dim": 5}, "head_dim must be even"),
        (dream(), {"num_key_value_heads": 4}, "of another shape"),
        (dream(), {"tie_word_embeddings": True}, "differs from the embedding"),
    ],
)
def test_configurations_that_do_not_fit(published, changes, message, tmp_path):
    folder = replace(published, config=published.config | changes).write(tmp_path)
    assert message in refusal(folder, unstated=published.unstated)


def test_the_tokenizer_must_fit(tmp_path):
    folder = mdlm().write(tmp_path / "mdlm")
    for vocab_size in (ROWS, ROWS - 2):
        assert f"the tokenizer has {vocab_size} without MASK instead of {ROWS - 1}" in refusal(
            folder, vocab_size=vocab_size
        )
    folder = llada().write(tmp_path / "llada")
    assert read_published(folder, vocab_size=ROWS).vocab_size == ROWS
    assert f"has {ROWS + 1} ids, but" in refusal(folder, vocab_size=ROWS + 1)


@pytest.mark.parametrize(
    ("published", "changes"),
    [
        (mdlm(), {"n_blocks": 10**9}),
        (mdlm(), {"hidden_dim": 10**9, "n_heads": 1}),
        (mdlm(), {"cond_dim": 10**9}),
        (mdlm(), {"vocab_size": 10**12}),
        (mdlm(), {"model_length": 10**12}),
        (llada(), {"n_layers": 10**9}),
        (llada(), {"d_model": 10**9, "n_heads": 1, "n_kv_heads": 1}),
        (llada(), {"mlp_hidden_size": 10**9}),
        (llada(), {"embedding_size": 10**12}),
        (dream(), {"vocab_size": 10**12}),
        (dream(), {"num_key_value_heads": 10**9}),
        (dream(), {"max_position_embeddings": 10**12}),
        (dream(), {"num_hidden_layers": 1e9}),
        (dream(), {"num_attention_heads": [4]}),
        (qwen3(), {"head_dim": 10**9}),
        (sdar(), {"block_size": "four"}),
    ],
)
def test_sizes_are_compared_with_the_weights_before_anything_is_built(published, changes, tmp_path):
    """A billion blocks take hours even without memory, and a billion channels the memory of a rotary table."""
    folder = replace(published, config=published.config | changes).write(tmp_path)
    message = refusal(folder, unstated=published.unstated)
    assert "larger model than it has weights for" in message or "describes no possible" in message


def test_tensors_that_are_larger_than_their_file(tmp_path):
    """Torch can store a tensor of any size in four bytes: it would be given the memory that it asks for."""
    published = mdlm()
    weights = published.weights | {"backbone.vocab_embed.embedding": torch.zeros(1).expand(10**6, 10**6)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(published.config | {"vocab_size": 10**6}))
    assert "has not all the values of backbone.vocab_embed.embedding" in refusal(tmp_path)


def test_a_configuration_that_is_too_deep(tmp_path):
    folder = mdlm().write(tmp_path)
    (folder / "config.json").write_text("[" * 10**5)
    assert "is not valid JSON" in refusal(folder)
