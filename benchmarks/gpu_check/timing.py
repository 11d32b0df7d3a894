"""Clocks and memory of a device."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from mdm_lightning.training.throughput import memory_gib


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Time that an action takes, to the end of the work it queues."""
    synchronise(device)
    start = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - start


def median_seconds(action: Callable[[], object], device: torch.device, repeats: int = 10, warmup: int = 2) -> float:
    times = [seconds(action, device) for _ in range(warmup + repeats)]
    return statistics.median(times[warmup:])


def alternated(
    actions: Mapping[str, Callable[[int], object]], device: torch.device, repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Times of each action, called with the number of the round; neighbouring times share the state of the machine."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(-warmup, repeats):
        for name, action in actions.items():
            elapsed = seconds(lambda action=action, number=number: action(max(0, number)), device)
            if number >= 0:
                times[name].append(elapsed)
    return times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios of neighbouring times."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_gib(action: Callable[[], object], device: torch.device) -> float:
    """Peak memory in GiB while an action runs: of the device, what it held before included; of the process on a CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    action()
    synchronise(device)
    return memory_gib(device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
