"""The DiT against its published layout, a plain re-implementation, and itself under every option."""

import copy
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdm_lightning.denoiser import base, dit
from mdm_lightning.denoiser.dit import DiT

from . import plain_dit

D, LENGTH, HEADS, DEPTH = 13, 10, 2, 2


def make(**options) -> DiT:
    """A small DiT with random weights everywhere, those that start at zero included."""
    sizes = {"vocab_size": D, "length": LENGTH, "hidden_size": 16, "depth": DEPTH, "heads": HEADS, "cond_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(**{**sizes, **options})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokens(b: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(D + 1, (b, length), generator=torch.Generator().manual_seed(seed))


def rows(m: int = 29, hidden_size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(m, hidden_size, generator=generator), torch.randint(D, (m,), generator=generator)


ALPHA = torch.tensor([0.9, 0.5, 0.02])


def logits(model: DiT, x: torch.Tensor, alpha: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
    hidden = model(x, alpha, **kwargs)
    return model.head(hidden.flatten(0, 1)).unflatten(0, x.shape)


def gradients(model: DiT) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_published_names_and_shapes():
    """kuleshov-group/mdlm-owt without ``backbone.``; the output layer has V - 1 rows, for MASK is never predicted."""
    v, h, c = 31, 24, 6
    expected = {
        "vocab_embed.embedding": (v + 1, h),
        "sigma_map.mlp.0.weight": (c, 256),
        "sigma_map.mlp.0.bias": (c,),
        "sigma_map.mlp.2.weight": (c, c),
        "sigma_map.mlp.2.bias": (c,),
        "rotary_emb.inv_freq": (2,),
        "output_layer.norm_final.weight": (h,),
        "output_layer.linear.weight": (v, h),
        "output_layer.linear.bias": (v,),
        "output_layer.adaLN_modulation.weight": (2 * h, c),
        "output_layer.adaLN_modulation.bias": (2 * h,),
    }
    for i in range(3):
        expected |= {
            f"blocks.{i}.norm1.weight": (h,),
            f"blocks.{i}.attn_qkv.weight": (3 * h, h),
            f"blocks.{i}.attn_out.weight": (h, h),
            f"blocks.{i}.norm2.weight": (h,),
            f"blocks.{i}.mlp.0.weight": (4 * h, h),
            f"blocks.{i}.mlp.0.bias": (4 * h,),
            f"blocks.{i}.mlp.2.weight": (h, 4 * h),
            f"blocks.{i}.mlp.2.bias": (h,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * h, c),
            f"blocks.{i}.adaLN_modulation.bias": (6 * h,),
        }
    model = DiT(v, 10, hidden_size=h, depth=3, heads=6, cond_dim=c)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("time_conditioning", [False, True])
def test_against_plain_implementation(time_conditioning, tied):
    """The plain one in float64; the tolerance is float32's rounding through two blocks."""
    model = make(time_conditioning=time_conditioning, tie_weights=tied)
    weights = {name: value.double() for name, value in model.state_dict().items()}
    x = tokens()
    result = logits(model, x, ALPHA).double()
    for i, alpha in enumerate(ALPHA.tolist()):
        sigma = -math.log(alpha) if time_conditioning else 0.0
        expected = plain_dit.logits(weights, x[i].tolist(), sigma, DEPTH, HEADS, tied)
        torch.testing.assert_close(result[i], expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("time_conditioning", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-5), (torch.bfloat16, 0.1)])
def test_weights_in_another_precision(dtype, tolerance, time_conditioning):
    """A converted model computes the same function: its positions are still told apart."""
    model = make(time_conditioning=time_conditioning)
    converted = copy.deepcopy(model).to(dtype)
    result = logits(converted, tokens(), ALPHA)
    assert result.dtype == dtype
    expected = logits(model, tokens(), ALPHA).double()
    assert (result.double() - expected).abs().max() < tolerance * expected.abs().max()


def test_rotary_angles_do_not_depend_on_the_weights_precision():
    """Frequencies rounded to bfloat16 would turn position 1000 by the wrong angle."""
    positions = torch.arange(1024)[None]
    exact = dit.StoredRotary(32)(positions)
    rounded = dit.StoredRotary(32).to(torch.bfloat16)(positions)
    for a, b in zip(exact, rounded, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_mask_has_an_embedding_but_no_logit():
    model = make()
    assert model.mask_id == D
    assert len(model.vocab_embed.embedding) == D + 1
    assert logits(model, torch.full((1, 4), model.mask_id)).shape == (1, 4, D)


def test_starts_as_the_uniform_distribution():
    """Gates, modulation and head start at zero: the first loss is log d, whatever the input."""
    model = DiT(D, LENGTH, hidden_size=16, depth=2, heads=2)
    hidden = model(tokens()).flatten(0, 1)
    loss = model.cross_entropy(hidden, torch.zeros(len(hidden), dtype=torch.int64))
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(D)))


@torch.no_grad()
def test_time_agnostic_ignores_alpha():
    model = make()
    assert torch.equal(model(tokens(), ALPHA), model(tokens()))
    assert torch.equal(model(tokens(), ALPHA), model(tokens(), ALPHA.flip(0)))


@torch.no_grad()
def test_time_conditioning():
    model = make(time_conditioning=True)
    one = model(tokens(), ALPHA)
    other = model(tokens(), torch.tensor([0.9, 0.6, 0.02]))
    assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert not torch.allclose(one[1], other[1])
    assert torch.isfinite(model(tokens(), torch.tensor([0.0, 1.0, 1e-30]))).all()
    with pytest.raises(ValueError, match="alpha"):
        model(tokens())


@torch.no_grad()
@pytest.mark.parametrize("time_conditioning", [False, True])
def test_padding_equals_one_by_one(time_conditioning):
    model = make(time_conditioning=time_conditioning)
    x, lengths = tokens(), [10, 7, 1]
    padding = torch.arange(LENGTH) >= torch.tensor(lengths)[:, None]
    together = model(x, ALPHA, padding=padding)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(together[i, :n], model(x[i : i + 1, :n], ALPHA[i : i + 1])[0], rtol=1e-4, atol=1e-5)
    changed = torch.where(padding, (x + 1) % D, x)
    assert torch.equal(model(changed, ALPHA, padding=padding)[~padding], together[~padding])


def test_sequence_that_is_all_padding_harms_no_other():
    model = make()
    padding = torch.zeros(3, LENGTH, dtype=torch.bool)
    padding[1] = True
    hidden = model(tokens(), padding=padding)
    torch.testing.assert_close(hidden[[0, 2]], model(tokens()[[0, 2]]))
    hidden[[0, 2]].sum().backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


@torch.no_grad()
def test_sequences_of_a_batch_do_not_mix():
    model = make()
    together = model(tokens())
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], model(tokens()[i : i + 1]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attends_in_both_directions():
    model = make()
    x = tokens(1)
    for changed, seen in ((0, LENGTH - 1), (LENGTH - 1, 0)):
        y = x.clone()
        y[0, changed] = (x[0, changed] + 1) % D
        assert not torch.allclose(model(x)[0, seen], model(y)[0, seen], atol=1e-4)


def test_tied_weights():
    model = make(tie_weights=True)
    assert "output_layer.linear.weight" not in model.state_dict()
    assert model.head_weight.data_ptr() == model.vocab_embed.embedding.data_ptr()
    hidden, targets = rows()
    model.cross_entropy(hidden, targets).sum().backward()
    gradient = model.vocab_embed.embedding.grad
    assert gradient is not None
    assert gradient[:D].any(1).all()
    assert not gradient[D].any()
    assert sum(p.numel() for p in make().parameters()) - sum(p.numel() for p in model.parameters()) == D * 16


def test_activation_checkpointing_gives_equal_gradients():
    results = []
    for activation_checkpointing in (False, True):
        model = make(activation_checkpointing=activation_checkpointing, time_conditioning=True)
        assert model.training
        model(tokens(), ALPHA).pow(2).sum().backward()
        results.append(gradients(model))
    plain, checkpointed = results
    assert plain.keys() == checkpointed.keys()
    assert len(plain) > 20
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name])


