"""`evaluation=frontier`: how fluent generated text is at every diversity, and at that of held-out text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.evaluation.base import NotApplicable, Row, Settings, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.figures import frontier_figure
from mdm_lightning.evaluation.generation.cost import cost_rows
from mdm_lightning.evaluation.generation.generate import SEQUENCES, generate
from mdm_lightning.evaluation.generation.matched_entropy import ENTROPY, NATS, POINT, Curve
from mdm_lightning.evaluation.generation.quality import judge
from mdm_lightning.evaluation.generation.scorers import PreparedScorer, Scorer
from mdm_lightning.evaluation.statistics import standard_error
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.tables import markdown_table

MATCHED = "scorer_nats_at_entropy"


class _Texts(NamedTuple):
    """What was measured of each text."""

    nats: Float64[np.ndarray, " s"]
    entropy: Float64[np.ndarray, " s"]


@dataclass(frozen=True)
class Frontier:
    """The generative frontier of a sampler: scorer's nats per token against unigram entropy, over temperatures or top-p
    (Pynadath, Shi & Zhang, 2604.02718), and its height at one entropy, by which samplers can be compared.

    Every point is made of the same sequences with the same noise, and so are those of other samplers: differences are
    paired. Samplers whose entropies never meet cannot be compared, and the height is then NaN.

    Args:
        sampler: how text is generated; its temperature and top-p are replaced.
        scorer: model that says how likely the text is.
        temperatures: one for each point, or one for all.
        top_p: likewise; None for the sampler's own.
        entropy: where to compare, in nats; None for the entropy of held-out text.
        sequences: texts per point; None for 64.
        batch_size: sequences per batch.

    Raises:
        ValueError: a number is out of range, or there are fewer than two points.
    """

    judging: ClassVar[Sequence[str]] = (MATCHED,)
    sampler: Sampler
    scorer: Scorer
    temperatures: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    top_p: Sequence[float] | None = None
    entropy: float | None = None
    sequences: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, sequences=2, batch_size=1, entropy=0)
        points = max(len(self.temperatures), len(self.top_p or ()))
        fit = points > 1 and {len(self.temperatures), len(self.top_p or (1,))} <= {1, points}
        check(self, "temperatures", fit, "two or more, or one for each top_p, or a single one with several of top_p")
        check(self, "temperatures", all(t > 0 for t in self.temperatures), "positive")
        check(self, "top_p", all(0 < p <= 1 for p in self.top_p or ()), "in (0, 1]")
        several = "temperatures" if len(self.temperatures) > 1 else "top_p"
        check(self, several, len(self.samplers) == points, "different for every point")

    @property
    def samplers(self) -> dict[str, Sampler]:
        """The sampler of every point, by what is special about it."""
        points = max(len(self.temperatures), len(self.top_p or ()))
        temperatures = list(self.temperatures) * (points if len(self.temperatures) == 1 else 1)
        nuclei = list(self.top_p or [self.sampler.tokens.top_p])
        nuclei *= points if len(nuclei) == 1 else 1
        found = {}
        for temperature, top_p in zip(temperatures, nuclei, strict=True):
            name = f"temperature {temperature:g}" + (f", top-p {top_p:g}" if self.top_p else "")
            tokens = replace(self.sampler.tokens, temperature=temperature, top_p=top_p)
            found[name] = replace(self.sampler, tokens=tokens)
        return found

    def prepare(self, subject: Subject) -> PreparedScorer:
        """The scorer, with the text that it is fitted on.

        Raises:
            NotApplicable: the data are prompts with responses, or not known.
            UserError: the scorer cannot be had, or there is no held-out text.
        """
        if subject.prompted:
            raise NotApplicable("evaluation=frontier is for text; for tasks choose evaluation=task")
        subject.validation_size(1)
        return subject.once(self.scorer, lambda: self.scorer.prepare(subject))

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: as ``prepare``.
        """
        scorer, size = self.prepare(subject), self.sequences or SEQUENCES
        protocol = {"scorer": self.scorer.protocol, "average": "over tokens"}
        held_out = self._held_out(subject, scorer, size)
        texts: dict[str, _Texts] = {}
        for point, sampler in self.samplers.items():
            generated = generate(subject, sampler, size, self.batch_size, description=f"sampling at {point}")
            settings = {"text": "generated", POINT: point, **describe_sampler(sampler)}
            yield from cost_rows(generated, settings)
            texts[point] = self._measure(subject, scorer, generated.tokens.numpy())
            yield from _rows(texts[point], {**settings, **protocol})
        yield from _rows(held_out, {"text": "validation", "data": subject.data.name, **protocol})
        points = texts.values()
        curve = Curve(list(texts), np.stack([p.entropy for p in points]), np.stack([p.nats for p in points]))
        of_text = float(held_out.entropy.mean()), float(held_out.nats.mean())
        entropy = of_text[0] if self.entropy is None else self.entropy
        row = self._height(curve.at(entropy), entropy, size)
        yield row
        subject.outputs.figure("frontier", frontier_figure({"generated": curve}, of_text, entropy))
        subject.outputs.text("frontier", _text(curve, row, of_text), markdown=True)

    def _held_out(self, subject: Subject, scorer: PreparedScorer, size: int) -> _Texts:
        indices = range(subject.first, subject.first + subject.validation_size(size))
        return self._measure(subject, scorer, subject.data.validation.__getitems__(indices)["tokens"].numpy())

    def _measure(self, subject: Subject, scorer: PreparedScorer, tokens: Int64[np.ndarray, "s l"]) -> _Texts:
        measures, scores = judge(subject, self.scorer, scorer, tokens, self.batch_size)
        return _Texts(scores.per_token(), measures[ENTROPY])

    def _height(self, at: Float64[np.ndarray, " s"] | None, entropy: float, size: int) -> Row:
        settings = {k: v for k, v in describe_sampler(self.sampler).items() if k not in ("temperature", "top_p")}
        settings |= {"entropy": entropy, "at": "held-out text's" if self.entropy is None else "a given one"}
        settings |= {"scorer": self.scorer.protocol}
        if at is None:
            return Row(MATCHED, math.nan, None, size, settings, "lower")
        return Row.of_scores(MATCHED, at, settings, "lower")


def _rows(texts: _Texts, settings: Settings) -> Iterator[Row]:
    """Neither judges by itself: which way is better depends on the other."""
    yield Row.of_scores(NATS, texts.nats, settings)
    yield Row.of_scores(ENTROPY, texts.entropy, settings)


def _text(curve: Curve, height: Row, held_out: tuple[float, float]) -> str:
    """The curve as a table, and its height at the entropy in words."""
    header = ["point", "unigram entropy (nats)", "scorer (nats/token)"]
    measured = zip(curve.points, curve.entropy, curve.nats, strict=True)
    rows = [
        [point, *(f"{v.mean():.3f} ± {standard_error(v.tolist()):.3f}" for v in values)] for point, *values in measured
    ]
    rows.append(["held-out text", *(f"{value:.3f}" for value in held_out)])
    low, high = curve.reach
    where = f"{height.settings['entropy']:.3f} nats, {height.settings['at']}"
    if height.scores is None:
        end = "higher" if float(height.settings["entropy"]) > high else "lower"
        words = (
            f"The curve does not reach an entropy of {where}: it goes from {low:.3f} to {high:.3f}. Try {end} "
            "evaluation.frontier.temperatures, or another evaluation.frontier.entropy."
        )
    else:
        words = f"At an entropy of {where}: {height.value:.3f} ± {height.stderr:.3f} nats per token (n = {height.n})."
    return f"{markdown_table(header, rows)}\n\n{words}"
