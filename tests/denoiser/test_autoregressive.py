"""The autoregressive twin: nothing leaks from the right, the chain rule holds, and masked models are kept apart."""

import itertools

import pytest
import torch
from torch.nn.functional import log_softmax

from mdm_lightning.denoiser.autoregressive import Autoregressive
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.fitting import Fitting, fitted
from mdm_lightning.diffusion.masking import CountMasking, NextToken, seeded_generator
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.errors import UserError
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import LeftToRight, Random
from mdm_lightning.sampling.sampler import Sampler

D, LENGTH = 3, 4


@pytest.fixture(scope="module")
def model() -> Autoregressive:
    """In float64, with random weights everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Autoregressive(D, LENGTH, hidden_size=8, depth=2, heads=2, cond_dim=4).double().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def log_probabilities(model: Autoregressive, tokens: torch.Tensor, padding: torch.Tensor | None = None):
    with torch.inference_mode():
        return log_softmax(model.head(model(tokens, None, padding)), dim=-1)


def all_texts() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(D), repeat=LENGTH)))


def likelihoods(model: Autoregressive, texts: torch.Tensor) -> torch.Tensor:
    maskable = torch.ones_like(texts, dtype=torch.bool)
    batch = NextToken()(texts, maskable, model.mask_id, seeded_generator(0))
    with torch.inference_mode():
        return -nelbo(model, batch._replace(alpha=batch.alpha.double())).per_sequence


def test_a_position_reads_what_stands_before_it_alone(model):
    texts = all_texts()
    for i in range(LENGTH):
        changed = texts.clone()
        changed[:, i:] = (changed[:, i:] + 1) % D
        torch.testing.assert_close(
            log_probabilities(model, texts)[:, : i + 1], log_probabilities(model, changed)[:, : i + 1]
        )
    first, second = log_probabilities(model, texts[:1]), log_probabilities(model, texts[-1:])
    assert not torch.allclose(first[:, 1:], second[:, 1:])  # but it does read that


def test_one_pass_gives_a_distribution_over_texts(model):
    assert float(likelihoods(model, all_texts()).exp().sum()) == pytest.approx(1, abs=1e-5)  # the loss is in float32


def test_it_is_the_product_of_one_token_after_the_other(model):
    texts = all_texts()
    product = torch.zeros(len(texts), dtype=torch.float64)
    for i in range(LENGTH):
        known = texts.clone()
        known[:, i:] = model.mask_id  # as a sampler from left to right sees it
        product += log_probabilities(model, known)[torch.arange(len(texts)), i, texts[:, i]]
    torch.testing.assert_close(likelihoods(model, texts), product, rtol=1e-5, atol=1e-5)


def test_padding_does_not_matter(model):
    texts = all_texts()[:5, :2]
    alone = log_probabilities(model, texts)
    for places in itertools.combinations(range(4), 2):  # on the left, on the right, in between
        padded = torch.full((5, 4), 1)
        padding = torch.ones(5, 4, dtype=torch.bool)
        padded[:, places], padding[:, places] = texts, False
        torch.testing.assert_close(log_probabilities(model, padded, padding)[:, places], alone)


def test_sampling_from_left_to_right_gives_its_distribution(model):
    """Chi-square over all 81 texts; 1 in 1,000 for the fixed seed to fail by chance."""
    sampler = Sampler(LinearSchedule(), Expected(), LeftToRight())
    canvas = torch.full((4_000, LENGTH), model.mask_id)
    samples = sampler(model, canvas, SequenceNoise(0, range(4_000)))
    expected = 4_000 * likelihoods(model, all_texts()).exp()
    place = (samples.tokens * D ** torch.arange(LENGTH).flip(0)).sum(1)
    seen = torch.bincount(place, minlength=len(expected))
    common = expected >= 5
    rest = expected[~common].sum(), seen[~common].sum()
    chi = ((seen - expected)[common] ** 2 / expected[common]).sum() + (rest[1] - rest[0]) ** 2 / rest[0].clamp(min=1)
    freedom = int(common.sum())
    assert float(chi) < freedom + 4 * (2 * freedom) ** 0.5


def test_other_ways_to_sample_are_refused(model):
    for order, schedule, steps in (
        (Random(), LinearSchedule(), None),
        (LeftToRight(), LinearSchedule(), LENGTH - 1),
        (LeftToRight(), BetaSchedule(0.9, 0.3), LENGTH),
    ):
        sampler = Sampler(schedule, Expected(), order, steps=steps)
        with pytest.raises(ValueError, match="one token after the other, from left to right"):
            sampler(model, torch.full((1, LENGTH), model.mask_id), SequenceNoise(0, range(1)))


def test_blocks_that_would_get_too_few_steps_are_refused(model):
    """Blocks of three and one share four steps evenly: the first would reveal two positions at once."""
    canvas, noise = torch.full((1, LENGTH), model.mask_id), SequenceNoise(0, range(1))
    sampler = Sampler(LinearSchedule(), Expected(), LeftToRight(), blocks=Blocks(3))
    assert sampler(model, canvas, noise).revealed_at.tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match=r"sampler\.steps=null"):
        sampler(model, canvas, noise, steps=LENGTH)


def test_forward_processes_of_the_other_kind_are_refused(model):
    masked, count = DiT(D, LENGTH, hidden_size=8, depth=1, heads=2, cond_dim=4), CountMasking(StratifiedTimes())
    assert fitted(NextToken(), model) == fitted(Fitting(StratifiedTimes()), model) == NextToken()
    assert fitted(count, masked) == fitted(Fitting(StratifiedTimes()), masked) == count
    with pytest.raises(UserError, match="read the answers"):
        fitted(NextToken(), masked)
    with pytest.raises(UserError, match="leave estimator= out"):
        fitted(count, model)


def test_it_is_a_twin(model):
    dit = DiT(D, LENGTH, hidden_size=8, depth=2, heads=2, cond_dim=4)
    assert [p.shape for p in model.parameters()] == [p.shape for p in dit.parameters()]
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    sizes = Autoregressive.sizes(shapes.get)
    assert sizes == {"vocab_size": D, "hidden_size": 8, "depth": 2, "cond_dim": 4, "mlp_ratio": 4}
