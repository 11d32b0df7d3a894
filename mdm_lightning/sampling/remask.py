"""Counts that mask revealed positions again (ReMDM, Wang et al., 2025)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check_shares
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.sampling.count import PlannedCount, alpha_grid
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.plan import NEVER, RevealPlan


class Remasking(PlannedCount):
    """The remasking reverse step: from s to t a revealed position is masked again with probability sigma, and a masked
    one revealed with probability (alpha_t - (1 - sigma) alpha_s) / (1 - alpha_s) (ReMDM).

    The probability of being revealed at time t stays alpha_t whatever sigma. Prompts are never masked. With sigma = 0
    it is Binomial, draw for draw.
    """

    remasks: ClassVar[bool] = True

    @abstractmethod
    def sigma(self, largest: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """Remasking probability of each step, given the largest admissible one, min(1, (1 - alpha_t) / alpha_s)."""

    def plan(
        self,
        schedule: MaskSchedule,
        steps: Int64[Tensor, " b"],
        generated: Bool[Tensor, "b l"],
        noise: SequenceNoise,
    ) -> RevealPlan:
        reveal_hazard, remask_hazard = self._hazards(alpha_grid(schedule, steps))
        clocks = _Clocks(generated, noise)
        for step in range(int(steps.max())):
            clocks.tick(step, reveal_hazard[:, step, None], remask_hazard[:, step, None])
        return RevealPlan(clocks.reveal, clocks.remask, steps)

    def _hazards(self, alpha: Float64[Tensor, "b k"]) -> tuple[Float64[Tensor, "b s"], Float64[Tensor, "b s"]]:
        """-log of the probabilities of staying masked and of staying revealed at each step."""
        now, following = alpha[:, :-1], alpha[:, 1:]
        # At alpha = 0 nothing is revealed and any value will do; 0 / 0 would not.
        sigma = self.sigma(((1 - following) / now.clamp(min=1e-300)).clamp(max=1))
        reveal = (following - (1 - sigma) * now) / (1 - now)
        # Beyond the end of a shorter sequence alpha stays at 1, nothing is masked, and the formula is 0 / 0.
        reveal = torch.where(now == 1, 0, reveal).clamp(0, 1)
        return -torch.log1p(-reveal), -torch.log1p(-sigma)


class _Clocks:
    """One exponential clock per position, set anew whenever the position is revealed or masked."""

    def __init__(self, generated: Bool[Tensor, "b l"], noise: SequenceNoise) -> None:
        self.noise = noise
        self.generated = generated
        self.masked = generated.clone()
        self.visit = torch.zeros_like(generated, dtype=torch.int64)
        empty = torch.zeros(0, *generated.shape, dtype=torch.int64)
        self.reveal: Int64[Tensor, "v b l"] = empty
        self.remask: Int64[Tensor, "v b l"] = empty
        self.until_reveal: Float64[Tensor, "v b l"] = empty.double()
        self.until_remask: Float64[Tensor, "v b l"] = empty.double()
        self._add_visit()
        self.left = self.until_reveal[0].clone()

    def _add_visit(self) -> None:
        length, visit = self.generated.shape[1], len(self.reveal)
        never = torch.full_like(self.visit, NEVER)[None]
        self.reveal = torch.cat([self.reveal, never])
        self.remask = torch.cat([self.remask, never])
        until_reveal = -torch.log1p(-self.noise.reveal_times(length, visit))[None]
        until_remask = -torch.log1p(-self.noise.remask_times(length, visit))[None]
        self.until_reveal = torch.cat([self.until_reveal, until_reveal])
        self.until_remask = torch.cat([self.until_remask, until_remask])

    def tick(self, step: int, reveal_hazard: Float64[Tensor, "b 1"], remask_hazard: Float64[Tensor, "b 1"]) -> None:
        """Runs all clocks through one step, and records which of them ring."""
        self.left -= torch.where(self.masked, reveal_hazard, remask_hazard)
        rings = (self.left < 0) & self.generated
        revealed = (rings & self.masked).nonzero(as_tuple=True)
        remasked = (rings & ~self.masked).nonzero(as_tuple=True)
        self.masked ^= rings
        visit = self.visit[revealed]
        self.reveal[visit, *revealed] = step
        self.left[revealed] = self.until_remask[visit, *revealed]
        visit = self.visit[remasked]
        self.remask[visit, *remasked] = step
        self.visit[remasked] += 1
        if int(self.visit.max()) == len(self.reveal):
            self._add_visit()
        self.left[remasked] = self.until_reveal[visit + 1, *remasked]


@dataclass(frozen=True)
class RemaskCapped(Remasking):
    """sigma = min(eta, largest) (ReMDM-cap).

    Args:
        eta: largest remasking probability per step.

    Raises:
        ValueError: eta is no probability.
    """

    eta: float = 0.008

    def __post_init__(self) -> None:
        check_shares(self, "eta")

    def sigma(self, largest: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        return largest.clamp(max=self.eta)


@dataclass(frozen=True)
class RemaskRescaled(Remasking):
    """sigma = eta times the largest (ReMDM-rescale).

    Args:
        eta: fraction of the largest admissible remasking probability.

    Raises:
        ValueError: eta is outside [0, 1].
    """

    eta: float = 0.015

    def __post_init__(self) -> None:
        check_shares(self, "eta")

    def sigma(self, largest: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        return self.eta * largest
