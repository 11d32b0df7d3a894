"""The bidirectional Llama against a plain re-implementation that reads the published tensors, and against itself."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdm_lightning.denoiser import base
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.denoiser.published.loading import read_published
from mdm_lightning.denoiser.rotary import Rotary
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Binomial, LargestRemainder
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Entropy, Margin, Random
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

from . import plain_llama
from .published import DEPTH, HEADS, KEY_VALUE_HEADS, Published, dream, fast_dllm, llada, llama3, qwen2, qwen3, sdar

MODELS = {
    "LLaDA": llada(),
    "LLaDA, grouped queries, tied": llada(tied=True, key_value_heads=KEY_VALUE_HEADS),
    "Dream": dream(),
    "Dream, tied": dream(tied=True),
    "Qwen3": qwen3(),
    "Qwen2, shifted, tied": qwen2(),
    "Llama": llama3(),
    "Qwen3 in blocks": qwen3(unstated=Unstated(mask_id=36, shifted=True, block_size=3)),
    "SDAR": sdar(),
    "Fast-dLLM": fast_dllm(),
}
each_model = pytest.mark.parametrize("published", MODELS.values(), ids=MODELS.keys())
each_family = pytest.mark.parametrize("published", [llada(), dream()], ids=["LLaDA", "Dream"])


@pytest.fixture
def load(tmp_path):
    def load(published: Published, dtype: torch.dtype = torch.float64) -> Llama:
        folder = published.write(tmp_path)
        return read_published(folder, dtype=dtype, vocab_size=published.vocab_size, unstated=published.unstated)

    return load


def sequences(published: Published, b: int = 3, length: int = 9, seed: int = 0) -> Tensor:
    """Random tokens, about a third of them MASK (id d), none of them the row of the published MASK."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(30, (b, length), generator=generator)
    return tokens.masked_fill(torch.rand(b, length, generator=generator) < 0.3, published.vocab_size)


