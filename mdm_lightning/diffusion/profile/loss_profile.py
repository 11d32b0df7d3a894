"""The loss profile: what a sampler with few steps costs under every schedule, from one pass over validation data.

The NELBO in continuous time is the same for every schedule. That of a sampler with K steps is not: it is a left Riemann
sum of the loss profile h,

    NELBO_K = n sum_k (alpha_{k+1} - alpha_k) h(alpha_k),    NELBO = n integral h(alpha) dalpha = sum_r h_r,

where h_r is the mean cross-entropy at a masked position when r of the n positions are revealed, a uniformly random
subset, and h(alpha) its mean for r ~ Binomial(n - 1, alpha). NELBO_K bounds -log p_K(x) of the sampler that reveals
positions in random order, so the schedule that minimises the gap NELBO_K - NELBO can be found without sampling. For an
exact denoiser the gap bounds the divergence KL(data || sampler). Orders that look at the predictions (confidence,
entropy) are outside this theorem.

Found independently by Lavenant & Zanella (2025, arXiv:2510.25544) and Chen, Cong & Li (2025, arXiv:2511.04647); the
best placement of many steps also by Wainwright (2026, arXiv:2608.13520).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike
from scipy import special
from scipy.interpolate import CubicSpline
from scipy.optimize import isotonic_regression

from mdm_lightning.diffusion.profile.beta_search import best_beta, beta_arcs
from mdm_lightning.diffusion.profile.counts import alphas_on_grid, check_steps, schedule_of_counts
from mdm_lightning.diffusion.profile.cross_fitting import CountCosts, Counts, Estimate
from mdm_lightning.diffusion.profile.step_costs import Rounding, StepCosts
from mdm_lightning.diffusion.schedule import BetaSchedule, MaskSchedule, TabulatedSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.files import from_json, to_json, write_atomically

_VERSION = 1


@dataclass(frozen=True, eq=False, init=False, repr=False)
class LossProfile(CountCosts):
    """h_r at a few numbers r of revealed positions (knots), linear in between.

    Everything predicted from it is a linear function of the values at the knots, so that errors propagate exactly.

    Args:
        length: n, maskable positions per sequence: of the response, for prompted tasks.
        counts: the knots, increasing from 0 to n - 1.
        values: h_r there, in nats.
        covariance: of the values. Knots measured on the same sequences are correlated; zero for an exact profile.
        scores: of the single sequences at the knots, whose mean the values are, in nats; None where they are not known.
            They are not stored.

    Raises:
        ValueError: the numbers do not describe a profile.
    """

    length: int
    counts: Int64[np.ndarray, " j"]
    values: Float64[np.ndarray, " j"]
    covariance: Float64[np.ndarray, "j j"]
    scores: Float64[np.ndarray, "s j"] | None

    def __init__(
        self,
        length: int,
        counts: ArrayLike,
        values: ArrayLike,
        covariance: ArrayLike | None = None,
        scores: Float64[np.ndarray, "s j"] | None = None,
    ) -> None:
        knots = np.array(counts, dtype=np.int64)
        numbers = np.array(values, dtype=np.float64)
        errors = np.zeros((knots.size,) * 2) if covariance is None else np.array(covariance, dtype=np.float64)
        if knots.ndim != 1 or not knots.size or knots[0] != 0 or knots[-1] != length - 1 or (np.diff(knots) < 1).any():
            raise ValueError(f"LossProfile: counts must increase from 0 to length - 1 = {length - 1}")
        if numbers.shape != knots.shape or not np.isfinite(numbers).all():
            raise ValueError(f"LossProfile: there must be a finite value for each of the {knots.size} counts")
        symmetric = errors.shape == (knots.size,) * 2 and np.isfinite(errors).all() and np.allclose(errors, errors.T)
        if not symmetric or (errors.diagonal() < 0).any():
            raise ValueError(f"LossProfile: covariance must be a covariance matrix of {knots.size} values")
        for name, value in (("length", length), ("counts", knots), ("values", numbers), ("covariance", errors)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "scores", scores)

    def __repr__(self) -> str:
        knots = len(self.counts)
        ends = f"{self.values[0]:.4f} nats with none revealed, {self.values[-1]:.4f} with all others"
        return f"LossProfile({self.length} positions, {knots} knot{'s' if knots > 1 else ''}: {ends})"

    @classmethod
    def from_scores(cls, counts: ArrayLike, scores: Float64[np.ndarray, "s j"], length: int) -> Self:
        """Mean and covariance of scores that were measured on the same sequences.

        Args:
            counts: the knots.
            scores: mean cross-entropy over the masked positions of each sequence at each knot, in nats.
            length: n, maskable positions per sequence.

        Raises:
            ValueError: there are fewer than two sequences, or no profile results.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 2 or len(scores) < 2:
            raise ValueError(f"LossProfile: scores must have two sequences or more, got shape {scores.shape}")
        covariance = np.cov(scores, rowvar=False).reshape((scores.shape[1],) * 2) / len(scores)
        return cls(length, counts, scores.mean(0), covariance, scores)

    @classmethod
    def from_distribution(cls, sequences: Sequence[Sequence[int]], probabilities: Sequence[float]) -> "LossProfile":
        """The exact profile of the exact denoiser of an enumerable distribution: N 2^n operations.

        The mean over subsets S and positions i outside of the entropy H(x_i | x_S) = H(x_{S + i}) - H(x_S) telescopes:
        h_r is the mean entropy of r + 1 positions less that of r positions.
        """
        tokens, weights = np.asarray(sequences), np.asarray(probabilities, dtype=np.float64)
        n = tokens.shape[1]
        entropies = np.zeros(n + 1)
        for subset in range(2**n):
            kept = [i for i in range(n) if subset >> i & 1]
            _, group = np.unique(tokens[:, kept], axis=0, return_inverse=True)
            entropy = special.entr(np.bincount(group.ravel(), weights)).sum()
            entropies[len(kept)] += entropy / math.comb(n, len(kept))
        return cls(n, np.arange(n), np.diff(entropies))

    @cached_property
    def interpolation(self) -> Float64[np.ndarray, "n j"]:
        """The matrix that takes the values at the knots to h_r for r = 0 ... n - 1."""
        hats = np.eye(len(self.counts))
        return np.stack([np.interp(np.arange(self.length), self.counts, hat) for hat in hats], axis=1)

    @cached_property
    def per_count(self) -> Float64[np.ndarray, " n"]:
        """h_r for r = 0 ... n - 1, in nats."""
        return self.interpolation @ self.values

    @cached_property
    def costs(self) -> StepCosts:
        """C(r, m) = m h_r in nats: exact for positions in random order."""
        return StepCosts.per_position(self.per_count)

    def part(self, sequences: slice) -> Self:
        """The profile of some of the sequences.

        Raises:
            ValueError: there are fewer than two, or the scores of single sequences are not known.
        """
        return self.from_scores(self.counts, self._known_scores[sequences], self.length)

    def per_sequence(self, counts: Counts) -> Float64[np.ndarray, " s"]:
        """What so many positions at each step cost each sequence, in nats: ``nelbo_of_counts`` is the mean.

        Raises:
            ValueError: the counts do not sum to the length, or the scores of single sequences are not known.
        """
        return self._known_scores @ (self._shares_of_counts(counts) @ self.interpolation)

    def gap_per_sequence(self, schedule: MaskSchedule, steps: int) -> Float64[np.ndarray, " s"]:
        """What K independent reverse steps cost each sequence more than continuous time, in nats: ``gap`` is the mean.

        Raises:
            ValueError: the scores of single sequences are not known.
        """
        return self._known_scores @ ((self._shares(schedule, steps) - 1) @ self.interpolation)

    def h(self, alpha: ArrayLike) -> Float64[np.ndarray, "..."]:
        """h(alpha) = sum over r of Binomial(n - 1, alpha)(r) h_r: nats per masked position, at each alpha."""
        return _binomial(self.length - 1, np.asarray(alpha, dtype=np.float64)) @ self.per_count

    def nelbo(self, schedule: MaskSchedule, steps: int | None = None) -> Estimate:
        """NELBO in nats per sequence of the K-step sampler with the independent reverse step; without steps, that of
        continuous time, which no schedule changes."""
        return self._estimate(np.ones(self.length) if steps is None else self._shares(schedule, steps))

    def gap(self, schedule: MaskSchedule, steps: int) -> Estimate:
        """What the NELBO of K steps exceeds that of continuous time by. Their errors largely cancel."""
        return self._estimate(self._shares(schedule, steps) - 1)

    def nelbo_of_counts(self, counts: Counts) -> Estimate:
        """NELBO of the sampler that reveals exactly n_k positions in random order at step k: sum of n_k h_{r_k}.

        Raises:
            ValueError: the counts do not sum to the length.
        """
        return self._estimate(self._shares_of_counts(counts))

    def gap_of_counts(self, counts: Counts) -> Estimate:
        """What that NELBO exceeds the one of continuous time by."""
        return self._estimate(self._shares_of_counts(counts) - 1)

    def best_counts(self, steps: int) -> Int64[np.ndarray, " k"]:
        """The counts of least NELBO: no schedule can do better. Fewer than K of them are positive where more steps do
        not help. Being chosen by the profile, they profit from its errors."""
        return self.costs.best_counts(steps)

    def optimal_schedule(self, steps: int) -> TabulatedSchedule:
        """The schedule with which the count Expected reveals ``best_counts(steps)`` of n positions."""
        return schedule_of_counts(self.best_counts(steps))

    def best_beta(self, steps: int, lowest: float = 0.05, highest: float = 20.0) -> BetaSchedule:
        """The Beta schedule of least ``nelbo(schedule, steps)``, its parameters within a range."""
        check_steps(steps)
        return best_beta(lambda parameters: self.nelbo_of_betas(parameters, steps), lowest, highest)

    def nelbo_of_betas(self, parameters: Float64[np.ndarray, "p 2"], steps: int) -> Float64[np.ndarray, " p"]:
        """NELBO of many Beta schedules (alpha, beta) at once, in nats per sequence, to nine digits or so."""
        arcs = beta_arcs(parameters, steps)
        return self.length * (np.diff(_alpha(arcs)) * self._curve(arcs[:, :-1])).sum(1)

    def best_beta_of_counts(
        self, steps: int, rounding: Rounding, lowest: float = 0.05, highest: float = 20.0
    ) -> BetaSchedule:
        """The Beta schedule whose counts have the least ``nelbo_of_counts``.

        Rounding removes the fluctuation of the independent reverse step, which matters once the steps are nearly as
        many as the positions: then another Beta is best.

        Args:
            steps: K.
            rounding: how shares become counts: ``divide`` of the sampler's count.
        """
        start = self.best_beta(steps, lowest, highest)
        return self.costs.best_beta(steps, rounding, start, lowest=lowest, highest=highest)

    def monotone(self) -> "LossProfile":
        """The profile made non-increasing by isotonic regression: what more context must do to an exact denoiser.

        Neighbours that violate the order are pooled, weighted by their inverse variances (equally, where a variance is
        zero). The covariance is that of the pooled means, taking the pools as given.
        """
        variances = self.covariance.diagonal()
        weights = 1 / variances if (variances > 0).all() else np.ones_like(variances)
        blocks = isotonic_regression(self.values, weights=weights, increasing=False).blocks
        pool = np.repeat(np.arange(len(blocks) - 1), np.diff(blocks))
        together = (pool[:, None] == pool) * weights
        pooling = together / together.sum(axis=1, keepdims=True)
        return LossProfile(self.length, self.counts, pooling @ self.values, pooling @ self.covariance @ pooling.T)

    def to_json(self, fingerprint: str | None = None) -> str:
        """The profile as JSON, with a fingerprint of the checkpoint it belongs to."""
        content = {"version": _VERSION, "fingerprint": fingerprint, "length": self.length}
        arrays = {name: getattr(self, name).tolist() for name in ("counts", "values", "covariance")}
        return to_json(content | arrays, indent=None)

    def save(self, path: Path, fingerprint: str | None = None) -> None:
        """Writes ``to_json`` to a file."""
        write_atomically(path, self.to_json(fingerprint))

    @classmethod
    def load(cls, path: Path, fingerprint: str | None = None) -> "LossProfile":
        """Reads what ``save`` wrote.

        Args:
            path: the file.
            fingerprint: what the profile must belong to; None for anything.

        Raises:
            UserError: the file cannot be read, is no profile, or belongs to another checkpoint.
        """
        try:
            content = from_json(path.read_text("utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the loss profile {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path} is no loss profile: it is not JSON; measure it again") from error
        if not isinstance(content, dict) or content.get("version") != _VERSION:
            raise UserError(f"{path} is no loss profile of version {_VERSION}; measure it again")
        if fingerprint is not None and content.get("fingerprint") != fingerprint:
            raise UserError(f"the loss profile {path} belongs to another checkpoint; measure it again")
        try:
            return cls(content["length"], content["counts"], content["values"], content["covariance"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no loss profile ({error}); measure it again") from error

    @property
    def _known_scores(self) -> Float64[np.ndarray, "s j"]:
        if self.scores is None:
            raise ValueError("LossProfile: the scores of single sequences are not known")
        return self.scores

    def _estimate(self, shares: Float64[np.ndarray, " n"]) -> Estimate:
        """The sum of shares_r h_r with its standard error."""
        slopes = shares @ self.interpolation
        return Estimate(float(slopes @ self.values), math.sqrt(max(float(slopes @ self.covariance @ slopes), 0.0)))

    def _shares(self, schedule: MaskSchedule, steps: int) -> Float64[np.ndarray, " n"]:
        """Expected number of positions that are revealed when r are, for each r, by the independent reverse step."""
        alphas = alphas_on_grid(schedule, steps)
        return self.length * (np.diff(alphas) @ _binomial(self.length - 1, alphas[:-1]))

    def _shares_of_counts(self, counts: Counts) -> Float64[np.ndarray, " n"]:
        numbers = np.asarray(counts)
        if (numbers < 0).any() or numbers.sum() != self.length:
            raise ValueError(f"LossProfile: the counts must sum to the length {self.length}, got {numbers.sum()}")
        revealed = np.cumsum(numbers) - numbers
        # A trailing empty step starts when all are revealed, where no h_r is needed.
        return np.bincount(revealed, numbers, minlength=self.length)[: self.length].astype(np.float64)

    @cached_property
    def _curve(self) -> CubicSpline:
        """h as a function of the arc (2/pi) arcsin(sqrt(alpha)), along which it is equally smooth everywhere: the
        binomial's standard deviation is 1 / (pi sqrt(n)) of the arc. The spline's spacing is a tenth of that."""
        arcs = np.linspace(0, 1, 65 + math.ceil(10 * math.pi * math.sqrt(self.length)))
        return CubicSpline(arcs, self.h(_alpha(arcs)))


def _alpha(arcs: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    return np.sin(math.pi / 2 * arcs) ** 2


def _binomial(n: int, alpha: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "... n+1"]:
    """Probabilities of Binomial(n, alpha) at 0 ... n, for each alpha."""
    r = np.arange(n + 1)
    choose = special.gammaln(n + 1) - special.gammaln(r + 1) - special.gammaln(n - r + 1)
    alpha = alpha[..., None]
    return np.exp(choose + special.xlogy(r, alpha) + special.xlog1py(n - r, -alpha))
