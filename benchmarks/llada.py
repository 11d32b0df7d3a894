"""What LLaDA-8B will cost: operations counted, and how fast its blocks run compared with bare matrix products.

    python benchmarks/llada.py

Times one block of LLaDA-8B's size against the seven matrix products in it, alternately and in one process. From the
ratio, and from what is assumed of matrix products on a GPU, follow the times of the paper's benchmarks: derived, not
measured.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.llama import Block, Llama
from mdm_lightning.denoiser.rotary import Rotary

LLADA = {
    "vocab_size": 126_349, "length": 4096, "rows": 126_464, "mask_row": 126_336, "hidden_size": 4096, "depth": 32,
    "heads": 32, "key_value_heads": 32, "mlp_size": 12_288, "rope_theta": 5e5, "norm_eps": 1e-5,
}  # fmt: skip

# Prompt tokens, about, with the tasks' own examples; positions generated.
TASKS = {
    "humaneval": (150, 256),
    "mbpp": (500, 256),
    "gsm8k": (900, 128),
    "minerva_math": (800, 256),
    "hendrycks_math": (100, 256),
    "bbh": (900, 128),
}

# Peak of dense bfloat16 products, FLOP/s, from the makers' data sheets; what of it large products are assumed to reach.
GPUS = {"A100": 312e12, "H200": 989e12}
ASSUMED = 0.6


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def block_against_products(tokens: int, repeats: int) -> tuple[float, float]:
    """Median seconds of a block, and of its matrix products alone."""
    hidden, heads = LLADA["hidden_size"], LLADA["heads"]
    sizes = (LLADA["key_value_heads"], hidden // heads, LLADA["mlp_size"], LLADA["norm_eps"])
    block = Block(hidden, heads, *sizes).eval()
    rotation = Rotary(hidden // heads, LLADA["rope_theta"])(torch.arange(tokens)[None])
    x, wide = torch.randn(1, tokens, hidden), torch.randn(1, tokens, LLADA["mlp_size"])
    weights = [module.weight for module in block.modules() if isinstance(module, nn.Linear)]

    def products() -> None:
        for weight in weights:
            F.linear(x if weight.shape[1] == hidden else wide, weight)

    with torch.inference_mode():
        block(x, rotation, None)
        products()
        pairs = [(seconds(lambda: block(x, rotation, None)), seconds(products)) for _ in range(repeats)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def operations(model: Llama, prompt: int, generated: int) -> float:
    """FLOPs of one step for one sequence; of the positions to generate, half are still masked on average."""
    per_token, per_row = model.forward_flops(prompt + generated)
    return per_token * (prompt + generated) + per_row * generated / 2


@torch.inference_mode()
def published_sampling(denoiser: Denoiser, canvas: Tensor, steps: int, block: int, temperature: float) -> Tensor:
    """LLaDA's published procedure (Nie et al., 2025), written out: low-confidence remasking in blocks.

    Every step computes the logits of all positions in float64; above temperature 0 it adds noise to all of them.

    Args:
        canvas: prompts of one length, followed by MASK; as many blocks of ``block`` masks as there are.
        steps: steps for all blocks, a multiple of their number.
    """
    x = canvas.clone()
    prompt = int((x[0] != denoiser.mask_id).sum())
    blocks = (x.shape[1] - prompt) // block
    for number in range(blocks):
        end = prompt + (number + 1) * block
        per_step = divmod(block, steps // blocks)
        for step in range(steps // blocks):
            masked = x == denoiser.mask_id
            logits = denoiser.head(denoiser(x).flatten(0, 1)).unflatten(0, x.shape).double()
            noisy = logits
            if temperature > 0:
                noisy = logits.exp() / (-torch.rand_like(logits).log()) ** temperature
            drawn = noisy.argmax(-1)
            probability = logits.softmax(-1).gather(-1, drawn[..., None]).squeeze(-1)
            probability[:, end:] = -torch.inf
            confidence = torch.where(masked, probability, -torch.inf)
            for row in range(len(x)):
                chosen = confidence[row].topk(per_step[0] + (step < per_step[1])).indices
                x[row, chosen] = drawn[row, chosen]
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    block, products = block_against_products(options.tokens, options.repeats)
    share = products / block
    print(f"one block, {options.tokens} tokens: {block:.3f} s; its matrix products alone {products:.3f} s: {share:.0%}")
    with torch.device("meta"):
        model = Llama(**LLADA)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e9:.2f} billion parameters, {2 * parameters / 2**30:.1f} GiB in bfloat16\n")
    rates = {name: peak * ASSUMED * share for name, peak in GPUS.items()}
    print("| benchmark | tokens | TFLOP a step | " + " | ".join(f"{g}: a step, ms" for g in GPUS), end=" | ")
    print(" | ".join(f"{g}: 100 instances, 64 steps" for g in GPUS) + " |")
    print("| --- " + "| ---: " * (2 + 2 * len(GPUS)) + "|")
    for name, (prompt, generated) in TASKS.items():
        work = operations(model, prompt, generated)
        steps = " | ".join(f"{1e3 * work / rate:.0f}" for rate in rates.values())
        cells = " | ".join(f"{64 * 100 * work / rate / 60:.1f} min" for rate in rates.values())
        print(f"| {name} | {prompt} + {generated} | {work / 1e12:.1f} | {steps} | {cells} |")


if __name__ == "__main__":
    main()
