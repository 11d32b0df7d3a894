"""`evaluation=mauve`: how far apart the distributions of generated and of held-out text are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.arguments import check, check_numbers, finite
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject, batches
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.cost import cost_rows
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.evaluation.generation.scorers import PreparedEncoder, Scorer, TextEncoder
from mdm_lightning.sampling.sampler import Sampler

SEQUENCES = 1000


@dataclass(frozen=True)
class Mauve:
    """MAUVE (Pillutla et al., 2021, arXiv:2102.01454) by its authors' library: texts are points, the hidden states of a
    language model, put into clusters; the value is the area under the curve of the divergences of both histograms from
    their mixtures, from 0 (disjoint) to 1 (equal).

    A value depends on the language model, the number of texts and the number of clusters: compare values of one
    protocol only. Beside it stands that of held-out text against as much other held-out text, which is what perfect
    samples would get.

    Args:
        sampler: how text is generated.
        scorer: the language model; an n-gram model has no hidden states.
        sequences: texts on each side, at most half of the validation sequences; None for 1,000.
        clusters: how many; None for a tenth of the texts.
        scaling: c of the curve, in exp(-c divergence).
        batch_size: sequences per batch.

    Raises:
        ValueError: a number is out of range.
    """

    judging: ClassVar[tuple[str, ...]] = ("mauve",)
    sampler: Sampler
    scorer: Scorer
    sequences: int | None = None
    clusters: int | None = None
    scaling: float = 5.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, sequences=2, clusters=2, batch_size=1)
        check(self, "scaling", finite(self.scaling) and self.scaling > 0, "positive and finite")

    def prepare(self, subject: Subject) -> PreparedEncoder:
        """The language model.

        Raises:
            NotApplicable: the data are prompts with responses, or not known.
            UserError: the library or the language model cannot be had, or there is too little held-out text.
        """
        if subject.prompted:
            raise NotApplicable("evaluation=mauve is for text; for tasks choose evaluation=task")
        if not isinstance(self.scorer, TextEncoder):
            raise UserError(
                f"evaluation=mauve compares hidden states, and the scorer ({self.scorer.protocol}) has none: choose "
                "scorer=hf, or scorer=run scorer.ckpt=... (python train.py model=ar trains one)"
            )
        self._size(subject)
        _library()
        encoder = self.scorer
        return subject.once((self.scorer, "encoder"), lambda: encoder.encoder(subject))

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: as ``prepare``.
        """
        encoder, size = self.prepare(subject), self._size(subject)
        generated = generate(subject, self.sampler, size, self.batch_size)
        settings = {"text": "generated", **describe_sampler(self.sampler)}
        yield from cost_rows(generated, settings)
        held_out, other = (
            subject.data.validation.__getitems__(range(start, start + size))["tokens"].numpy() for start in (0, size)
        )
        points = [self._points(subject, encoder, text) for text in (held_out, generated.tokens.numpy(), other)]
        clusters = self.clusters or max(2, size // 10)
        protocol = {"scorer": self.scorer.protocol, "clusters": clusters, "scaling": self.scaling}
        reference = {"text": "validation", "data": subject.data.name}
        for described, compared in zip((settings, reference), points[1:], strict=True):
            value = self._value(subject, points[0], compared, clusters)
            yield Row("mauve", value, None, size, {**described, **protocol}, "higher")

    def _size(self, subject: Subject) -> int:
        half = len(subject.data.validation) // 2
        size = min(self.sequences or SEQUENCES, half)
        if size < max(2, self.clusters or 2):
            raise UserError(
                f"evaluation=mauve puts half of the validation sequences, {half}, into {self.clusters or 2} clusters: "
                "there are too few of them"
            )
        return size

    def _points(
        self, subject: Subject, encoder: PreparedEncoder, tokens: Int64[np.ndarray, "s l"]
    ) -> Float64[np.ndarray, "s h"]:
        def encode(unit: range) -> Float64[np.ndarray, "b h"]:
            batch = tokens[unit.start : unit.stop]
            return encoder(batch, [subject.tokenizer.decode(row, skip_special=False) for row in batch])

        return np.concatenate(subject.processes.map(encode, batches(len(tokens), self.batch_size), "encoding"))

    def _value(
        self, subject: Subject, one: Float64[np.ndarray, "s h"], two: Float64[np.ndarray, "s h"], clusters: int
    ) -> float:
        compute_mauve, one_thread = _library()

        def compute(_: int) -> float:
            with one_thread():  # sums of several threads, and so the clusters, depend on how many there are
                found = compute_mauve(
                    p_features=one, q_features=two, num_buckets=clusters, mauve_scaling_factor=self.scaling,
                    seed=subject.seed, use_float64=True,
                )  # fmt: skip
            # Of equal histograms the library's curve is a single point, to which it gives a smaller area.
            return 1.0 if np.array_equal(found.p_hist, found.q_hist) else float(found.mauve)

        return subject.processes.map(compute, [0], "clustering")[0]  # by one process: all have its value


def _library() -> tuple[Any, Any]:
    """The library's function, and a context in which its clustering has one thread."""
    try:
        import faiss  # pyright: ignore[reportMissingImports]
        from mauve import compute_mauve  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('evaluation=mauve needs a library: pip install "mdm-lightning[mauve]"') from error

    @contextmanager
    def one_thread() -> Iterator[None]:
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            yield
        finally:
            faiss.omp_set_num_threads(threads)

    return compute_mauve, one_thread
