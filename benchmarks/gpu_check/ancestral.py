"""Ancestral sampling against the plain implementation, on the same weights, both in bf16-mixed."""

from collections.abc import Callable

import torch
from sampling import plain_ancestral

from gpu_check import small
from gpu_check.report import Report
from gpu_check.timing import peak_gib, seconds
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.count import Binomial
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler

BATCH = 8


def run(report: Report, device: torch.device, tiny: bool) -> None:
    size = small.size(tiny)
    steps, timed = (8, 4) if tiny else (256, 32)
    model = size.network(device)
    canvas = torch.full((BATCH, size.length), model.mask_id, device=device)
    sampler = Sampler(LinearSchedule(), Binomial(), Random())
    noise = SequenceNoise(0, range(BATCH))

    def ours() -> object:
        return sampler(model, canvas, noise, steps=steps)

    def plain(dtype: torch.dtype) -> Callable[[], object]:
        return lambda: plain_ancestral(model, canvas, timed, 0, dtype)

    with torch.autocast(device.type, torch.bfloat16):
        sampler(model, canvas, noise, steps=2)
        plain_ancestral(model, canvas, 2, 0, torch.float32)
        own = seconds(ours, device)
        what = f"{steps} steps, batch {BATCH}, length {size.length}, V = {size.vocabulary:,}"
        rate = BATCH * size.length / own
        report.row(f"{what}: mdm_lightning", s=own, tokens_per_s=rate, peak_memory_in_GiB=peak_gib(ours, device))
        for dtype in (torch.float32, torch.float64):
            memory = peak_gib(plain(dtype), device)
            taken = seconds(plain(dtype), device) * steps / timed
            report.row(
                f"plain, noise in {str(dtype).removeprefix('torch.')}",
                f"timed for {timed} of its {steps} equal steps and scaled",
                s=taken,
                times_ours=taken / own,
                peak_memory_in_GiB=memory,
            )
