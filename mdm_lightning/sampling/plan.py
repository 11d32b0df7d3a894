"""A reveal plan: when each position of a batch is revealed, decided before anything is generated."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class RevealPlan:
    """The steps at which positions are revealed and masked again, for v visits of b sequences of length l.

    A position is revealed at ``reveal[0]``, masked again at ``remask[0]``, revealed at ``reveal[1]`` and so on; NEVER
    stands for what does not happen. Within a step, revealing and remasking are simultaneous.
    """

    reveal: Int64[Tensor, "v b l"]
    remask: Int64[Tensor, "v b l"]
    lengths: Int64[Tensor, " b"]
    """Number of steps that each sequence's plan takes, empty steps included."""

    @classmethod
    def once(
        cls, steps: Int64[Tensor, "b l"], generated: Bool[Tensor, "b l"], lengths: Int64[Tensor, " b"]
    ) -> "RevealPlan":
        """A plan that reveals each generated position once, at the given step."""
        reveal = steps.masked_fill(~generated, NEVER)[None]
        return cls(reveal, torch.full_like(reveal, NEVER), lengths)

    def then(self, following: "RevealPlan") -> "RevealPlan":
        """This plan, followed in each sequence by another one for other positions."""
        visits = max(len(self.reveal), len(following.reveal))

        def merge(first: Int64[Tensor, "v b l"], second: Int64[Tensor, "w b l"]) -> Int64[Tensor, "x b l"]:
            later = torch.where(second == NEVER, NEVER, second + self.lengths[:, None])
            return torch.minimum(_extend(first, visits), _extend(later, visits))

        return RevealPlan(
            merge(self.reveal, following.reveal),
            merge(self.remask, following.remask),
            self.lengths + following.lengths,
        )

    def quota(self) -> Int64[Tensor, "b k"]:
        """Number of positions revealed in each sequence at each step."""
        visit, sequence, position = (self.reveal != NEVER).nonzero(as_tuple=True)
        quota = torch.zeros(len(self.lengths), int(self.lengths.max()), dtype=torch.int64)
        step = self.reveal[visit, sequence, position]
        return quota.index_put_((sequence, step), torch.ones_like(step), accumulate=True)


def _extend(steps: Int64[Tensor, "v b l"], visits: int) -> Int64[Tensor, "x b l"]:
    """Adds visits that never happen."""
    return torch.cat([steps, steps.new_full((visits - len(steps), *steps.shape[1:]), NEVER)])
