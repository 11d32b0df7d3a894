"""What the front door returns: objects that read well when printed, and as tables in a notebook."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.figure import Figure
from torch import Tensor

from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, MaskSchedule
from mdm_lightning.evaluation.advice.checks import Checked
from mdm_lightning.evaluation.advice.figures import grid_figure, race_figure
from mdm_lightning.evaluation.advice.predicted import Advice, advice_heading, advice_table
from mdm_lightning.evaluation.advice.verdicts import verdict
from mdm_lightning.report.comparison.build import comparison_text, write_comparison
from mdm_lightning.report.comparison.comparison import Compared, Comparison, Difference
from mdm_lightning.report.comparison.tables import curves_figure, tables
from mdm_lightning.report.html import html_table
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class Texts:
    """Generated texts; a sequence of strings.

    Attributes:
        texts: prompt, completion and suffix of each, without special tokens.
        tokens: their ids `(n, l)`.
        nfe: network evaluations that each took `(n,)`.
    """

    texts: tuple[str, ...]
    tokens: Int64[Tensor, "n l"]
    nfe: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __str__(self) -> str:
        if len(self) == 1:
            return self.texts[0]
        return "\n\n".join(f"--- {number} ---\n{text}" for number, text in enumerate(self.texts))

    def __repr__(self) -> str:
        n, length = self.tokens.shape
        return f"Texts({n} of {length} tokens, {float(self.nfe.double().mean()):.1f} network evaluations each)"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{n}</td><td><pre>{html.escape(t)}</pre></td></tr>" for n, t in enumerate(self.texts))
        return f"<table><tr><th></th><th>text</th></tr>{rows}</table>"


@dataclass(frozen=True)
class TextNelbo:
    """Upper bounds on the negative log-likelihood of n texts.

    Attributes:
        nats: of each text `(n,)`.
        errors: Monte-Carlo standard errors of these; 0 where the bound is exact.
        tokens: number of tokens of each.
    """

    nats: Float64[np.ndarray, " n"]
    errors: Float64[np.ndarray, " n"]
    tokens: Int64[np.ndarray, " n"]

    @property
    def value(self) -> float:
        """Nats per token, over all texts."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def stderr(self) -> float:
        """Standard error of ``value`` for these texts: what other random masks would change."""
        return float(np.sqrt((self.errors**2).sum()) / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp of ``value``."""
        return float(np.exp(self.value))

    def __str__(self) -> str:
        number = f"{self.value:.4f} ± {self.stderr:.4f} nats per token"
        return f"{number} (upper bound; {len(self.nats)} texts, {self.tokens.sum():,} tokens)"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "<tr><th>text</th><th>tokens</th><th>nats per token</th><th>± (masks)</th></tr>"
        rows = "".join(
            f"<tr><td>{n}</td><td>{tokens:,}</td><td>{nats / tokens:.4f}</td><td>{error / tokens:.4f}</td></tr>"
            for n, (nats, error, tokens) in enumerate(zip(self.nats, self.errors, self.tokens, strict=True))
        )
        return f"<table>{head}{rows}</table><p>{self}</p>"


@dataclass(frozen=True)
class Advices:
    """The predicted best schedule per step budget.

    Attributes:
        profile: the loss profile that it is read from.
        sampler: whose count it is for.
        found: one advice per step budget.
    """

    profile: LossProfile
    sampler: Sampler
    found: Sequence[Advice]

    def schedule(self, steps: int) -> BetaSchedule:
        """The best Beta schedule for a step budget.

        Raises:
            KeyError: it was not asked for.
        """
        return {advice.steps: advice.best for advice in self.found}[steps]

    def plot(self) -> Figure:
        """The loss profile, and the steps that each schedule takes along it."""
        return grid_figure(self.profile, {advice.steps: advice.best for advice in self.found})

    def __str__(self) -> str:
        header, rows = advice_table(self.found, self.profile.length)
        table = [header, *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in table]
        return "\n".join([advice_heading(self.found), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, rows = advice_table(self.found, self.profile.length)
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<p>{html.escape(advice_heading(self.found))}</p><table><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class ComparedModels:
    """Models beside each other; the others are compared with the first.

    Attributes:
        comparison: the numbers.
    """

    comparison: Comparison

    @property
    def models(self) -> Sequence[Compared]:
        """What was measured of each model."""
        return self.comparison.models

    @property
    def differences(self) -> list[Difference]:
        """NELBO of each model but the first minus the first's, in nats per token (bits per byte where tokens differ):
        negative is better."""
        return [self.comparison.difference(model) for model in self.models[1:]]

    def plot(self) -> Figure | None:
        """The curves of training and validation; None if no run has kept any."""
        return curves_figure(self.comparison)

    def write(self, folder: str | Path) -> Path:
        """Writes Markdown, a page and the figure into a folder; returns the page's path."""
        return write_comparison(self.comparison, Path(folder))

    def __str__(self) -> str:
        return comparison_text(self.comparison)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(map(html_table, tables(self.comparison)))


@dataclass(frozen=True)
class CheckedAdvice:
    """The best schedule per step budget, after a check on other instances.

    Attributes:
        found: per step budget, the proposals, their race and its confirmation.
    """

    found: Sequence[Checked]

    def sampler(self, steps: int) -> Sampler:
        """What to use for a step budget.

        Raises:
            KeyError: it was not asked for.
        """
        return {checked.steps: checked.use.sampler for checked in self.found}[steps]

    def schedule(self, steps: int) -> MaskSchedule:
        """Its schedule; what counts it gives depends on the sampler's rounding, too.

        Raises:
            KeyError: it was not asked for.
        """
        return self.sampler(steps).schedule

    def plot(self) -> Figure:
        """How the proposals fared in the race."""
        return race_figure(self.found)

    def __str__(self) -> str:
        return "\n".join(verdict(checked) for checked in self.found)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(f"<p>{html.escape(verdict(checked))}</p>" for checked in self.found)
