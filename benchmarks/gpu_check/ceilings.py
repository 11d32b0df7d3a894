"""What the device can do at best: matrix products and copies."""

import torch

from gpu_check.report import Report
from gpu_check.timing import median_seconds
from mdm_lightning.training.throughput import matmul_peak


def run(report: Report, device: torch.device, tiny: bool) -> None:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        report.row("device", properties.name, memory_in_GiB=properties.total_memory / 2**30)
    for precision, name in (("highest", "float32"), ("high", "TF32")):
        torch.set_float32_matmul_precision(precision)
        report.row(f"matrix product, {name}", TFLOP_per_s=matmul_peak(device, torch.float32) / 1e12)
    report.row("matrix product, bfloat16", TFLOP_per_s=matmul_peak(device, torch.bfloat16) / 1e12)
    source = torch.empty(2**20 if tiny else 2**30, device=device).normal_()
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)
    report.row("copy (bytes read plus written)", TB_per_s=rate / 1e12)
