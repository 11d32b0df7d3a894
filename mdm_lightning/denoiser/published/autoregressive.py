"""A masked diffusion model that begins as an autoregressive one, as DiffuLLaMA (Gong et al., 2025) and Dream did.

What an autoregressive model lacks is MASK: the embedding gets a row for it, the first one that belongs to no token,
with the mean of the tokens' embeddings. What it has is kept: its output at position i - 1 still predicts position i.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdm_lightning.denoiser.published.families.qwen import Qwen
from mdm_lightning.denoiser.published.family import Family, PublishedConfig, Unstated
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class WithMask(Weights):
    """Weights with a row for MASK, the mean of the rows of tokens.

    Attributes:
        tables: names of the tensors with a row per token.
        tokens: number of tokens, and MASK's row.
    """

    tables: frozenset[str]
    tokens: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        stored = super().shapes
        tables = {name: stored[name] for name in self.tables & stored.keys()}
        return stored | {name: (max(rows, self.tokens + 1), *width) for name, (rows, *width) in tables.items()}

    def __getitem__(self, name: str) -> Tensor:
        stored = super().__getitem__(name)
        if name not in self.tables:
            return stored
        table = stored.new_zeros(self.shapes[name])
        table[: len(stored)] = stored
        table[self.tokens] = stored[: self.tokens].mean(0, dtype=torch.float32)
        return table


def with_mask(weights: Weights, family: Family, vocab_size: int | None, unstated: Unstated) -> Weights:
    """The weights of the masked diffusion model that begins as an autoregressive one.

    Their configuration says what that of a masked diffusion model does, and so will an export of what is trained.
    ``published.mask_id=`` chooses a row for MASK, which then keeps its values; ``published.shifted=false`` gives up the
    shift.

    Args:
        vocab_size: number of ids that the tokenizer has.

    Raises:
        UserError: they are not of an autoregressive model, or do not go with the tokenizer.
    """
    origin, config = weights.origin, weights.config
    if not isinstance(family, Qwen) or config.get("mask_token_id") is not None:
        raise UserError(f"{origin} is no autoregressive model by its {CONFIG}: leave published.autoregressive=true out")
    tables = {f"{family.modules[name]}.weight" for name in ("embedding", "lm_head")}
    rows = min(shape[0] for name, shape in weights.shapes.items() if name in tables)
    tokens = PublishedConfig(weights, config).fitting(vocab_size, rows)
    added = unstated.mask_id is None
    said = {
        "vocab_size": max(rows, tokens + 1) if added else rows,
        "mask_token_id": tokens if added else unstated.mask_id,
        "shifted": unstated.shifted is not False,
    }
    held = frozenset(tables if added else ())
    return WithMask(origin, weights.files, {**config, **said}, tables=held, tokens=tokens)
