"""What holds for every test: the same examples at every run, and no clock that a slow machine could run against."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "laws", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("laws")
