"""The same samples on any number of processes."""

import pytest
import torch

from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.sampling.count import Binomial, Expected, PlannedCount
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Random, RevealOrder
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from tests.forkserver import run_side_by_side

from .toys import TinyDenoiser, masks

SAMPLES, BATCH = 16, 4
PAIRS: list[tuple[PlannedCount, RevealOrder]] = [
    (Binomial(), Random()),
    (Expected(), Confidence(1.0)),
    (RemaskCapped(0.2), Random()),
]


def share(rank: int, processes: int, folder: str) -> None:
    """Samples every ``processes``-th batch of the job."""
    torch.set_num_threads(1)
    denoiser, made = TinyDenoiser(), {}
    for start in range(rank * BATCH, SAMPLES, processes * BATCH):
        noise = SequenceNoise(11, range(start, start + BATCH))
        made[start] = torch.stack(
            [
                Sampler(BetaSchedule(0.9, 0.3), count, order)(
                    denoiser, masks(BATCH, 16, denoiser), noise, steps=6
                ).tokens
                for count, order in PAIRS
            ]
        )
    torch.save(made, f"{folder}/{processes}-{rank}.pt")


@pytest.mark.ddp
def test_two_processes_give_the_samples_of_one(tmp_path):
    share(0, 1, str(tmp_path))
    run_side_by_side(share, [(rank, 2, str(tmp_path)) for rank in range(2)])
    alone, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert sorted(first) + sorted(second) == [0, 8, 4, 12]
    for start, tokens in (first | second).items():
        assert torch.equal(tokens, alone[start])
