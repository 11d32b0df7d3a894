"""Prompts of different lengths in one batch are completed as if each were alone."""

from dataclasses import replace

import pytest
import torch

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.completion import Prompt, complete
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Binomial, Expected
from mdm_lightning.sampling.eos import EosNever
from mdm_lightning.sampling.order import Confidence, Random
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

from .test_conditional_likelihood import VOCABULARY, subject

BETA = BetaSchedule(0.9, 0.3)
SAMPLERS = {
    "ancestral": Sampler(BETA, Binomial(), Random(), steps=4),
    "greedy": Sampler(BETA, Expected(), Confidence(), TokenSampler(temperature=0), steps=4),
    "blocks": Sampler(BETA, Expected(), Confidence(), blocks=Blocks(3), steps=6),
}
PROMPTS = [
    Prompt([1, 2, 3], 6, 11),
    Prompt([6], 6, 12),  # not empty: then all positions see the same, and rounding decides between equals
    Prompt([4] * 9, 6, 2**60),
    Prompt([1, 2, 3], 9, 14),
    Prompt([0, 5], 6, 15),
]


@pytest.fixture(scope="module", params=["DiT", "Dream"])
def model(request) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "DiT":
            built = DiT(VOCABULARY.vocab_size, 24, hidden_size=16, depth=2, heads=2, cond_dim=4)
        else:
            sizes = {"hidden_size": 16, "depth": 2, "heads": 2, "key_value_heads": 1, "mlp_size": 24}
            built = Llama(
                VOCABULARY.vocab_size, 24, rows=12, mask_row=9, rope_theta=1e4, norm_eps=1e-6, shifted=True, **sizes
            )
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return built


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("batch_size", [2, 5])
def test_as_if_alone(model, name, batch_size):
    """The same tokens and the same number of network evaluations, in any batch and order."""
    on: Subject = subject(model)
    alone = [complete(on, SAMPLERS[name], [prompt], 1)[0] for prompt in PROMPTS]
    for prompts, expected in ((PROMPTS, alone), (PROMPTS[::-1], alone[::-1])):
        together = complete(on, SAMPLERS[name], prompts, batch_size)
        assert [(c.tokens, c.nfe) for c in together] == [(c.tokens, c.nfe) for c in expected]
    assert [len(c.tokens) for c in alone] == [prompt.length for prompt in PROMPTS]
    assert all(0 <= token < VOCABULARY.vocab_size for c in alone for token in c.tokens)


def test_the_tokenizer_says_which_tokens_end_a_text(model):
    on = subject(model)
    eos, pad = on.tokenizer.eos_id, on.tokenizer.pad_id
    prompts = [Prompt([1, 2, 3], 16, key) for key in range(16)]
    free = SAMPLERS["ancestral"]
    never = replace(free, eos=EosNever())
    ended = [{eos, pad} & {t for c in complete(on, sampler, prompts, 4) for t in c.tokens} for sampler in (free, never)]
    assert ended[0]
    assert not ended[1]


def test_noise_belongs_to_the_index():
    """Equal prompts with equal indices have equal answers; another index has another one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        on = subject(DiT(VOCABULARY.vocab_size, 24, hidden_size=16, depth=1, heads=2, cond_dim=4))
    answers = complete(on, SAMPLERS["ancestral"], [Prompt([1], 20, index) for index in (5, 6, 5)], 2)
    assert answers[0].tokens == answers[2].tokens != answers[1].tokens
