"""A reveal order of one's own: which of the masked positions the sampler reveals first.

python examples/own_order.py
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.evidence import Candidates
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import LeftToRight, Margin, PredictedOrder, Random
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class FarApart(PredictedOrder):
    """Positions far from each other first (0, 8, 4, 12, 2, ...): what is revealed in one step is drawn independently,
    and neighbours depend on each other most.

    An order gives each masked position a priority; in every sequence the highest are revealed first. ``Candidates`` has
    what there is to go by: logits, drawn tokens, places in the sequence, reveal times. (This order would do without
    predictions. A StaticOrder says so, and positions that are not revealed then never enter the denoiser's head.)
    """

    bits: int = 16

    def priority(self, candidates: Candidates) -> Tensor:
        places = candidates.positions
        reversed_bits = sum((places >> i & 1) << (self.bits - 1 - i) for i in range(self.bits))
        return -torch.as_tensor(reversed_bits, dtype=torch.float64)


def nested(text: list[int]) -> bool:
    """Whether brackets, 0 to open and 1 to close, are properly nested."""
    depths = list(itertools.accumulate(1 if token == 0 else -1 for token in text))
    return min(depths) >= 0 and depths[-1] == 0


def main() -> None:
    length, samples = 10, 2000
    distribution = [list(text) for text in itertools.product((0, 1), repeat=length) if nested(list(text))]
    denoiser = ExactDenoiser(
        distribution
    )  # knows the exact conditionals of the uniform distribution on nested brackets
    canvas = torch.full((samples, length), denoiser.mask_id)
    noise = SequenceNoise(seed=0, indices=range(samples))

    print(f"share of {samples:,} samples that are properly nested")
    print(f"{'':12} {'2 steps':>8} {'5 steps':>8} {'10 steps':>8}")
    for order in (Random(), LeftToRight(), Margin(), FarApart()):
        sampler = Sampler(LinearSchedule(), Expected(), order)
        shares = []
        for steps in (2, 5, 10):
            tokens = sampler(denoiser, canvas, noise, steps=steps).tokens
            shares.append(sum(nested(row) for row in tokens.tolist()) / samples)
        print(f"{type(order).__name__:12} {shares[0]:8.3f} {shares[1]:8.3f} {shares[2]:8.3f}")


if __name__ == "__main__":
    main()
