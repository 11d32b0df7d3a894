"""A trained model in a notebook: load it, sample from it, score text with it, ask which schedule to use."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mdm_lightning.api.results import Advices, CheckedAdvice, ComparedModels, TextNelbo, Texts
from mdm_lightning.checkpoint.load import Loaded
from mdm_lightning.checkpoint.load import load as load_checkpoint
from mdm_lightning.data.source import PreparedData, digest
from mdm_lightning.data.text.packing import InMemory
from mdm_lightning.data.tokenizer.context import encode_after
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.diffusion.fitting import Fitting
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.advise import Advise
from mdm_lightning.evaluation.advice.checks import ByLikelihood, ByTask
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import NoData, Subject
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.evaluation.generation.samples import text_canvas
from mdm_lightning.evaluation.likelihood.conditional import ConditionalLikelihood, windows
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.report.comparison.comparison import (
    Candidate,
    compare_candidates,
    run_name,
    short_names,
    text_of,
)
from mdm_lightning.sampling.order import RevealOrder
from mdm_lightning.sampling.presets import mdlm_ancestral
from mdm_lightning.sampling.sampler import Sampler


def load(
    name: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    mask_id: int | None = None,
    shifted: bool | None = None,
    block_size: int | None = None,
    autoregressive: bool | None = None,
) -> "Model":
    """A trained model, in evaluation mode.

    Args:
        name: a run folder of ``train.py``, ``last`` for the newest one below ``outputs``, a ``.ckpt`` file, or a
            published model: a folder, or ``owner/name`` on the hub.
        tokenizer: for published weights that bring none along.
        device: where to put it; by default a GPU if there is one.
        dtype: of the weights; by default float32, which published models of many billion weights hardly fit in.
        revision: of a model on the hub.
        mask_id: which id is MASK, of a published model that does not say it; likewise:
        shifted: whether its output i - 1 predicts position i,
        block_size: the positions per block of its block-causal attention,
        autoregressive: and whether it is an autoregressive model, read as what a masked diffusion model begins as.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    unstated = Unstated(mask_id, shifted, block_size, autoregressive)
    return Model(
        load_checkpoint(name, tokenizer=tokenizer, device=device, dtype=dtype, revision=revision, unstated=unstated)
    )


