"""The training step of ``model=small``: against a plain full-head step, compiled, and the largest batch that fits."""

import copy
import gc
import statistics
from collections.abc import Callable

import torch
from train_step import VARIANTS, Loss, check_same, flops_per_step, masked_rows

from gpu_check import small
from gpu_check.profile import where_the_time_goes
from gpu_check.report import Report
from gpu_check.timing import alternated, median_ratio, peak_gib, seconds
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import MaskedBatch
from mdm_lightning.training.throughput import matmul_peak

LARGEST_TRIED = 512


def run(report: Report, device: torch.device, tiny: bool) -> None:
    """Masked rows against full head: speed and memory, and whether losses and gradients are equal in float32."""
    size = small.size(tiny)
    model = size.network(device).train()
    batches = size.batches(4 if tiny else 10, device)
    adamw = small.optimizer(model)
    steps = {name: _step(loss, model, adamw, batches) for name, loss in VARIANTS.items()}
    memory = {name: peak_gib(lambda step=step: step(0), device) for name, step in steps.items()}
    times = alternated(steps, device, len(batches))
    peak = matmul_peak(device, torch.bfloat16)
    for name in VARIANTS:
        report.row(
            f"{name}, batch {size.batch}",
            **_speed(times[name], size, flops_per_step(model, name, batches), peak),
            peak_memory_in_GiB=memory[name],
            times_the_speed_of_the_full_head=median_ratio(times["full head"], times[name]),
        )
    for share in where_the_time_goes(lambda: steps["masked rows"](0), size.vocabulary, device):
        report.row(f"where the time goes: {share.what}", share_of_the_step=share.share, ms=share.milliseconds)
    check_same(model, size.batches(1, device, batch=2)[0], "fp32")
    report.row("loss and gradients of both heads", "equal in float32")


def compiled(report: Report, device: torch.device, tiny: bool) -> None:
    """``compile=true`` against eager. On a CPU with a backend that compiles in a second."""
    size = small.size(tiny)
    eager = size.network(device).train()
    compiled = copy.deepcopy(eager)
    backend = "aot_eager" if tiny else "inductor"
    compiled.compile(backend=backend)
    batches = size.batches(4 if tiny else 10, device)
    steps = {
        name: _step(masked_rows, model, small.optimizer(model), batches)
        for name, model in {"eager": eager, "compile=true": compiled}.items()
    }
    first = seconds(lambda: steps["compile=true"](0), device)
    memory = {name: peak_gib(lambda step=step: step(0), device) for name, step in steps.items()}
    times = alternated(steps, device, len(batches))
    peak = matmul_peak(device, torch.bfloat16)
    for name in steps:
        report.row(
            f"{name}, batch {size.batch}",
            *([f"first step {first:.0f} s"] if name == "compile=true" else []),
            **_speed(times[name], size, flops_per_step(eager, "masked rows", batches), peak),
            peak_memory_in_GiB=memory[name],
            times_the_speed_of_eager=median_ratio(times["eager"], times[name]),
        )
    for share in where_the_time_goes(lambda: steps["compile=true"](0), size.vocabulary, device):
        report.row(f"where the time goes: {share.what}", share_of_the_step=share.share, ms=share.milliseconds)


def largest_batch(report: Report, device: torch.device, tiny: bool) -> None:
    """By doubling until memory runs out, then bisection to an eighth."""
    size = small.size(tiny)
    model = size.network(device).train()
    adamw = small.optimizer(model)
    limit = 2 * size.batch if tiny else LARGEST_TRIED
    for name, loss in VARIANTS.items():

        def step(batch: int, loss: Loss = loss) -> None:
            small.training_step(loss, model, adamw, size.batches(1, device, batch)[0])

        most = largest(lambda batch, step=step: _fits(lambda: step(batch), model), size.batch, limit)
        batch = size.batches(1, device, most)[0]
        taken = seconds(lambda batch=batch, loss=loss: small.training_step(loss, model, adamw, batch), device)
        notes = ["the largest that was tried"] if 2 * most > limit else []
        report.row(name, *notes, largest_batch=most, tokens_per_s=most * size.length / taken)
        del batch


def largest(fits: Callable[[int], bool], start: int, limit: int) -> int:
    """The largest number up to ``limit`` for which ``fits``, to within an eighth; 0 if not even 1 does."""
    low = start
    while low and not fits(low):
        low //= 2
    high = 2 * low
    while low and high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while low and high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(action: Callable[[], object], model: DiT) -> bool:
    fitted = True
    try:
        action()
    except torch.OutOfMemoryError:
        fitted = False
    # Not before here, where no exception holds on to what did not fit.
    model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    return fitted


def _step(loss: Loss, model: DiT, adamw: torch.optim.Optimizer, batches: list[MaskedBatch]) -> Callable[[int], object]:
    return lambda number: small.training_step(loss, model, adamw, batches[number])


def _speed(times: list[float], size: small.Size, flops: float, peak: float) -> dict[str, float]:
    median = statistics.median(times)
    tokens = size.batch * size.length
    return {"tokens_per_s": tokens / median, "ms_per_step": 1e3 * median, "FLOPs_utilisation": flops / median / peak}
