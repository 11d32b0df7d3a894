"""A run of one's own as a scorer of generated text: `scorer=run scorer.ckpt=outputs/train/...`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mdm_lightning.arguments import check_numbers
from mdm_lightning.checkpoint.load import Loaded, load
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.diffusion.masking import NextToken, seeded_generator
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject, batches
from mdm_lightning.evaluation.generation.scorers import PreparedEncoder, PreparedScorer, Scores

_Encode = Callable[[Int64[np.ndarray, "b l"], Sequence[str]], list[Int64[Tensor, " n"]]]


@dataclass(frozen=True)
class RunScorer:
    """An autoregressive model that was trained here (``model=ar``): a real language model as the reference, offline.

    Texts in its own tokens are scored token by token, each given all those before it. Texts of a model with another
    tokenizer are decoded and tokenised anew, and read as far as the scorer's length goes. The average is over tokens.

    Args:
        ckpt: ``last``, a run folder or a ``.ckpt`` file.
        batch_size: texts per forward pass.

    Raises:
        ValueError: no text per forward pass.
    """

    ckpt: str
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, batch_size=1)

    @property
    def protocol(self) -> str:
        return f"autoregressive model {self.ckpt}, every token scored"

    def prepare(self, subject: Subject) -> PreparedScorer:
        """Raises:
        UserError: there is no such run, it is not autoregressive, or it reads shorter texts only.
        """
        loaded, encode = subject.once((self, "model"), lambda: self._load(subject))

        def score(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> Scores:
            rows = encode(tokens, texts)
            units = batches(len(rows), self.batch_size)
            nats = [_nats(loaded.denoiser, loaded.device, rows[unit.start : unit.stop]) for unit in units]
            return Scores(np.concatenate(nats), np.array([len(row) for row in rows]))

        return score

    def encoder(self, subject: Subject) -> PreparedEncoder:
        """See TextEncoder; the last position has read all tokens but its own.

        Raises:
            UserError: as ``prepare``.
        """
        loaded, encode = subject.once((self, "model"), lambda: self._load(subject))

        def points(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> Float64[np.ndarray, "b h"]:
            rows = encode(tokens, texts)
            units = batches(len(rows), self.batch_size)
            return np.concatenate([_last_hidden(loaded, rows[unit.start : unit.stop]) for unit in units])

        return points

    def _load(self, subject: Subject) -> tuple[Loaded, _Encode]:
        """The model, and what makes its tokens of texts."""
        loaded = load(self.ckpt, device=subject.device)
        if not loaded.denoiser.autoregressive:
            raise UserError(
                f"scorer.ckpt={self.ckpt} is a masked diffusion model, which knows a bound on likelihoods only: train "
                "a scorer with python train.py model=ar data=..."
            )
        own = loaded.tokenizer.fingerprint == subject.tokenizer.fingerprint
        if own and subject.length > loaded.denoiser.length:
            raise UserError(
                f"scorer.ckpt={self.ckpt} reads {loaded.denoiser.length} tokens at most, and the texts have "
                f"{subject.length}: train a scorer with model.length={subject.length}"
            )

        def encode(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> list[Int64[Tensor, " n"]]:
            return list(torch.from_numpy(tokens)) if own else _encode(loaded.tokenizer, texts, loaded.denoiser.length)

        return loaded, encode


def _encode(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[Tensor]:
    return [torch.tensor(ids[:longest], dtype=torch.int64) for ids in tokenizer.encode_batch(list(texts))]


def _padded(rows: Sequence[Int64[Tensor, " n"]]) -> tuple[Int64[Tensor, "b l"], Bool[Tensor, "b l"]]:
    """Texts in one tensor, and where they are."""
    tokens = pad_sequence(list(rows), batch_first=True)
    return tokens, torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


def _last_hidden(loaded: Loaded, rows: Sequence[Int64[Tensor, " n"]]) -> Float64[np.ndarray, "b h"]:
    """Of the last layer, at the last position."""
    tokens, there = _padded(rows)
    with torch.inference_mode():
        hidden = loaded.denoiser(tokens.to(loaded.device), padding=~there.to(loaded.device))
    return hidden[torch.arange(len(rows)), there.sum(1) - 1].double().cpu().numpy()


def _nats(denoiser: Denoiser, device: torch.device, rows: Sequence[Int64[Tensor, " n"]]) -> Float64[np.ndarray, " b"]:
    """-log probability of each text."""
    tokens, there = _padded(rows)
    batch = NextToken()(tokens, there, denoiser.mask_id, seeded_generator(0))._replace(padding=~there)
    with torch.inference_mode():
        return nelbo(denoiser, batch.to(device)).per_sequence.double().cpu().numpy()
