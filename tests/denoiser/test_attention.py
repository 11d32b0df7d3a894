"""Attention patterns: which positions read which. Key-value caches: they change the cost, and nothing else."""

import pytest
import torch
from torch import Tensor

from mdm_lightning.denoiser.attention import AttentionPattern, BlockCausal, Causal, Full
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.key_value_cache import KeyValueCache
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.transformer import Transformer

D, LENGTH, BLOCK = 13, 12, 4


def dit(attention: AttentionPattern | None = None) -> DiT:
    return DiT(D, LENGTH, hidden_size=16, depth=3, heads=2, cond_dim=8, attention=attention)


def llama(attention: AttentionPattern | None = None, *, shifted: bool = False) -> Llama:
    return Llama(
        D,
        LENGTH,
        rows=D + 3,
        mask_row=D,
        hidden_size=16,
        depth=3,
        heads=4,
        key_value_heads=2,
        mlp_size=24,
        rope_theta=1e4,
        norm_eps=1e-6,
        head_dim=6,
        qk_norm=True,
        shifted=shifted,
        attention=attention,
    )


MODELS = {"DiT": dit, "Llama": llama, "shifted Llama": lambda attention=None: llama(attention, shifted=True)}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
PATTERNS = [Full(), Causal(), BlockCausal(BLOCK), BlockCausal(5)]
each_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


def build(make, attention: AttentionPattern | None = None) -> Transformer:
    """In float64, with random weights everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(attention).double().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def sequences(b: int = 3, length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(D + 1, (b, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def influence(model: Transformer, tokens: Tensor) -> Tensor:
    """(i, j): whether the hidden state in row i depends on the token at position j."""
    before = model(tokens)
    columns = []
    for j in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[0, j] = (tokens[0, j] + 1) % D
        columns.append(((model(changed) - before).abs().amax(-1) > 1e-12)[0])
    return torch.stack(columns, dim=1)


@torch.no_grad()
@each_pattern
@pytest.mark.parametrize("make", [dit, llama], ids=["DiT", "Llama"])
def test_positions_read_what_the_pattern_says(make, pattern):
    size = {Full: LENGTH, Causal: 1}.get(type(pattern)) or pattern.block_size
    expected = torch.tensor([[j // size <= i // size for j in range(LENGTH)] for i in range(LENGTH)])
    assert torch.equal(influence(build(make, pattern), sequences(1)), expected)


@torch.no_grad()
def test_a_shifted_row_is_computed_at_the_position_before():
    seen = influence(build(MODELS["shifted Llama"], BlockCausal(BLOCK)), sequences(1))
    expected = [[j // BLOCK <= max(0, i - 1) // BLOCK for j in range(LENGTH)] for i in range(LENGTH)]
    assert torch.equal(seen, torch.tensor(expected))


def test_full_attention_has_no_mask():
    """The fast kernels want none; one block of the whole length is the same."""
    model = build(dit)
    assert model.place(sequences(), None, None, None, None)[1] is None
    close(build(dit, BlockCausal(LENGTH))(sequences()), model(sequences()))


@torch.no_grad()
@each_model
@each_pattern
def test_a_pass_may_have_another_pattern(make, pattern):
    close(build(make)(sequences(), attention=pattern), build(make, pattern)(sequences()))


@torch.no_grad()
@each_model
@each_pattern
@pytest.mark.parametrize("place", ["left", "right", "between"])
def test_blocks_are_counted_from_where_a_sequence_begins(make, pattern, place):
    """A padded batch gives the sequences one by one, whatever the pattern; nothing gets NaN, padding included."""
    model, width = build(make, pattern), LENGTH
    batch, padding = torch.full((3, width), 7), torch.ones(3, width, dtype=torch.bool)
    alone = []
    for i, length in enumerate((12, 9, 5)):
        at = torch.arange(length) + {"left": width - length, "right": 0, "between": 0}[place]
        if place == "between":
            at[length // 2 :] += width - length
        alone.append(sequences(1, length, seed=i))
        batch[i, at], padding[i, at] = alone[-1][0], False
    hidden = model(batch, padding=padding)
    assert hidden.isfinite().all()
    for row, hole, sequence in zip(hidden, padding, alone, strict=True):
        close(row[~hole], model(sequence)[0])


@torch.no_grad()
@each_model
def test_positions_may_be_given(make):
    """Rotary attention knows differences of positions only; another distance is another input."""
    model, x, positions = build(make), sequences(), torch.arange(LENGTH)[None]
    close(model(x, positions=positions), model(x))
    close(model(x, positions=positions + 5), model(x), tolerance=1e-5)  # angles are of float32
    assert not torch.allclose(model(x, positions=2 * positions), model(x))
    apart = torch.stack([positions[0], 2 * positions[0], positions[0]])
    close(model(x, positions=apart)[1], model(x, positions=2 * positions)[1])


@torch.no_grad()
@each_model
@pytest.mark.parametrize("block", [1, 3, BLOCK, 5])
def test_block_causal_attention_with_a_cache_is_exact(make, block):
    """Blocks in their order, each computed once; a cache of one position per block is that of a causal model."""
    model, x = build(make, BlockCausal(block)), sequences()
    cache = KeyValueCache(LENGTH)
    parts = [
        model(part, positions=torch.arange(LENGTH)[None, start : start + part.shape[1]], cache=cache)
        for start, part in zip(range(0, LENGTH, block), x.split(block, dim=1), strict=True)
    ]
    close(torch.cat(parts, dim=1), model(x))


@torch.no_grad()
@each_model
def test_a_block_may_be_computed_again_and_again(make):
    """As its tokens are revealed: what is kept of it is that of the last pass; the prompt is read once."""
    model, x = build(make, BlockCausal(BLOCK)), sequences()
    cache, positions = KeyValueCache(LENGTH), torch.arange(LENGTH)[None]
    model(x[:, :BLOCK], positions=positions[:, :BLOCK], cache=cache)
    for start in range(BLOCK, LENGTH, BLOCK):
        here = slice(start, start + BLOCK)
        for seed in (1, 2, 3):
            x[:, here] = sequences(length=BLOCK, seed=seed + start)
            close(model(x[:, here], positions=positions[:, here], cache=cache), model(x[:, : start + BLOCK])[:, here])


@torch.no_grad()
@each_model
@each_pattern
def test_computing_all_positions_anew_is_as_without_a_cache(make, pattern):
    model, cache = build(make, pattern), KeyValueCache(LENGTH)
    for seed in (1, 2):
        x = sequences(seed=seed)
        close(model(x, cache=cache), model(x))
        order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(seed))
        there = model(x[:, order], positions=order[None], cache=cache)
        close(there, model(x)[:, order])


@torch.no_grad()
@each_model
@pytest.mark.parametrize("end", [LENGTH, 8], ids=["prefix cache", "dual cache"])
def test_what_is_recomputed_on_unchanged_tokens_does_not_change(make, end):
    """After a refresh, a pass over the block and what follows it (or the block alone) gives what a whole pass would."""
    model, x, cache = build(make), sequences(), KeyValueCache(LENGTH)
    model(x, cache=cache)
    here = slice(BLOCK, end)
    close(model(x[:, here], positions=torch.arange(LENGTH)[None, here], cache=cache), model(x)[:, here])


@torch.no_grad()
@each_model
def test_what_is_kept_is_read_as_it_was_computed(make):
    """The dual cache: after the block has changed, it reads the others' keys from before, so others differ, too."""
    model, x, cache = build(make), sequences(), KeyValueCache(LENGTH)
    model(x, cache=cache)
    here, y = slice(BLOCK, 8), x.clone()
    y[:, here] = (x[:, here] + 1) % D
    stale = model(y[:, here], positions=torch.arange(LENGTH)[None, here], cache=cache)
    assert not torch.allclose(stale, model(y)[:, here])
    elsewhere = torch.arange(LENGTH)[None, here]
    y[:, 0] = (y[:, 0] + 1) % D
    close(model(y[:, here], positions=elsewhere, cache=cache)[:, 1:], stale[:, 1:])