def cross_entropy_and_gradients(model: DiT, hidden: torch.Tensor, targets: torch.Tensor):
    """Losses, and the gradients of a sum weighted row by row."""
    hidden = hidden.clone().requires_grad_()
    model.zero_grad()
    loss = model.cross_entropy(hidden, targets)
    (loss * torch.linspace(-1, 3, len(loss))).sum().backward()
    assert hidden.grad is not None
    return loss.detach(), {"hidden": hidden.grad, **gradients(model)}


@pytest.mark.parametrize("at_once", [1, 5, 29, 10_000])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("options", [{}, {"tie_weights": True}, {"activation_checkpointing": True}], ids=str)
def test_chunked_cross_entropy(monkeypatch, options, autocast, at_once):
    """However the logits are cut, fused or recomputed: losses and gradients of the plain formula."""
    model = make(**options)
    hidden, targets = rows()
    monkeypatch.setattr(base, "LOGITS_AT_ONCE", at_once * D)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, grads = cross_entropy_and_gradients(model, hidden, targets)
    leaf = hidden.clone().requires_grad_()
    model.zero_grad()
    expected = -torch.log_softmax(leaf @ model.head_weight.T + model.output_layer.linear.bias, -1)
    expected = expected[torch.arange(len(targets)), targets]
    (expected * torch.linspace(-1, 3, len(expected))).sum().backward()
    assert leaf.grad is not None
    assert loss.dtype == torch.float32
    tolerance = {"rtol": 0.02, "atol": 0.1} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(loss, expected.detach(), **tolerance)
    wanted = {"hidden": leaf.grad, **gradients(model)}
    assert grads.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(grads[name], wanted[name], **tolerance)


