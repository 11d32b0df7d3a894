"""What holds for every test: the same examples at every run, and no clock that a slow machine could run against."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "distributions", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("distributions")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