@torch.no_grad()
@each_model
@each_pattern
def test_a_cache_of_padded_sequences(make, pattern):
    """Prompts of different lengths, padded on the left: first the prompts, then what follows them, each at its own
    positions."""
    model, lengths = build(make, pattern), (6, 4, 1)
    alone = [sequences(1, length + 4, seed=length) for length in lengths]
    padding = torch.tensor([[True] * (6 - length) + [False] * length for length in lengths])
    prompts = torch.stack([torch.cat([torch.full((6 - n,), 7), x[0, :n]]) for n, x in zip(lengths, alone, strict=True)])
    positions = (~padding).cumsum(1) - 1
    cache = KeyValueCache(10)
    first = model(prompts, padding=padding, cache=cache)
    assert first.isfinite().all()
    after = torch.tensor(lengths)[:, None] + torch.arange(4)
    rest = model(torch.cat([x[:, -4:] for x in alone]), positions=after, cache=cache)
    # The prompts, too, read what follows them, once it is there.
    again = model(prompts, padding=padding, positions=positions.clamp(min=0), cache=cache)
    for i, (n, x) in enumerate(zip(lengths, alone, strict=True)):
        close(first[i, 6 - n :], model(x[:, :n])[0])
        if isinstance(pattern, Causal):
            close(torch.cat([again[i, 6 - n :], rest[i]]), model(x)[0])
        assert again[i].isfinite().all()


@torch.no_grad()
@each_model
def test_too_long_a_cache(make):
    model, x = build(make), sequences()
    with pytest.raises(ValueError, match="13 positions is beyond the model's length 12"):
        model(x, cache=KeyValueCache(LENGTH + 1))
    with pytest.raises(ValueError, match="12 positions are more than the 11 of the cache"):
        model(x, cache=KeyValueCache(LENGTH - 1))


@each_model
def test_training_with_a_pattern(make):
    """Gradients flow through the masked attention; with activation checkpointing they are the same."""
    gradients = []
    for checkpointing in (False, True):
        model = build(make, BlockCausal(BLOCK)).train()
        model.activation_checkpointing = checkpointing
        model(sequences()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20
    for a, b in zip(*gradients, strict=True):
        close(a, b)


@pytest.mark.parametrize("size", [0, -1])
def test_blocks_have_positions(size):
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        BlockCausal(size)
