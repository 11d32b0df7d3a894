"""The oracle against summation by hand."""

import itertools

import numpy as np
import pytest
import torch

from mdm_lightning.denoiser.exact import ExactDenoiser

D, N = 3, 3


def distribution(size: int) -> dict[tuple[int, ...], float]:
    rng = np.random.default_rng(0)
    states = list(itertools.product(range(D), repeat=N))
    chosen = [states[i] for i in rng.permutation(len(states))[:size]]
    return dict(zip(chosen, rng.dirichlet(np.ones(size)).tolist(), strict=True))


@pytest.mark.parametrize("size", [1, 5, 27])
def test_conditionals_by_summation(size):
    probabilities = distribution(size)
    denoiser = ExactDenoiser(list(probabilities), list(probabilities.values()), vocab_size=D)
    states = list(itertools.product(range(D + 1), repeat=N))
    result = denoiser(torch.tensor(states))
    assert result.dtype == torch.float64
    for state, table in zip(states, result.tolist(), strict=True):
        consistent = {x: p for x, p in probabilities.items() if all(s in (D, t) for s, t in zip(state, x, strict=True))}
        total = sum(consistent.values())
        for i, token in itertools.product(range(N), range(D)):
            expected = sum(p for x, p in consistent.items() if x[i] == token) / total if consistent else 1 / D
            assert table[i][token] == pytest.approx(expected, abs=1e-12)


def test_head_gives_log_probabilities():
    probabilities = distribution(5)
    denoiser = ExactDenoiser(list(probabilities), list(probabilities.values()), vocab_size=D)
    hidden = denoiser(torch.full((1, N), D))[0]
    torch.testing.assert_close(denoiser.head(hidden).softmax(-1), hidden)
    sequences = torch.tensor(list(probabilities))
    entropy = -(hidden[0].xlogy(hidden[0])).sum()
    firsts = denoiser.cross_entropy(hidden[:1].expand(5, -1), sequences[:, 0])
    assert float((firsts * torch.tensor(list(probabilities.values()))).sum()) == pytest.approx(float(entropy), rel=1e-5)


def test_equal_probabilities_by_default_and_normalisation():
    pair = [[0, 1, 2], [2, 1, 0]]
    x = torch.full((1, N), D)
    assert torch.equal(ExactDenoiser(pair)(x), ExactDenoiser(pair, [7.0, 7.0])(x))
    assert ExactDenoiser(pair)(x)[0, 0].tolist() == [0.5, 0, 0.5]


def test_padding_counts_as_unknown():
    denoiser = ExactDenoiser([[0, 1], [1, 0]])
    padding = torch.tensor([[True, False]])
    assert denoiser(torch.tensor([[0, 2]]), padding=padding)[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("sequences", "probabilities", "vocab_size"),
    [
        ([], None, None),
        ([0, 1], None, None),
        ([[0, 3]], None, 3),
        ([[-1, 0]], None, None),
        ([[0], [1]], [1.0], None),
        ([[0], [1]], [1.0, 0.0], None),
        ([[0], [1]], [1.0, -1.0], None),
        ([[0], [1]], [1.0, float("nan")], None),
        ([[0], [1]], [1.0, float("inf")], None),
    ],
)
def test_bad_distributions(sequences, probabilities, vocab_size):
    with pytest.raises(ValueError, match="ExactDenoiser"):
        ExactDenoiser(sequences, probabilities, vocab_size)


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="length 2"):
        ExactDenoiser([[0, 1]])(torch.zeros(1, 3, dtype=torch.int64))