def logits(model: Llama, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        hidden = model(tokens, padding=padding)
        return model.head(hidden.flatten(0, 1)).unflatten(0, tokens.shape)


def plain_logits(published: Published, tokens: list[int]) -> Tensor:
    """Logits (l, d) of one sequence with MASK as id d, by the plain implementation, at the positions they predict."""
    config, is_llada = published.config, published.config["model_type"] == "llada"
    weights = {name: value.double() for name, value in published.weights.items()}
    rotary = config.get("rope_parameters", config)
    out = plain_llama.outputs(
        weights,
        plain_llama.LLADA if is_llada else plain_llama.DREAM,
        [published.mask_row if token == published.vocab_size else token for token in tokens],
        DEPTH,
        HEADS,
        HEADS // (config.get("n_kv_heads") or config.get("num_key_value_heads", HEADS)),
        rotary["rope_theta"],
        config["rms_norm_eps"],
        published.unstated.block_size or config.get("block_size") or config.get("bd_size"),
    )
    if config["model_type"] in ("Dream", "Fast_dLLM_Qwen") or published.unstated.shifted:
        out = torch.stack([out[max(i - 1, 0)] for i in range(len(out))])
    out[:, published.mask_row] = -torch.inf
    return out[:, : published.vocab_size]


@each_model
def test_against_plain_implementation(published, load):
    """In float64, but for the angles, which are of float32."""
    tokens = sequences(published)
    result = logits(load(published), tokens)
    for row, expected in zip(result, tokens.tolist(), strict=True):
        torch.testing.assert_close(row.softmax(-1), plain_logits(published, expected).softmax(-1), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(row[:, :33], plain_logits(published, expected)[:, :33], rtol=1e-4, atol=1e-5)


@each_model
@pytest.mark.parametrize("place", ["left", "right", "both", "between"])
def test_a_padded_batch_is_its_sequences_one_by_one(published, place, load):
    model, width = load(published), 12
    batch = torch.full((4, width), 7)
    padding = torch.ones(4, width, dtype=torch.bool)
    alone = []
    for i, length in enumerate((12, 9, 5, 1)):
        gap = width - length
        start = {"left": gap, "right": 0, "both": gap // 2, "between": 0}[place]
        at = torch.arange(start, start + length)
        if place == "between":
            at[length // 2 :] += gap
        alone.append(sequences(published, 1, length, seed=i))
        batch[i, at], padding[i, at] = alone[-1][0], False
    result = logits(model, batch, padding)
    for row, hidden, sequence in zip(result, padding, alone, strict=True):
        torch.testing.assert_close(row[~hidden], logits(model, sequence)[0], rtol=1e-9, atol=1e-9)


@each_family
def test_what_stands_in_padding_does_not_matter(published, load):
    model, tokens = load(published), sequences(published)
    padding = torch.zeros_like(tokens, dtype=torch.bool)
    padding[:, :2], padding[1:, -1] = True, True
    other = torch.where(padding, 29 - tokens.clamp(max=29), tokens)
    assert torch.equal(logits(model, tokens, padding)[~padding], logits(model, other, padding)[~padding])


def test_dream_predicts_from_the_position_before(load):
    """The shifted model's rows are the unshifted one's, one to the right; the first stays."""
    model, tokens = load(dream()), sequences(dream())
    with torch.no_grad():
        shifted = model(tokens)
        model.shifted = False
        plain = model(tokens)
    assert torch.equal(shifted[:, 1:], plain[:, :-1])
    assert torch.equal(shifted[:, 0], plain[:, 0])
    assert not torch.allclose(shifted, plain)


@each_family
def test_every_position_reads_every_other(published, load):
    model, tokens = load(published), sequences(published, b=1)
    before = logits(model, tokens)
    for i in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[0, i] = 30
        assert ((logits(model, changed) - before).abs().amax(-1) > 1e-6).all()


@each_model
def test_bfloat16_is_near_float32(published, load):
    tokens = sequences(published)
    exact, rounded = (logits(load(published, dtype), tokens) for dtype in (torch.float32, torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    difference = rounded.float().softmax(-1) - exact.softmax(-1)
    assert 0 < difference.abs().max() < 0.05


def test_angles_in_full_precision():
    """At LLaDA's last position, from float64; angles of bfloat16 would be off by whole turns."""
    position, theta, size = 4095, 500_000.0, 128
    cos, sin = Rotary(size, theta).to(torch.bfloat16)(torch.tensor([[position]]))
    angle = position * theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    assert cos.dtype == torch.float32
    torch.testing.assert_close(cos[0, 0, 0].double(), angle.cos(), rtol=0, atol=1e-3)
    torch.testing.assert_close(sin[0, 0, 0].double(), angle.sin(), rtol=0, atol=1e-3)


@each_model
def test_mask_is_read_and_never_predicted(published, load):
    model = load(published)
    masked = torch.full((1, 5), published.vocab_size)
    assert torch.equal(logits(model, masked), logits(model, masked.fill_(published.mask_row)))
    result = logits(model, sequences(published))
    assert result.shape[-1] == model.vocab_size == model.mask_id == published.vocab_size
    assert (result.softmax(-1)[..., published.mask_row] == 0).all()


def test_without_a_tokenizer_every_row_but_masks_is_a_token(tmp_path):
    published = llada()
    model = read_published(published.write(tmp_path))
    assert model.vocab_size == 40
    assert torch.equal(model.embedding.weight, published.weights[plain_llama.LLADA.embedding])
    probabilities = logits(model, torch.full((1, 4), model.mask_id)).softmax(-1)
    assert (probabilities == 0).nonzero()[:, 2].unique().tolist() == [published.mask_row]


@each_model
def test_cross_entropy(published, load):
    """That of the plain logits without MASK; its gradient is finite."""
    model, tokens = load(published), sequences(published, b=1)
    targets = torch.randint(30, (9,), generator=torch.Generator().manual_seed(1))
    loss = model.cross_entropy(model(tokens)[0], targets)
    expected = -plain_logits(published, tokens[0].tolist()).log_softmax(-1)[range(9), targets]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@each_family
def test_cross_entropy_in_chunks(published, load, monkeypatch):
    """The same losses and gradients, without the logits of all rows at once."""
    model, tokens = load(published), sequences(published)
    targets = torch.randint(30, (tokens.numel(),), generator=torch.Generator().manual_seed(1))
    head, most = model.head, []
    monkeypatch.setattr(model, "head", lambda hidden: most.append(len(hidden)) or head(hidden))

    def run() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        loss = model.cross_entropy(model(tokens).flatten(0, 1), targets)
        loss.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(model.cross_entropy(model(tokens).flatten(0, 1), targets), loss)
        return loss, [p.grad.clone() for p in model.parameters()]

    loss, gradients = run()
    assert max(most) == tokens.numel()
    most.clear()
    monkeypatch.setattr(base, "LOGITS_AT_ONCE", 4 * published.vocab_size)
    chunked, chunked_gradients = run()
    assert max(most) == 4
    torch.testing.assert_close(chunked, loss)
    torch.testing.assert_close(chunked_gradients, gradients, rtol=1e-4, atol=1e-5)


@each_family
def test_activation_checkpointing_changes_nothing(published, load):
    model, tokens = load(published).train(), sequences(published)
    other = copy.deepcopy(model)
    other.activation_checkpointing = True
    for network in (model, other):
        network(tokens).square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


def plain_llada_sampler(published: Published, prompt: list[int], length: int, block: int, steps: int) -> list[int]:
    """Nie et al., 2025, algorithm 5 at temperature 0, on the plain network."""
    x = prompt + [published.vocab_size] * length
    per_block = steps // (length // block)
    for number in range(length // block):
        positions = range(len(prompt) + number * block, len(prompt) + (number + 1) * block)
        for step in range(per_block):
            probability = plain_logits(published, x).softmax(-1).tolist()
            masked = [i for i in positions if x[i] == published.vocab_size]
            for i in sorted(masked, key=lambda i: -max(probability[i]))[
                : block // per_block + (step < block % per_block)
            ]:
                x[i] = probability[i].index(max(probability[i]))
    return x


@each_family
def test_llada_preset_completes_prompts(published, load):
    """Two prompts of different lengths, the shorter one padded on the left, against the plain sampler on each."""
    sampler = Sampler(LinearSchedule(), LargestRemainder(), Confidence(), TokenSampler(temperature=0.0), Blocks(4))
    prompts = [[3, 14, 15, 9], [26, 5]]
    canvas = torch.tensor([[0] * (4 - len(p)) + p + [published.vocab_size] * 8 for p in prompts])
    padding = torch.tensor([[True] * (4 - len(p)) + [False] * (len(p) + 8) for p in prompts])
    samples = sampler(load(published), canvas, SequenceNoise(0, range(2)), steps=6, padding=padding)
    assert samples.nfe == 6
    for row, hidden, prompt in zip(samples.tokens, padding, prompts, strict=True):
        assert row[~hidden].tolist() == plain_llada_sampler(published, prompt, length=8, block=4, steps=6)


@each_model
@pytest.mark.parametrize("order", [Random(), Confidence(), Margin(), Entropy()])
def test_samplers_never_draw_mask_or_rows_without_a_token(published, order, load):
    """Guidance and a high temperature included: they must not turn the missing columns into numbers."""
    count = Binomial() if isinstance(order, Random) else LargestRemainder()
    for scale, dtype in ((0.0, torch.float32), (1.5, torch.float32), (1.5, torch.bfloat16)):
        sampler = Sampler(LinearSchedule(), count, order, TokenSampler(temperature=5.0), guidance=Guidance(scale))
        canvas = torch.full((40, 16), published.vocab_size)
        canvas[:, 0] = 3
        samples = sampler(load(published, dtype), canvas, SequenceNoise(0, range(40)), steps=4)
        assert samples.tokens.max() < published.vocab_size
        assert not (samples.tokens == published.mask_row).any()
        assert len(samples.tokens.unique()) > published.vocab_size - 4  # any other, but for the rarest


def test_checkpoints_with_the_heads_former_name():
    """Runs of earlier versions called it ``unembedding``, alone and as part of a module."""
    model, other = Llama(**SIZES), Llama(**SIZES)
    former = {name.replace("lm_head", "unembedding"): value for name, value in model.state_dict().items()}
    assert former.keys() != model.state_dict().keys()
    other.load_state_dict(former)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    torch.nn.ModuleDict({"denoiser": other}).load_state_dict({f"denoiser.{k}": v + 1 for k, v in former.items()})
    assert torch.equal(other.lm_head.weight, model.lm_head.weight + 1)


@each_family
def test_forward_flops(published, load):
    model, length = load(published, torch.float32), 16
    # The kernels that the counter sees into.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        hidden = model(torch.zeros(1, length, dtype=torch.int64))
    trunk, head = model.forward_flops(length)
    assert counter.get_total_flops() == trunk * length
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.head(hidden[0, :3])
    assert counter.get_total_flops() == 3 * head


SIZES = {
    "vocab_size": 36,
    "length": 32,
    "rows": 40,
    "mask_row": 33,
    "hidden_size": 16,
    "depth": 1,
    "heads": 4,
    "key_value_heads": 2,
    "mlp_size": 24,
    "rope_theta": 1e4,
    "norm_eps": 1e-6,
}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"heads": 3}, "even multiple"),
        ({"heads": 16, "key_value_heads": 16}, "even multiple"),
        ({"key_value_heads": 3}, "multiple of key_value_heads"),
        ({"vocab_size": 41}, "does not fit into 40 rows"),
        ({"mask_row": 40}, "mask_row must be in 0 ... 39"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        Llama(**{**SIZES, **sizes})


def test_too_long_a_sequence():
    with pytest.raises(ValueError, match="beyond the model's length 32"):
        Llama(**SIZES)(torch.zeros(1, 33, dtype=torch.int64))
