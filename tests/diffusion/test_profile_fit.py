"""Fitting a loss profile: against plain least squares, against known errors, and where it is not determined."""

import numpy as np
import pytest

from mdm_lightning.diffusion.profile.fit import fit_profile, sequences_behind
from mdm_lightning.diffusion.schedule import LinearSchedule

N, KNOTS = 12, [0, 1, 4, 11]
TRUE = np.array([5.0, 4.0, 2.5, 1.0])
HATS = np.stack([np.interp(np.arange(N), KNOTS, hat) for hat in np.eye(len(KNOTS))], axis=1)


def moments(revealed: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    return [np.bincount(revealed, values, minlength=N) for values in (np.ones(len(scores)), scores, scores**2)]


def measured(sequences: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of sequences whose noise has a part of its own for each sequence and one for each of its masks."""
    revealed = rng.integers(0, N, sequences)
    noise = np.sqrt(0.2 + 2 / (N - revealed)) * rng.normal(size=sequences)
    return revealed, HATS[revealed] @ TRUE + noise


def test_against_plain_least_squares():
    """One equation per sequence, and the sandwich estimator spelled out sequence by sequence."""
    revealed, scores = measured(100, np.random.default_rng(0))
    profile = fit_profile(N, KNOTS, *moments(revealed, scores))
    root = np.sqrt(N - revealed)
    values, *_ = np.linalg.lstsq(HATS[revealed] * root[:, None], scores * root, rcond=None)
    assert profile.values == pytest.approx(values, rel=1e-10)
    bread = np.linalg.inv(sum(np.outer(HATS[r], HATS[r]) * (N - r) for r in revealed))
    residuals = scores - HATS[revealed] @ values
    filling = sum(np.outer(HATS[r], HATS[r]) * ((N - r) * e) ** 2 for r, e in zip(revealed, residuals, strict=True))
    assert profile.covariance == pytest.approx(bread @ filling @ bread * 100 / 96, rel=1e-8)


def test_a_profile_without_noise_is_found():
    sequences = np.arange(1.0, N + 1)
    exact = HATS @ TRUE
    profile = fit_profile(N, KNOTS, sequences, sequences * exact, sequences * exact**2)
    assert profile.values == pytest.approx(TRUE, rel=1e-10)
    assert np.sqrt(profile.covariance.diagonal()).max() < 1e-6


def test_standard_errors_are_honest():
    """The NELBO's error over its standard error has variance 1 in 400 repetitions: within 0.3 (four deviations)."""
    rng, schedule = np.random.default_rng(1), LinearSchedule()
    true = fit_profile(N, KNOTS, np.ones(N), HATS @ TRUE, (HATS @ TRUE) ** 2).nelbo(schedule, 4).value
    errors = []
    for _ in range(400):
        estimate = fit_profile(N, KNOTS, *moments(*measured(300, rng))).nelbo(schedule, 4)
        errors.append((estimate.value - true) / estimate.stderr)
    assert abs(np.mean(errors)) < 0.2  # four deviations of 1 / sqrt(400)
    assert abs(np.var(errors) - 1) < 0.3


def test_sequences_behind_a_knot():
    """As many as there are, where each is measured at a knot; a quarter at either end of one straight line."""
    at_knots = np.bincount(KNOTS, [3, 5, 7, 9], minlength=N)
    assert sequences_behind(N, KNOTS, at_knots) == pytest.approx([3, 5, 7, 9])
    many = np.ones(1001)
    assert sequences_behind(1001, [0, 1000], many) == pytest.approx([1001 / 4, 1001 / 4], rel=0.01)


@pytest.mark.parametrize("present", [[5, 6, 7], [0, 1, 11], [0, 0, 0, 0, 0]])
def test_what_is_not_determined(present):
    counted = np.bincount(present, minlength=N).astype(float)
    assert (sequences_behind(N, KNOTS, counted) == 0).all()
    with pytest.raises(ValueError, match="do not determine"):
        fit_profile(N, KNOTS, counted, counted, counted)


def test_as_many_sequences_as_knots_leave_no_residuals():
    counted = np.bincount(KNOTS, minlength=N).astype(float)
    with pytest.raises(ValueError, match="4 sequences do not determine"):
        fit_profile(N, KNOTS, counted, counted, counted)


def test_a_single_position():
    profile = fit_profile(1, [0], np.array([4.0]), np.array([8.0]), np.array([20.0]))
    assert profile.values == pytest.approx([2])
    assert profile.covariance == pytest.approx(np.array([[4 / 12]]))  # squared residuals 4, of three degrees of freedom
