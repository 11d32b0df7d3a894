"""A published causal language model as a scorer: generative perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn import functional

from mdm_lightning.arguments import check_numbers
from mdm_lightning.data.hub import hub_is_reachable
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject, batches
from mdm_lightning.evaluation.generation.scorers import PreparedEncoder, PreparedScorer, Scores


@dataclass(frozen=True)
class HuggingFaceScorer:
    """A causal language model of the transformers library, in float32 on the subject's device.

    The protocol of the field's generative perplexity: the text is decoded, with its end-of-text tokens written out,
    and tokenised anew by the scorer; of its first ``max_tokens`` tokens all but the first are scored; the average is
    over tokens.

    Args:
        name: on the Hugging Face hub.
        max_tokens: tokens per text; the rest is not scored.
        batch_size: texts per forward pass.
        path: a local folder with the model and its tokenizer, instead of the hub.

    Raises:
        ValueError: fewer than two tokens, of which none would be scored, or no text per forward pass.
    """

    name: str = "gpt2-large"
    max_tokens: int = 1024
    batch_size: int = 8
    path: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self, max_tokens=2, batch_size=1)

    @property
    def protocol(self) -> str:
        return (
            f"{self.path or self.name} on decoded and re-tokenised text, up to {self.max_tokens} tokens, "
            "first token unscored"
        )

    def prepare(self, subject: Subject) -> PreparedScorer:
        """Raises:
        UserError: transformers is not installed, or the weights cannot be had.
        """
        tokenizer, model = subject.once((self, "model"), lambda: self._load(subject.device))

        def score(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> Scores:
            encoded = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
            parts = [_score(model, encoded[unit.start : unit.stop]) for unit in batches(len(texts), self.batch_size)]
            return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))

        return score

    def encoder(self, subject: Subject) -> PreparedEncoder:
        """See TextEncoder.

        Raises:
            UserError: as ``prepare``.
        """
        tokenizer, model = subject.once((self, "model"), lambda: self._load(subject.device))

        def encode(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> Float64[np.ndarray, "b h"]:
            encoded = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
            units = batches(len(texts), self.batch_size)
            return np.concatenate([_last_hidden(model, encoded[unit.start : unit.stop]) for unit in units])

        return encode

    def _load(self, device: torch.device) -> tuple[Any, Any]:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                'scorer=hf needs the transformers library: pip install "mdm-lightning[scorer]", or choose scorer=ngram'
            ) from error
        source = self.path or self.name
        local = self.path is not None or not hub_is_reachable()  # the library would retry for most of a minute
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            model: Any = AutoModelForCausalLM.from_pretrained(source, local_files_only=local, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"cannot load the scorer {source} ({reason}); check the network, set scorer.path= to a local copy, or "
                "choose scorer=ngram"
            ) from error
        return tokenizer, model.to(device).eval()


def _padded(model: Any, encoded: list[list[int]]) -> dict[str, Tensor]:
    """Texts are padded at the end, where a causal model cannot look from in front."""
    width = max(len(text) for text in encoded)
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in encoded], device=model.device)
    mask = torch.arange(width) < torch.tensor([len(text) for text in encoded])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long().to(model.device)}


def _last_hidden(model: Any, encoded: list[list[int]]) -> Float64[np.ndarray, "b h"]:
    """Of the last layer, at the last token; an empty text is read as the token 0."""
    encoded = [text or [0] for text in encoded]
    with torch.inference_mode():
        hidden = model(**_padded(model, encoded), output_hidden_states=True).hidden_states[-1]
    last = [len(text) - 1 for text in encoded]
    return hidden[torch.arange(len(last)), last].double().cpu().numpy()


def _score(model: Any, encoded: list[list[int]]) -> Scores:
    """-log probability of every token but the first, given those in front of it in its text."""
    lengths = torch.tensor([len(ids) for ids in encoded])
    nats = torch.zeros(len(encoded), dtype=torch.float64)
    if int(lengths.max()) > 1:
        padded = _padded(model, encoded)
        ids = padded["input_ids"]
        with torch.inference_mode():
            logits = model(**padded).logits
            for row, length in enumerate(lengths.tolist()):
                if length > 1:  # one text at a time: a copy of all logits would double the memory
                    losses = functional.cross_entropy(
                        logits[row, : length - 1].float(), ids[row, 1:length], reduction="none"
                    )
                    nats[row] = losses.double().sum()
    return Scores(nats.numpy(), (lengths - 1).clamp(min=0).numpy())