def test_logits_of_few_rows_at_once_under_activation_checkpointing(monkeypatch):
    model = make(activation_checkpointing=True)
    hidden, targets = rows()
    sizes = []
    head = DiT.head
    monkeypatch.setattr(DiT, "head", lambda self, h: sizes.append(len(h)) or head(self, h))
    monkeypatch.setattr(base, "LOGITS_AT_ONCE", 10 * D + 3)
    with torch.autocast("cpu", torch.bfloat16):
        model.cross_entropy(hidden, targets)
    assert sizes == [10, 10, 9]


@torch.no_grad()
@pytest.mark.parametrize("at_once", [7, 10_000])
def test_cross_entropy_in_bfloat16_is_not_rounded_to_bfloat16(monkeypatch, at_once):
    """At 8 nats bfloat16 is 0.03 apart; logits of size 1 that were rounded cost far less, and no bias."""
    vocab_size, m = 3000, 400
    model = make(vocab_size=vocab_size)
    model.output_layer.linear.weight.normal_(std=0.25, generator=torch.Generator().manual_seed(2))
    hidden = torch.randn(m, 16, generator=torch.Generator().manual_seed(3))
    targets = torch.randint(vocab_size, (m,), generator=torch.Generator().manual_seed(4))
    exact = model.cross_entropy(hidden, targets)
    monkeypatch.setattr(base, "LOGITS_AT_ONCE", at_once * vocab_size)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.cross_entropy(hidden, targets)
    assert exact.mean() > 8
    assert loss.dtype == torch.float32
    assert (loss - exact).abs().max() < 0.03
    assert (loss - exact).mean().abs() < 1e-3


def test_no_rows():
    model = make()
    loss = model.cross_entropy(torch.zeros(0, 16), torch.zeros(0, dtype=torch.int64))
    assert loss.shape == (0,)


def test_shorter_sequences_are_fine_longer_are_not():
    model = make()
    assert model(tokens(length=1)).shape == (3, 1, 16)
    with pytest.raises(ValueError, match="11 is beyond the model's length 10"):
        model(tokens(length=LENGTH + 1))


@pytest.mark.parametrize(
    "bad",
    [
        {"vocab_size": 0},
        {"length": 0},
        {"depth": 0},
        {"depth": -1},
        {"heads": 0},
        {"heads": 3},
        {"hidden_size": 6, "heads": 2},
        {"hidden_size": 0},
        {"cond_dim": 0},
        {"mlp_ratio": 0},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_bad_sizes(bad):
    with pytest.raises(ValueError, match="DiT"):
        make(**bad)


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_forward_flops(time_conditioning):
    """torch's own count of the matrix products, but for the conditioning, which is not paid per token."""
    model = make(length=32, time_conditioning=time_conditioning)
    trunk, head = model.forward_flops(32)
    hidden, c, conditions = 16, 8, 3 if time_conditioning else 1
    conditioning = conditions * 2 * (256 * c + c * c + DEPTH * c * 6 * hidden + c * 2 * hidden)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(tokens(3, 32), ALPHA)
    assert counter.get_total_flops() - conditioning == 3 * 32 * trunk
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.head(torch.zeros(7, hidden))
    assert counter.get_total_flops() == 7 * head


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    model = make(time_conditioning=True)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(tokens(), ALPHA)
    result = compiled(tokens(), ALPHA)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    expected.pow(2).sum().backward()
    plain = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    result.pow(2).sum().backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-4)


def test_shards_are_the_blocks():
    model = make()
    assert list(model.shards()) == list(model.blocks)
