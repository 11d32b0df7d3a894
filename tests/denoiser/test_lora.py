"""Adapters: nothing changes when they begin, they alone are trained, and merged they are gone without a trace."""

import pytest
import torch
from torch import nn

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.lora import AllWeights, LoRA, adapter_start, own_weights
from mdm_lightning.denoiser.published.loading import PublishedModel, read_published
from mdm_lightning.errors import UserError

from .published import DEPTH, dream, llada, mdlm, sdar

MODELS = {"MDLM": mdlm(), "LLaDA": llada(), "Dream": dream(), "SDAR": sdar()}
PER_BLOCK = {"MDLM": 5, "LLaDA": 7, "Dream": 7, "SDAR": 7}  # linear layers


@pytest.fixture(params=MODELS)
def read(request, tmp_path):
    """Reads the published model anew."""
    folder = MODELS[request.param].write(tmp_path)
    return lambda: read_published(folder)


def logits(model: Denoiser) -> torch.Tensor:
    tokens = torch.randint(model.vocab_size + 1, (3, 8), generator=torch.Generator().manual_seed(1))
    return model.head(model(tokens, torch.tensor([0.9, 0.5, 0.1])).flatten(0, 1))


def adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


@torch.no_grad()
def begin(model: Denoiser, lora: LoRA) -> Denoiser:
    """With memory and first values for the adapter."""
    lora.inject(model)
    for name, value in adapter_start(model, torch.Generator().manual_seed(0)).items():
        module, _, last = name.rpartition(".")
        setattr(model.get_submodule(module), last, nn.Parameter(value))
    return model


@torch.no_grad()
def disturb(model: Denoiser) -> None:
    for number, parameter in enumerate(adapters(model).values()):
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 4)


def test_at_first_nothing_changes(read):
    assert torch.equal(logits(begin(read(), LoRA(rank=3))), logits(read()))


def test_adapters_alone_are_trained(read, request):
    """A step changes every B and nothing else; A follows at the next one."""
    model = begin(read(), LoRA(rank=3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == adapters(model).keys()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    logits(model).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    name = request.node.callspec.params["read"]
    assert changed == {name for name in trained if ".lora_B." in name}
    assert len(changed) == PER_BLOCK[name] * DEPTH


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_the_model_computes_the_same(read, dtype):
    """And has the names and shapes that it had; in bfloat16 the same up to one rounding of the weights."""
    plain, lora = read().to(dtype), LoRA(rank=3, alpha=5.0)
    model = begin(read().to(dtype), lora)
    disturb(model)
    with torch.no_grad():
        expected = logits(model)
        assert not torch.allclose(expected, logits(plain), atol=1e-2)
        lora.merge(model)
        error = (logits(model) - expected).float().std() / expected.float().std()
    assert error < (1e-5 if dtype == torch.float32 else 0.1)
    assert {n: v.shape for n, v in model.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}


def test_the_update_is_that_of_the_paper(read):
    """W + alpha / rank B A, in every linear layer of the blocks and nowhere else."""
    lora = LoRA(rank=3, alpha=5.0)
    model, plain = begin(read(), lora), read()
    disturb(model)
    own, found = adapters(model), 0
    expected = dict(plain.state_dict())
    for name, a in own.items():
        if ".lora_A." in name:
            layer = name.partition(".lora_A.")[0]
            b = own[name.replace(".lora_A.", ".lora_B.")]
            expected[f"{layer}.weight"] = expected[f"{layer}.weight"] + 5 / 3 * b @ a
            assert layer.startswith("blocks.")
            found += 1
    assert found == sum(isinstance(m, nn.Linear) for m in plain.blocks.modules())
    lora.merge(model)
    for name, value in model.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_own_weights_have_their_published_names(read):
    model = begin(read(), LoRA(rank=3))
    own, plain = own_weights(model), read().state_dict()
    assert own.keys() == plain.keys()
    assert all(torch.equal(own[name], plain[name]) for name in own)


def test_without_memory(tmp_path):
    """Injected on the meta device, in bfloat16: adapters have no memory yet, and are float32."""
    published = PublishedModel.open(llada().write(tmp_path))
    model = published.build(published.arguments(36), torch.bfloat16)
    LoRA(rank=3).inject(model)
    assert all(p.is_meta for p in model.parameters())
    assert {p.dtype for p in adapters(model).values()} == {torch.float32}
    assert {p.dtype for p in own_weights(model).values()} == {torch.bfloat16}


def test_targets(read):
    model = read()
    last = [name.rpartition(".")[2] for name, m in model.blocks.named_modules() if isinstance(m, nn.Linear)]
    LoRA(rank=2, targets=[last[0]]).inject(model)
    assert len(adapters(model)) == 2 * last.count(last[0])
    with pytest.raises(UserError, match=f"names no linear layer; there are .*{last[0]}"):
        LoRA(targets=["no_such_layer"]).inject(read())


def test_no_adapter(read):
    """Nothing is added, nothing is frozen."""
    model, adapter = read(), AllWeights()
    adapter.inject(model)
    adapter.merge(model)
    assert all(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == read().state_dict().keys()


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_what_is_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LoRA(**options)