def compare(
    models: Sequence["Model"],
    texts: Iterable[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    sequences: int | None = None,
    draws: int = 1,
    batch_size: int = 64,
    seed: int = 0,
) -> ComparedModels:
    """Measures the likelihood of models on the same sequences with the same masks, so that differences are paired.

    Models whose tokens differ are compared by bits per byte, on the validation text that their runs share.

    Args:
        models: two or more.
        texts: joined with EOS and cut into sequences; by default each run's own validation data.
        names: what to call the models; by default what they were loaded by.
        sequences: how many; None for all.
        draws: masks per sequence.
        batch_size: sequences per forward pass.
        seed: of the masks.

    Raises:
        NoData: no texts are given and a model's data are not known.
        UserError: there are not two models, or their data do not go together.
    """
    given = None if texts is None else list(texts)
    loaded = [model._loaded for model in models]
    called = names or short_names([each.name if each.run is None else run_name(each.run) for each in loaded])
    candidates = []
    for name, model, each in zip(called, models, loaded, strict=True):
        own = None if given is not None or each.run is None else text_of(each.run.config["data"])
        candidates.append(Candidate(name, model._subject(given, seed=seed), own, each.run))
    likelihood = Likelihood(Fitting(StratifiedTimes()), draws, batch_size, sequences)
    return ComparedModels(compare_candidates(candidates, likelihood))


class Model:
    """A denoiser with its tokenizer.

    Everything random is a function of the ``seed`` that a method is given. Progress bars appear in notebooks and on
    terminals.

    Attributes:
        denoiser: the network, in evaluation mode.
        tokenizer: the one that it was trained with.
        length: positions of the sequences that it was trained on, l; at most 1,024 where that is not known.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.denoiser: Denoiser = loaded.denoiser
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.length: int = loaded.length

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.denoiser.parameters())
        return (
            f"Model({self._loaded.name}: {type(self.denoiser).__name__}, {parameters / 1e6:,.1f}M parameters, "
            f"vocabulary {self.tokenizer.vocab_size:,}, sequences of {self.length} tokens, {self._loaded.device})"
        )

    def sample(
        self,
        prompt: str = "",
        suffix: str = "",
        *,
        n: int = 1,
        steps: int | None = None,
        sampler: Sampler | None = None,
        schedule: MaskSchedule | None = None,
        length: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> Texts:
        """Generates text: unconditional, after a prompt, or between a prompt and a suffix.

        Args:
            prompt: text at the beginning; spaces at its end are left to what follows.
            suffix: text at the end.
            n: number of texts.
            steps: step budget K; by default the sampler's.
            sampler: by default MDLM's ancestral sampler (``mdm.samplers`` has others).
            schedule: mask schedule; by default the sampler's.
            length: tokens per text, prompt and suffix included; by default the model's.
            batch_size: texts that are generated at once.
            seed: of the noise. Text i is the same whatever ``n`` and ``batch_size``.

        Raises:
            UserError: prompt and suffix leave no room, or cannot be spelled.
            ValueError: ``n`` or ``steps`` is not positive.
        """
        if n < 1:
            raise ValueError(f"sample: n must be at least 1, got {n}")
        chosen = sampler or mdlm_ancestral()
        chosen = replace(
            chosen,
            schedule=schedule or chosen.schedule,
            steps=chosen.steps if steps is None else steps,
        )
        subject = self._subject(seed=seed)
        if (length or self.length) > self.denoiser.length:
            raise UserError(f"length={length} is beyond the model's {self.denoiser.length}")
        canvas = text_canvas(self.tokenizer, length or self.length, prompt, suffix)
        generated = generate(subject, chosen, n, batch_size, lambda unit: canvas.expand(len(unit), -1))
        texts = tuple(self.tokenizer.decode(row) for row in generated.tokens)
        return Texts(texts, generated.tokens, generated.sequence_nfe)

    def nelbo(self, texts: str | Iterable[str], *, draws: int = 128, batch_size: int = 16, seed: int = 0) -> TextNelbo:
        """An upper bound on the negative log-likelihood of texts, each by itself.

        Text beyond the model's length is scored in pieces of half that length, each given what comes before it.

        Args:
            texts: one or several.
            draws: random masks per piece, whose error the result states; a text of so few tokens that all its masks
                can be gone through in as many forward passes is scored exactly.
            batch_size: masked sequences per forward pass.
            seed: of the masks.

        Raises:
            ValueError: there is no text, or one without tokens.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        ids = self.tokenizer.encode_batch(listed)
        if not ids or not all(ids):
            raise ValueError("nelbo: give at least one text, and none without tokens")
        pieces = [windows([], text, self.length, 1000 * number) for number, text in enumerate(ids)]
        requests = [piece for parts in pieces for piece in parts]
        bounds = iter(ConditionalLikelihood(draws, batch_size)(self._subject(seed=seed), requests))
        per_text = [[next(bounds) for _ in parts] for parts in pieces]
        return TextNelbo(
            nats=np.array([sum(bound.nats for bound in parts) for parts in per_text]),
            errors=np.array([sum(bound.stderr**2 for bound in parts) ** 0.5 for parts in per_text]),
            tokens=np.array([len(text) for text in ids]),
        )

    def profile(
        self,
        texts: Iterable[str] | None = None,
        *,
        knots: int = 25,
        sequences: int | None = 128,
        batch_size: int = 64,
        seed: int = 0,
    ) -> LossProfile:
        """The loss profile h_r: cross-entropy at a masked position, in nats, with r of the positions revealed.

        Args:
            texts: joined with EOS and cut into sequences of the model's length; by default the validation data of the
                run.
            knots: numbers r at which to measure.
            sequences: how many; None for all.

        Raises:
            NoData: no texts are given and the model's data are not known.
            UserError: there are not two whole sequences.
        """
        measure = Profile(knots=knots, sequences=sequences, batch_size=batch_size).measure
        return measure(self._subject(texts, seed=seed))[0]

    def advise(
        self,
        steps: Sequence[int],
        texts: Iterable[str] | None = None,
        *,
        sampler: Sampler | None = None,
        orders: Sequence[RevealOrder | Sampler] = (),
        knots: int = 33,
        sequences: int | None = 256,
        race: Race | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> Advices | CheckedAdvice:
        """Which order and schedule to sample with in so many steps.

        For positions in random order it is predicted from the loss profile, and nothing is generated: a theorem
        (``docs/theory.md``). For other orders, and on a task's data, what profiles propose is checked in a race on
        other validation sequences, by the task's rule or by the sampler's own likelihood: one race for all orders.

        Args:
            steps: step budgets K.
            texts: as for ``profile``.
            sampler: whose order, count and temperature are meant: MDLM's ancestral sampler by default, exact numbers
                of positions with ``mdm.samplers.expected_random()``, an order that looks at the predictions with
                ``mdm.samplers.expected_confidence()``.
            orders: to compare with the sampler's own: orders, with which it is otherwise the same, or whole samplers.
            knots: numbers of revealed positions at which to measure.
            sequences: for the profile; None for all, which leaves none for a race.
            race: its rules, where one is needed.

        Raises:
            NoData, UserError: as ``profile``; or there is nothing to check advice by, as for greedy sampling of text.
            NotApplicable: no profile predicts such a sampler.
        """
        chosen = sampler or mdlm_ancestral()
        subject = self._subject(texts, seed=seed)
        evaluation = Advise(
            Profile(knots=knots, sequences=sequences, batch_size=batch_size),
            chosen,
            tuple(steps),
            Paths(sequences=sequences, batch_size=batch_size),
            race or Race(),
            ByTask(batch_size),
            ByLikelihood(batch_size),
            tuple(orders),
        )
        subject.task = subject.data.task
        found = evaluation.find(subject)
        if found.checked:
            return CheckedAdvice(tuple(found.checked))
        profile = found.costs[0].profile
        if profile is None or found.unchecked:
            raise UserError(
                "nothing can check advice for a greedy sampler of text: give it tokens=mdm.samplers.TokenSampler()"
            )
        return Advices(profile, chosen, tuple(found.predicted))

    def _subject(self, texts: Iterable[str] | None = None, *, seed: int) -> Subject:
        """What evaluations measure: this model on given texts, or on the data that it comes with."""
        loaded = self._loaded

        def prepare() -> PreparedData:
            if texts is not None:
                return self._pack(list(texts))
            if loaded.prepare is None:
                raise NoData(f"what {loaded.name} was trained on is not known: give texts")
            return loaded.prepare()

        return Subject(
            denoiser=self.denoiser,
            tokenizer=self.tokenizer,
            length=self.length,
            prepare=prepare,
            name=loaded.name,
            fingerprint=loaded.fingerprint,
            device=loaded.device,
            seed=seed,
            processes=Processes(progress=True),
        )

    def _pack(self, texts: Sequence[str]) -> PreparedData:
        """Texts joined with EOS and cut into sequences of the model's length."""
        end = self.tokenizer.eos_id
        stream = [id_ for ids in encode_after(self.tokenizer, [""] * len(texts), texts) for id_ in (*ids, end)]
        size = len(stream) // self.length
        if size < 2:
            raise UserError(f"the texts have {len(stream)} tokens, and a profile needs two sequences of {self.length}")
        rows = InMemory(np.array(stream[: size * self.length]).reshape(size, self.length))
        fingerprint = digest(self.tokenizer.fingerprint, self.length, stream)
        return PreparedData("texts", self.tokenizer, self.length, rows, rows, None, fingerprint)
