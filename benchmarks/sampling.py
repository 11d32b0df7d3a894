"""Ancestral sampling: this package against a plain implementation, on the same weights.

The plain implementation does what the field's reference code does: at every step, logits at all positions, and Gumbel
noise of the size of the vocabulary at all positions, whether anything is revealed or not.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --device cuda --batch 64 --length 1024 --steps 256
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.count import Binomial
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler


@torch.inference_mode()
def plain_ancestral(denoiser: Denoiser, canvas: Tensor, steps: int, seed: int, dtype: torch.dtype) -> Tensor:
    """MDLM's reverse step, written out: alpha_t = t, and a draw from (1 - r) MASK + r p(x) by the Gumbel trick."""
    generator = torch.Generator(canvas.device).manual_seed(seed)
    tokens = canvas.clone()
    for step in range(steps):
        now, following = step / steps, (step + 1) / steps
        reveal = (following - now) / (1 - now)
        hidden = denoiser(tokens, torch.full((len(tokens),), now, device=tokens.device))
        probability = denoiser.head(hidden.flatten(0, 1)).unflatten(0, tokens.shape).to(dtype).softmax(-1)
        stay = torch.full_like(probability[..., :1], 1 - reveal)
        probability = torch.cat([reveal * probability, stay], dim=-1)
        uniform = torch.rand(probability.shape, generator=generator, dtype=dtype, device=tokens.device)
        drawn = (probability / (1e-10 - (uniform + 1e-10).log())).argmax(-1)
        tokens = torch.where(tokens == denoiser.mask_id, drawn, tokens)
    return tokens


def seconds(run: Callable[[int, int], object], steps: int, device: torch.device, repeats: int) -> float:
    """Median time of ``run(steps, seed)``, after a run of two steps to warm up."""
    times = []
    for seed in range(repeats + 1):
        start = time.perf_counter()
        run(steps if seed else 2, seed)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def model(
    vocab_size: int, length: int, device: torch.device, *, hidden_size: int = 256, depth: int = 6, heads: int = 8
) -> DiT:
    """A DiT whose zero-initialised layers are given numbers, or all tokens would be equal."""
    torch.manual_seed(0)
    denoiser = DiT(vocab_size, length, hidden_size=hidden_size, depth=depth, heads=heads)
    for parameter in denoiser.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return denoiser.to(device).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vocab-size", type=int, default=50_257, help="without MASK")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()

    denoiser = model(options.vocab_size, options.length, options.device)
    canvas = torch.full((options.batch, options.length), denoiser.mask_id, device=options.device)
    sampler = Sampler(LinearSchedule(), Binomial(), Random())
    indices = range(options.batch)
    runs: dict[str, Callable[[int, int], object]] = {
        "plain, float32 noise": lambda steps, seed: plain_ancestral(denoiser, canvas, steps, seed, torch.float32),
        "plain, float64 noise": lambda steps, seed: plain_ancestral(denoiser, canvas, steps, seed, torch.float64),
        "mdm_lightning (float64)": lambda steps, seed: sampler(
            denoiser, canvas, SequenceNoise(seed, indices), steps=steps
        ),
    }
    times = {name: seconds(run, options.steps, options.device, options.repeats) for name, run in runs.items()}
    ours = times["mdm_lightning (float64)"]
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    print(f"V = {options.vocab_size + 1}, length {options.length}, batch {options.batch}, {options.steps} steps")
    print(f"{'sampler':<26}{'seconds':>10}{'sequences/s':>14}{'time over ours':>17}")
    for name, t in times.items():
        print(f"{name:<26}{t:>10.2f}{options.batch / t:>14.2f}{t / ours:>16.1f}x")


if __name__ == "__main__":
    main()
