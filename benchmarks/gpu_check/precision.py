"""How far bfloat16 is from float32 on the device: the same numbers, and what twenty steps make of them."""

import torch
from train_step import masked_rows

from gpu_check import small
from gpu_check.report import Report

STEPS = 20


def run(report: Report, device: torch.device, tiny: bool) -> None:
    size = small.size(tiny)
    batches = size.batches(STEPS, device, batch=min(8, size.batch))
    curves = {}
    for precision in ("fp32", "bf16"):
        model = size.network(device).train()
        adamw = small.optimizer(model)
        steps = [small.training_step(masked_rows, model, adamw, batch, precision) for batch in batches]
        curves[precision] = torch.stack([torch.stack(pair) for pair in steps]).double().cpu()
    exact, rounded = curves["fp32"], curves["bf16"]
    relative = ((rounded - exact) / exact).abs()
    report.row(
        "first step", float32_loss=exact[0, 0], bf16_loss=rounded[0, 0], float32_gradient_norm=exact[0, 1],
        bf16_gradient_norm=rounded[0, 1], relative_difference_of_the_norms=relative[0, 1],
    )  # fmt: skip
    report.row(
        f"{STEPS} steps", float32_loss=exact[-1, 0], bf16_loss=rounded[-1, 0],
        largest_relative_difference_of_losses=relative[:, 0].max(),
        largest_relative_difference_of_gradient_norms=relative[:, 1].max(),
    )  # fmt: skip
