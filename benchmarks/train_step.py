"""What a training step gains from running the output head on masked rows only.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda --precision bf16 --batch 64 --json results.json

Two variants of one training step (forward, backward, no optimiser), same weights, same masks, same loss:

* masked rows: mdm_lightning's objective, the head on ``hidden[rows]``;
* full head: the same trunk, then logits and cross-entropy at every position, times the mask.

Their steps alternate within one process, so that the ratio survives a noisy machine. Peak memory is measured in a
process of its own for each. V counts MASK, as model cards do.
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import CountMasking, ForwardProcess, MaskedBatch
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training.throughput import matmul_peak

VOCABULARIES = (50_258, 4_096)
WIDTH, DEPTH, HEADS, LENGTH = 256, 6, 4, 128
WARMUP = 2
COUNTS = CountMasking(StratifiedTimes())

Loss = Callable[[DiT, MaskedBatch], Tensor]


@dataclass
class Result:
    """One row of the table. FLOPs are those of the variant's own matrix products, backward included."""

    vocabulary: int
    variant: str
    seconds_per_step: float
    tokens_per_second: float
    flops_utilisation: float
    peak_memory_mib: float
    speedup: float


def masked_rows(model: DiT, batch: MaskedBatch) -> Tensor:
    """The training step of mdm_lightning, in nats per position."""
    return nelbo(model, batch).per_sequence.sum() / batch.lengths.sum()


def full_head(model: DiT, batch: MaskedBatch) -> Tensor:
    """The same loss with logits for all positions: what most implementations do."""
    logits = model.head(model(batch.tokens, batch.alpha)).float()
    # The targets of unmasked positions do not matter: their loss is multiplied by zero.
    targets = torch.zeros_like(batch.tokens).flatten().index_copy(0, batch.rows, batch.targets)
    weight = torch.zeros_like(logits[..., 0]).flatten().index_copy(0, batch.rows, batch.weight)
    loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    return (loss * weight).sum() / batch.lengths.sum()


VARIANTS: dict[str, Loss] = {"full head": full_head, "masked rows": masked_rows}


def make_model(vocabulary: int, device: torch.device) -> DiT:
    torch.manual_seed(0)
    model = DiT(vocabulary - 1, LENGTH, hidden_size=WIDTH, depth=DEPTH, heads=HEADS)
    # The head starts at zero and would hide a wrong loss: log d, whatever it is fed.
    torch.nn.init.normal_(model.output_layer.linear.weight, std=0.02)
    return model.to(device)


def make_batches(
    vocabulary: int,
    size: int,
    count: int,
    device: torch.device,
    length: int = LENGTH,
    process: ForwardProcess = COUNTS,
) -> list[MaskedBatch]:
    """Random tokens, by default masked by count with stratified times: half of the positions, in every batch."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        tokens = torch.randint(vocabulary - 1, (size, length), generator=generator)
        batch = process(tokens, torch.ones_like(tokens, dtype=torch.bool), vocabulary - 1, generator)
        batches.append(batch.to(device))
    return batches


def step(loss: Loss, model: DiT, batch: MaskedBatch, precision: str) -> Tensor:
    """Forward and backward; the gradients are left in place."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=precision == "bf16"):
        value = loss(model, batch)
    value.backward()
    return value.detach()


