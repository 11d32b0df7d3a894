"""Fast decoding: LLaDA's procedure written plainly against this package's samplers, without a cache and with each.

    python benchmarks/fast_decoding.py
    python benchmarks/fast_decoding.py --device cuda --precision bf16 --batch 8 --hidden-size 4096 --depth 32

All on the same random weights and in one run. On a CPU by the time of one thread, which other programs on the machine
change less than they change the clock; compare the ratios. The last column is a run's time over that of nothing but
its matrix products (linear layers, and attention as one kernel), in the sizes that the run has: what is left to save.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from llada import LLADA, published_sampling
from torch import Tensor, nn

from mdm_lightning.denoiser.attention import BlockCausal
from mdm_lightning.denoiser.key_value_cache import KeyValueCache
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.sampling.cache import DualCache, ExactCache, NoCache, PrefixCache
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.presets import fast_dllm, llada
from mdm_lightning.sampling.sampler import Sampler

# Of the logits; so that parallel decoding at the threshold 0.9 reveals several positions in some steps.
LOGIT_STD = 7.0


@dataclass(frozen=True)
class Size:
    """Of the matrix products of a pass: sequences, positions and keys of each; or rows of the head."""

    sequences: int = 0
    positions: int = 0
    keys: int = 0
    rows: int = 0


class Watched(Llama):
    """Remembers the sizes of its matrix products."""

    made: list[Size]
    head_count: int

    def forward(self, tokens: Tensor, *arguments: object, **options: object) -> Tensor:
        cache = options.get("cache")
        keys = cache.length if isinstance(cache, KeyValueCache) else tokens.shape[1]
        self.made.append(Size(len(tokens), tokens.shape[1], keys))
        return super().forward(tokens, *arguments, **options)  # type: ignore[arg-type]

    def head(self, hidden: Tensor) -> Tensor:
        self.made.append(Size(rows=hidden.shape[0]))
        return super().head(hidden)


def build(options: argparse.Namespace, block_causal: int | None = None) -> Watched:
    """LLaDA's network at the sizes of the options, with random weights that make positions differ."""
    torch.manual_seed(0)
    width = options.hidden_size
    vocabulary = {"vocab_size": options.vocab_size, "rows": options.vocab_size + 1, "mask_row": options.vocab_size}
    shape = {"hidden_size": width, "depth": options.depth, "heads": width // 64, "key_value_heads": width // 64}
    pattern = None if block_causal is None else BlockCausal(block_causal)
    with torch.device(options.device):
        model = Watched(**{**LLADA, **vocabulary, **shape, "mlp_size": 3 * width}, attention=pattern)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
        nn.init.normal_(model.embedding.weight)
        nn.init.constant_(model.norm.weight, LOGIT_STD)
    model.made, model.head_count = [], width // 64
    return model.to(torch.bfloat16 if options.precision == "bf16" else torch.float32).eval()


def seconds(action: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


@torch.inference_mode()
def products(model: Watched, sizes: list[Size]) -> None:
    """The matrix products alone, in the order of a run."""
    assert model.lm_head is not None
    head, heads = model.lm_head.weight, model.head_count
    most = max(max(size.sequences * max(size.positions, size.keys), size.rows) for size in sizes)
    narrow, wide = head.new_ones(most, head.shape[1]), head.new_ones(most, 3 * head.shape[1])

    def by_head(sequences: int, positions: int) -> Tensor:
        return narrow[: sequences * positions].view(sequences, positions, heads, -1).transpose(1, 2)

    for size in sizes:
        if size.rows:
            F.linear(narrow[: size.rows], head)
            continue
        queries, keys = by_head(size.sequences, size.positions), by_head(size.sequences, size.keys)
        for block in model.blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    given = narrow if module.in_features == head.shape[1] else wide
                    F.linear(given[: size.sequences * size.positions], module.weight)
            F.scaled_dot_product_attention(queries, keys, keys)


def arms(options: argparse.Namespace) -> dict[str, tuple[Sampler, bool]]:
    """Samplers by name, and whether they are for the block-causal model."""
    uniform = llada(steps=options.steps, block_length=options.block)
    parallel = fast_dllm(threshold=options.threshold, block_length=options.block)
    caches = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}
    found = {f"llada, cache={name}": (replace(uniform, cache=cache), False) for name, cache in caches.items()}
    found |= {f"fast_dllm, cache={name}": (replace(parallel, cache=cache), False) for name, cache in caches.items()}
    found |= {
        f"llada, block-causal, cache={name}": (replace(uniform, cache=cache), True)
        for name, cache in {"none": NoCache(), "exact": ExactCache()}.items()
    }
    return found


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    device = options.device
    models = {False: build(options), True: build(options, options.block)}
    canvas = torch.full((options.batch, options.prompt + options.generated), models[False].mask_id, device=device)
    canvas[:, : options.prompt] = torch.arange(options.prompt, device=device) * 97 % options.vocab_size
    generated = options.batch * options.generated
    timed = options.plain_steps or options.steps
    # Its steps cost the same: all positions go through everything at each. So a few blocks' worth tells for all.
    blocks = options.generated // options.block
    shortened = max(1, timed // blocks) * blocks
    published_sampling(models[False], canvas, blocks, options.block, 0.0)
    plain = seconds(lambda: published_sampling(models[False], canvas, shortened, options.block, 0.0), device)
    plain *= options.steps / shortened
    rows: list[dict[str, object]] = [{"arm": "llada, written plainly", "seconds": plain, "tokens/s": generated / plain}]
    show(rows[-1])
    chosen = {name: arm for name, arm in arms(options).items() if not options.arms or name in options.arms}
    for name, (sampler, causal) in chosen.items():
        model, noise = models[causal], SequenceNoise(0, range(options.batch))
        replace(sampler, steps=blocks)(model, canvas, noise)
        model.made = []
        spent = seconds(lambda sampler=sampler, model=model, noise=noise: sampler(model, canvas, noise), device)
        sizes, model.made = model.made, []
        bare = seconds(lambda model=model, sizes=sizes: products(model, sizes), device)
        row = {"arm": name, "passes": sum(size.rows == 0 for size in sizes)}
        row["tokens computed"] = sum(size.sequences * size.positions for size in sizes)
        row |= {"seconds": spent, "tokens/s": generated / spent, "over plain": plain / spent}
        rows.append({**row, "over products": spent / bare})
        show(rows[-1])
    return rows


def show(row: dict[str, object]) -> None:
    cells = [f"{row[key]:,.4g}" if key in row else "" for key in ("passes", "tokens computed", "seconds", "tokens/s")]
    ratios = [f"{row[key]:.2f}x" if key in row else "" for key in ("over plain", "over products")]
    print(f"| {row['arm']} | {' | '.join([*cells, *ratios])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--arms", nargs="+", help="only these, by the names in the table")
    parser.add_argument("--vocab-size", type=int, default=LLADA["vocab_size"])
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generated", type=int, default=256)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--plain-steps", type=int, default=8, help="of the plain procedure; its time is scaled; 0: all")
    parser.add_argument("--threshold", type=float, default=0.9, help="of fast_dllm")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    options = parser.parse_args()
    if options.device.type == "cpu":
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.device}; {options.prompt} + {options.generated} tokens, ", end="")
    print(f"width {options.hidden_size}, {options.depth} blocks, V = {options.vocab_size:,}, ", end="")
    print(f"{options.steps} steps, batch {options.batch}\n")
    print("| | passes | tokens computed | seconds | tokens/s | faster than plain | over its products |")
    print("| --- " + "| ---: " * 6 + "|")
    rows = measure(options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
