"""Where the time of a training step goes, by torch's profiler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from gpu_check.timing import synchronise

HEAD, PRODUCTS, ATTENTION = "head and loss", "other matrix products", "attention"
OPTIMISER, OTHER = "optimiser and clipping", "elementwise, norms, copies"
LEFT = "kernels of no operator"  # compiled ones, perhaps


class Share(NamedTuple):
    what: str
    share: float
    milliseconds: float


def where_the_time_goes(step: Callable[[], object], vocabulary: int, device: torch.device) -> list[Share]:
    """Shares of the device's busy time in two steps. What has an operand as wide as the logits counts as head."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    step()
    synchronise(device)
    with profile(activities=activities, record_shapes=True) as recorded:
        step()
        step()
        synchronise(device)
    spent: dict[str, float] = {}
    kernels = 0.0
    for event in recorded.key_averages(group_by_input_shape=True):
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if str(event.device_type).endswith("CPU"):  # an operator, with the time of the kernels it started
            kind = _kind(event.key, event.input_shapes, vocabulary - 1)
            spent[kind] = spent.get(kind, 0.0) + own
        elif not event.is_user_annotation:
            kernels += own
    spent[LEFT] = max(0.0, kernels - sum(spent.values()))
    whole = sum(spent.values())
    shares = [Share(kind, own / whole, own / 2e3) for kind, own in spent.items() if own]
    return sorted(shares, key=lambda share: -share.share)


def _kind(name: str, shapes: Any, width: int) -> str:
    if any(word in name for word in ("adam", "foreach", "norm_cuda", "clip")):
        return OPTIMISER
    if any(word in name for word in ("attention", "flash", "fmha")):
        return ATTENTION
    if any(isinstance(shape, list) and width in shape for shape in shapes or ()):
        return HEAD
    if any(word in name for word in ("softmax", "nll_loss", "cross_entropy")):
        return HEAD
    if name.removeprefix("aten::") in ("mm", "addmm", "bmm", "linear", "matmul"):
        return PRODUCTS
    return OTHER