def timed_step(loss: Loss, model: DiT, batch: MaskedBatch, precision: str) -> float:
    start = time.perf_counter()
    step(loss, model, batch, precision)
    if batch.tokens.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def check_same(model: DiT, batch: MaskedBatch, precision: str) -> None:
    """Raises AssertionError unless both variants agree on the loss and on the gradients."""
    rtol, atol = (1e-4, 1e-6) if precision == "fp32" else (2e-2, 1e-3)
    results = {}
    for name, loss in VARIANTS.items():
        value = step(loss, model, batch, precision)
        results[name] = (value, {key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    (value, gradients), (other, others) = results.values()
    torch.testing.assert_close(value, other, rtol=rtol, atol=atol)
    for key, gradient in gradients.items():
        error = (gradient - others[key]).norm() / gradient.norm().clamp(min=1e-12)
        assert error < (1e-3 if precision == "fp32" else 0.1), f"gradients of {key} differ by {float(error):.1e}"


def flops_per_step(model: DiT, name: str, batches: list[MaskedBatch]) -> float:
    """Matrix-product FLOPs of a mean step: one forward pass and two of the same size backward."""
    tokens, length = batches[0].tokens.numel(), batches[0].tokens.shape[1]
    trunk, head = model.forward_flops(length)
    rows = statistics.mean(len(batch.rows) for batch in batches) if name == "masked rows" else tokens
    return 3 * (trunk * tokens + head * rows)


def measure(vocabulary: int, memory: dict[str, float], args: argparse.Namespace) -> list[Result]:
    """Times both variants, their steps alternating. ``memory`` is the peak of each, measured before."""
    device = torch.device(args.device)
    peak = matmul_peak(device, torch.bfloat16 if args.precision == "bf16" else torch.float32)
    model = make_model(vocabulary, device)
    batches = make_batches(vocabulary, args.batch, args.steps, device)
    check_same(model, batches[0], args.precision)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for i, batch in enumerate([*batches[:1] * WARMUP, *batches]):
        for name, loss in VARIANTS.items():
            elapsed = timed_step(loss, model, batch, args.precision)
            if i >= WARMUP:
                seconds[name].append(elapsed)
    speedup = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    results = []
    for name in VARIANTS:
        median = statistics.median(seconds[name])
        flops = flops_per_step(model, name, batches)
        results.append(
            Result(
                vocabulary=vocabulary,
                variant=name,
                seconds_per_step=median,
                tokens_per_second=args.batch * LENGTH / median,
                flops_utilisation=flops / median / peak,
                peak_memory_mib=memory[name],
                speedup=speedup if name == "masked rows" else 1.0,
            )
        )
    return results


def memory_in_a_new_process(vocabulary: int, name: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--vocabulary", str(vocabulary)]
    for option in ("device", "batch", "precision", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def peak_memory_mib(vocabulary: int, name: str, args: argparse.Namespace) -> float:
    """Peak memory of two steps: of the device, or of this process less what it held before the model was made."""
    device = torch.device(args.device)
    before = resident_mib()
    model = make_model(vocabulary, device)
    for batch in make_batches(vocabulary, args.batch, 2, device):
        step(VARIANTS[name], model, batch, args.precision)
        gc.collect()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_mib() - before


def resident_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def table(results: list[Result], args: argparse.Namespace) -> str:
    lines = [
        f"DiT, width {WIDTH}, {DEPTH} blocks, length {LENGTH}, batch {args.batch}, {args.precision} on {args.device}"
        + (f", {torch.get_num_threads()} threads" if args.device == "cpu" else "")
        + f", torch {torch.__version__}; medians of {args.steps} steps",
        "",
        "| V | head | tokens/s | ms/step | speed | peak memory, MiB | FLOPs utilisation |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        lines.append(
            f"| {r.vocabulary:,} | {r.variant} | {r.tokens_per_second:,.0f} | {1000 * r.seconds_per_step:,.0f} "
            f"| {r.speedup:.2f}x | {r.peak_memory_mib:,.0f} | {r.flops_utilisation:.0%} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each variant")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 means autocast")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here as well")
    parser.add_argument("--vocabulary", type=int, help="measure this V only, MASK counted")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(peak_memory_mib(args.vocabulary, args.memory_of, args))
        return
    vocabularies = VOCABULARIES if args.vocabulary is None else (args.vocabulary,)
    # Memory first: on Linux a process starts with the peak of the one that started it, which is still small here.
    memory = {v: {name: memory_in_a_new_process(v, name, args) for name in VARIANTS} for v in vocabularies}
    results = [result for vocabulary in vocabularies for result in measure(vocabulary, memory[vocabulary], args)]
    print(table(results, args))
    if args.json:
        settings = {"device": args.device, "batch": args.batch, "steps": args.steps, "precision": args.precision}
        settings |= {"torch": torch.__version__, "threads": args.threads}
        args.json.write_text(json.dumps({"settings": settings, "results": [asdict(r) for r in results]}, indent=2))


if __name__ == "__main__":
    main()
