"""Rules for EOS: LLaDA's two switches, in blocks, in batches, with any order, and along walks."""

from dataclasses import dataclass, replace
from itertools import takewhile

import pytest
import torch

from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.count import Binomial, ConfidenceThreshold, Expected, LargestRemainder
from mdm_lightning.sampling.eos import Ending, EosFree, EosLast, EosNever, EosRule, RankedLast
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Entropy, LeftToRight, Margin, Random, RevealOrder, StaticOrder
from mdm_lightning.sampling.presets import llada
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import Kind, kind_of_walk, walk

from .toys import TinyDenoiser, masks, noise


@dataclass
class Tokens:
    """Of the seven of TinyDenoiser; EOS is padding, as in LLaDA."""

    eos_id: int = 2
    pad_id: int = 2
    end_ids: frozenset[int] = frozenset({2, 5})


EOS, TURN = 2, 5
ENDS = {EOS, TURN}
GREEDY = TokenSampler(temperature=0.0)


def plain_llada(
    denoiser: TinyDenoiser, prompt: list[int], length: int, block: int, steps: int, scale: float, rule: EosRule
) -> list[int]:
    """LLaDA's procedure at temperature 0 with ``logits_eos_inf`` or ``confidence_eos_eot_inf``: one sequence, position
    by position. Confidence is the softmax over what the rule leaves, so that it is 0 where EOS or EoT was drawn."""
    x, mask = prompt + [denoiser.mask_id] * length, denoiser.mask_id
    per_block = steps // (length // block)
    for number in range(length // block):
        positions = range(len(prompt) + number * block, len(prompt) + (number + 1) * block)
        for step in range(per_block):
            logits = denoiser.head(denoiser(torch.tensor([x])))[0].double()
            unconditional = denoiser.head(denoiser(torch.tensor([[mask] * len(prompt) + x[len(prompt) :]])))[0].double()
            logits = unconditional + (scale + 1) * (logits - unconditional)
            if isinstance(rule, EosNever):
                logits[:, EOS] = -torch.inf
            drawn = logits.argmax(1).tolist()
            if isinstance(rule, EosLast):
                logits[:, list(ENDS)] = -torch.inf
            sure = logits.softmax(1)
            masked = [i for i in positions if x[i] == mask]
            best = sorted(masked, key=lambda i: -float(sure[i, drawn[i]]))
            for i in best[: block // per_block + (step < block % per_block)]:
                x[i] = drawn[i]
    return x


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize("rule", [EosFree(), EosNever(), EosLast()])
@pytest.mark.parametrize(("block", "steps"), [(12, 12), (12, 5), (4, 6), (3, 4)])
def test_llada(block, steps, rule, scale):
    sampler = llada(block_length=block, steps=steps)
    sampler = replace(sampler, guidance=Guidance(scale), eos=rule).for_tokenizer(Tokens())
    for seed in range(6):
        denoiser, prompt = TinyDenoiser(seed=seed), [1, 4, 2]
        canvas = torch.tensor([prompt + [denoiser.mask_id] * 12])
        with torch.no_grad():
            expected = plain_llada(denoiser, prompt, 12, block, steps, scale, rule)
        assert sampler(denoiser, canvas, noise(1)).tokens[0].tolist() == expected


def test_the_rules_differ():
    """So that the comparison with LLaDA's procedure compares something."""
    outputs = set()
    for rule in (EosFree(), EosNever(), EosLast()):
        sampler = replace(llada(steps=12, block_length=None), eos=rule).for_tokenizer(Tokens())
        outputs.add(str([sampler(TinyDenoiser(seed=s), torch.full((1, 12), 7), noise(1)).tokens for s in range(6)]))
    assert len(outputs) == 3


@pytest.mark.parametrize("order", [Confidence(), Margin(), Entropy()])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("blocks", [Blocks(), Blocks(5)])
def test_ends_come_last_in_every_step(order, temperature, blocks):
    """An end has a priority below all others, and that decides about something."""
    mixed: list[bool] = []

    @dataclass(frozen=True)
    class Watched(RankedLast):
        def priority(self, candidates):
            priority = super().priority(candidates)
            ends = torch.isin(candidates.tokens, torch.tensor([EOS, TURN]))
            assert (priority[ends] == -torch.inf).all()
            assert priority[~ends].isfinite().all()
            mixed.append(bool(ends.any() and (~ends).any()))
            return priority

    plain = Sampler(LinearSchedule(), Expected(), order, TokenSampler(temperature), blocks)
    same = []
    for seed in range(6):
        denoiser = TinyDenoiser(length=15, seed=seed)
        canvas = masks(2, 15, denoiser)
        found = replace(plain, order=Watched(order, ENDS))(denoiser, canvas, noise(2))
        same.append(torch.equal(found.revealed_at, plain(denoiser, canvas, noise(2)).revealed_at))
    assert any(mixed)
    assert not all(same)


def test_the_distribution_that_is_drawn_from_stays():
    """All positions in one step: ranking some last changes nothing."""
    denoiser = TinyDenoiser(length=10)
    plain = Sampler(LinearSchedule(), Expected(), Confidence(), steps=1)
    last = replace(plain, eos=EosLast()).for_tokenizer(Tokens())
    canvas = masks(50, 10, denoiser)
    assert torch.equal(last(denoiser, canvas, noise(50)).tokens, plain(denoiser, canvas, noise(50)).tokens)


@pytest.mark.parametrize(("turns", "banned"), [(False, {EOS}), (True, ENDS)])
def test_what_is_never_predicted(turns, banned):
    denoiser = TinyDenoiser(length=12)
    canvas = masks(100, 12, denoiser)
    for order in (Confidence(), LeftToRight()):
        sampler = Sampler(LinearSchedule(), Expected(), order, TokenSampler(banned=[0]), eos=EosNever(turns))
        found = set(sampler.for_tokenizer(Tokens())(denoiser, canvas, noise(100)).tokens.flatten().tolist())
        assert found == set(range(7)) - banned - {0}


@pytest.mark.parametrize("rule", [EosNever(), EosLast()])
@pytest.mark.parametrize("count", [LargestRemainder(), ConfidenceThreshold(0.4)])
def test_company_in_a_batch_changes_nothing(rule, count):
    denoiser = TinyDenoiser(length=14)
    sampler = Sampler(LinearSchedule(), count, Confidence(), TokenSampler(0.7), Blocks(4), eos=rule)
    sampler = sampler.for_tokenizer(Tokens())
    canvas = masks(5, 14, denoiser)
    for row in range(5):
        canvas[row, : row + 1] = torch.arange(row + 1)
    together = sampler(denoiser, canvas, noise(5), steps=8)
    for row in range(5):
        alone = sampler(denoiser, canvas[row : row + 1], SequenceNoise(0, [row]), steps=8)
        assert torch.equal(alone.tokens[0], together.tokens[row])


def test_walks():
    denoiser = TinyDenoiser(length=6)
    sampler = Sampler(LinearSchedule(), Expected(), Confidence(), GREEDY, steps=3)
    canvas = masks(1, 6, denoiser)
    generated = torch.ones_like(canvas, dtype=torch.bool)
    for rule in (EosNever(), EosLast()):
        under = replace(sampler, eos=rule)
        assert kind_of_walk(under) is kind_of_walk(under.for_tokenizer(Tokens())) is Kind.EXACT
        under = under.for_tokenizer(Tokens())
        output = under(denoiser, canvas, noise(1))
        walked = walk(under, denoiser, output.tokens, generated, noise(1))
        assert walked.cost.tolist() == [0.0]
        assert torch.equal(walked.revealed_at, output.revealed_at)
    drawn = Sampler(LinearSchedule(), Expected(), Margin(), steps=3)
    never = replace(drawn, eos=EosNever()).for_tokenizer(Tokens())
    ended = torch.full((1, 6), EOS)
    assert walk(never, denoiser, ended, generated, noise(1)).cost.tolist() == [torch.inf]
    assert walk(never, denoiser, ended - 1, generated, noise(1)).cost.isfinite().all()
    last = replace(drawn, eos=EosLast())
    for refused in (last, last.for_tokenizer(Tokens())):
        with pytest.raises(ValueError, match="at temperature 0"):
            kind_of_walk(refused)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="LeftToRight chooses positions before"):
        Sampler(LinearSchedule(), Expected(), LeftToRight(), eos=EosLast())
    with pytest.raises(ValueError, match="LeftToRight chooses positions before"):
        RankedLast(LeftToRight(), [1])
    denoiser = TinyDenoiser(length=4)
    for rule in (EosNever(), EosLast()):
        sampler = Sampler(LinearSchedule(), Expected(), Confidence(), eos=rule)
        with pytest.raises(ValueError, match="for_tokenizer"):
            sampler(denoiser, masks(1, 4, denoiser), noise(1))


def until_end(tokens: list[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ENDS, tokens))


EARLY = [
    llada(steps=12, block_length=4),
    llada(steps=7, block_length=None),
    Sampler(LinearSchedule(), ConfidenceThreshold(0.4), Confidence(), TokenSampler(), Blocks(4)),
    Sampler(LinearSchedule(), Expected(), LeftToRight(), steps=10),
    Sampler(LinearSchedule(), Binomial(), Random(), steps=10),
]


@pytest.mark.parametrize("sampler", EARLY)
@pytest.mark.parametrize("rule", [EosFree(), EosNever(), EosLast()])
def test_an_early_end_keeps_the_answers(sampler, rule):
    """Up to the first end they are the same, after it there is nothing but PAD, and it cost less."""
    if isinstance(sampler.order, StaticOrder) and isinstance(rule, EosLast):
        pytest.skip("EosLast wants drawn tokens")
    denoiser, saved = TinyDenoiser(length=15), 0
    canvas = masks(30, 15, denoiser)
    canvas[:, :3] = torch.tensor([1, EOS, 4])  # an end in a prompt ends nothing
    canvas[20:, :5] = 1
    padding = (torch.arange(15) > 12).expand(30, -1) & (torch.arange(30) >= 25)[:, None]
    whole, early = (
        replace(sampler, eos=replace(rule, early_end=flag)).for_tokenizer(Tokens())(
            denoiser, canvas, noise(30), padding=padding
        )
        for flag in (False, True)
    )
    for row in range(30):
        begin, end = 3 if row < 20 else 5, 13 if row >= 25 else 15
        answer, expected = early.tokens[row, begin:end].tolist(), whole.tokens[row, begin:end].tolist()
        assert until_end(answer) == until_end(expected)
        rest = answer[len(until_end(answer)) :]
        spent, without = int(early.sequence_nfe[row]), int(whole.sequence_nfe[row])
        assert spent <= without
        if spent < without:
            saved += 1
            assert rest[0] in ENDS
        assert torch.equal(early.tokens[row, end:], canvas[row, end:])
    assert saved > 3
    assert early.sequence_positions.sum() < whole.sequence_positions.sum()


def test_when_a_text_has_ended():
    """Not before all that is in front of the end is there, and not in front of a given suffix."""
    tokens = torch.tensor([[1, EOS, 3, 4], [1, TURN, 7, 7], [7, EOS, 7, 7], [1, EOS, 7, 3], [1, 3, 7, EOS]])
    generated = torch.ones_like(tokens, dtype=torch.bool)
    generated[3, 3] = False
    canvas = Canvas(tokens, generated, Blocks().index(generated), None, 7)
    everyone = torch.arange(5)
    Ending({EOS, TURN}, fill=6).fill_ended(canvas, Work(4, everyone, *[everyone] * 4))
    filled = tokens.clone()
    filled[1, 2:] = 6
    assert torch.equal(canvas.tokens, filled)
    assert canvas.revealed_at[1].tolist() == [-1, -1, 4, 4]


def test_early_ends_that_cannot_be():
    rule = EosFree(early_end=True)
    with pytest.raises(ValueError, match="RemaskCapped may mask an end again"):
        Sampler(LinearSchedule(), RemaskCapped(), Random(), eos=rule)
    denoiser, sampler = TinyDenoiser(length=4), replace(EARLY[0], eos=rule)
    with pytest.raises(ValueError, match="for_tokenizer"):
        sampler(denoiser, masks(1, 4, denoiser), noise(1))
    for refused in (sampler, sampler.for_tokenizer(Tokens())):
        with pytest.raises(ValueError, match="leave it out"):
            kind_of_walk(refused)
        assert describe_sampler(refused)["early_end"] == "yes"


def test_words():
    def eos(rule: EosRule, order: RevealOrder | None = None) -> object:
        return describe_sampler(Sampler(LinearSchedule(), Expected(), order or Confidence(), eos=rule)).get("eos")

    assert [eos(EosFree()), eos(EosNever()), eos(EosNever(turns=True)), eos(EosLast())] == [
        None, "EosNever", "EosNever(True)", "EosLast",
    ]  # fmt: skip
