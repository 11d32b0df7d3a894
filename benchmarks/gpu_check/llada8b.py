"""A network of LLaDA-8B's shape with random weights: forward passes, and `sampler=llada` against the published one."""

from collections.abc import Callable

import torch
from llada import LLADA, published_sampling
from torch import Tensor

from gpu_check.report import Report
from gpu_check.timing import median_seconds, peak_gib, seconds
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import LargestRemainder
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.training.throughput import matmul_peak

BLOCK = 32

TINY = LLADA | {
    "vocab_size": 300, "rows": 310, "mask_row": 298, "length": 64, "hidden_size": 32, "depth": 2, "heads": 2,
    "key_value_heads": 2, "mlp_size": 48,
}  # fmt: skip


@torch.inference_mode()
def run(report: Report, device: torch.device, tiny: bool) -> None:
    model = network(TINY if tiny else LLADA, device, torch.float32 if tiny else torch.bfloat16)
    parameters = sum(p.numel() for p in model.parameters())
    report.row(f"{parameters / 1e9:.2f} billion parameters in bfloat16", GiB=parameters * 2 / 2**30)
    peak = matmul_peak(device, torch.bfloat16)
    _forward_passes(report, model, (1, 2) if tiny else (1, 8, 32), (48,) if tiny else (512, 1152), peak, device)
    generated, steps = (32, 16) if tiny else (256, 128)
    for batch, temperature in ((1, 0.0), (1, 1.0), (4, 0.0)):
        canvas = torch.randint(model.mask_row, (batch, 2 * generated if not tiny else 48), device=device)
        canvas[:, -generated:] = model.mask_id
        _against_the_published(report, model, canvas, steps, temperature, device)


def network(shape: dict, device: torch.device, dtype: torch.dtype) -> Llama:
    """Random weights, made on the device: there is no copy of them anywhere else."""
    with torch.device("meta"):
        model = Llama(**shape)
    model = model.to(dtype).to_empty(device=device).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.02)
        else:
            parameter.data.fill_(1.0)
    return model


def _forward_passes(
    report: Report, model: Llama, batches: tuple[int, ...], lengths: tuple[int, ...], peak: float, device: torch.device
) -> None:
    """Trunk, and the head on a block of masked rows of each sequence."""
    for length in lengths:
        trunk, head = model.forward_flops(length)
        for batch in batches:
            tokens = torch.randint(model.mask_row, (batch, length), device=device)
            what = f"forward pass, {batch} x {length:,} tokens"

            def forward(tokens: Tensor = tokens) -> Tensor:
                return model.head(model(tokens)[:, -BLOCK:].flatten(0, 1))

            def measure(forward: Callable[[], Tensor] = forward) -> tuple[float, float]:
                return peak_gib(forward, device), median_seconds(forward, device, repeats=3, warmup=1)

            result = _unless_memory_runs_out(report, what, measure)
            if result is None:
                continue
            memory, median = result
            flops = trunk * batch * length + head * batch * BLOCK
            figures = {"FLOPs_utilisation": flops / median / peak, "tokens_per_s": batch * length / median}
            report.row(what, ms=1e3 * median, **figures, peak_memory_in_GiB=memory)


def _against_the_published(
    report: Report, model: Llama, canvas: Tensor, steps: int, temperature: float, device: torch.device
) -> None:
    batch, generated = len(canvas), int((canvas[0] == model.mask_id).sum())
    sampler = Sampler(
        LinearSchedule(), LargestRemainder(), Confidence(), TokenSampler(temperature=temperature), Blocks(BLOCK)
    )
    noise = SequenceNoise(0, range(batch))
    what = f"{generated} tokens in {steps} steps, batch {batch}, temperature {temperature:g}"
    variants: dict[str, Callable[[], Tensor]] = {
        "sampler=llada": lambda: sampler(model, canvas, noise, steps=steps).tokens,
        "published procedure": lambda: published_sampling(model, canvas, steps, BLOCK, temperature),
    }
    taken: dict[str, float] = {}
    tokens: dict[str, Tensor] = {}
    for name, variant in variants.items():

        def measure(name: str = name, variant: Callable[[], Tensor] = variant) -> tuple[float, float]:
            times: list[float] = []

            def once() -> None:
                times.append(seconds(lambda: tokens.__setitem__(name, variant()), device))

            return peak_gib(once, device), times[0]

        result = _unless_memory_runs_out(report, f"{name}, {what}", measure)
        if result is not None:
            memory, taken[name] = result
            report.row(
                f"{name}, {what}", tokens_per_s=batch * generated / taken[name], s=taken[name],
                peak_memory_in_GiB=memory,
            )  # fmt: skip
    if len(taken) == 2:
        (ours, theirs), (one, other) = taken.values(), tokens.values()
        equal = (
            {} if temperature else {"share_of_equal_tokens": (one == other)[canvas == model.mask_id].double().mean()}
        )
        report.row(f"published procedure over sampler=llada, {what}", times=theirs / ours, **equal)


def _unless_memory_runs_out(
    report: Report, what: str, measure: Callable[[], tuple[float, float]]
) -> tuple[float, float] | None:
    try:
        return measure()
    except torch.OutOfMemoryError:
        report.row(what, "out of memory")
        return None
