"""Where the tokens of a trajectory come from: drawn from the predictions, or given (``walk.py``)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.eos import Ending
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.tokens import TokenSampler

LOGITS_AT_ONCE = 2**24  # 128 MiB in float64, of which a draw needs about four times that


@dataclass(frozen=True)
class Predictions:
    """The predictions of one step, of which the logits are made a chunk of rows at a time.

    Attributes:
        denoiser: whose head makes them.
        hidden: of the step's m rows, for each of the contexts that guidance wants.
        guidance: combines them.
        tokens: bans some.
    """

    denoiser: Denoiser
    hidden: Float[Tensor, "g m h"]
    guidance: Guidance
    tokens: TokenSampler

    def chunks(self) -> list[slice]:
        """The rows, in pieces whose logits fit into memory."""
        rows = max(1, LOGITS_AT_ONCE // self.denoiser.vocab_size)
        return [slice(start, start + rows) for start in range(0, self.hidden.shape[1], rows)]

    def logits(self, chunk: slice) -> Float[Tensor, "c d"]:
        """Guided logits, banned tokens at -inf."""
        logits = self.denoiser.head(self.hidden[:, chunk].flatten(0, 1)).unflatten(0, (self.guidance.passes, -1))
        return self.tokens.suppress(self.guidance.combine(logits))


class TokenSource(ABC):
    """Where the tokens of a trajectory come from."""

    @abstractmethod
    def decide(
        self, canvas: Canvas, work: Work, chunk: slice, logits: Float[Tensor, "c d"]
    ) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        """The tokens that ``work.rows[chunk]`` are revealed as if they are chosen, and those that an order looks at."""

    @abstractmethod
    def reveal(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions, observed: Float64[Tensor, "s m"]
    ) -> None:
        """Told which of ``work.rows`` were chosen, before the canvas is changed.

        Args:
            observed: what the choice was made by: nothing, or first the priority of each position.
        """

    @property
    def ending(self) -> Ending | None:
        """When a text ends early; by default never."""
        return None


@dataclass(frozen=True)
class Drawn(TokenSource):
    """Tokens drawn from the predictions: sampling."""

    tokens: TokenSampler
    early_end: Ending | None = None

    @property
    def ending(self) -> Ending | None:
        return self.early_end

    def decide(
        self, canvas: Canvas, work: Work, chunk: slice, logits: Float[Tensor, "c d"]
    ) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        drawn = self.tokens.draw(logits, work.quantiles[chunk])
        canvas.watch(work.rows[chunk], logits.gather(1, drawn[:, None]).squeeze(1), work.step)
        return drawn, drawn

    def reveal(
        self, work: Work, chosen: Bool[Tensor, " m"], predictions: Predictions, observed: Float64[Tensor, "s m"]
    ) -> None:
        """Nothing is kept of it."""
