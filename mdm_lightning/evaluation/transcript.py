"""A prompt with its response, as text to read."""

from jaxtyping import Int64
from torch import Tensor

from mdm_lightning.data.tokenizer import Tokenizer


def transcript(tokenizer: Tokenizer, tokens: Int64[Tensor, " l"], prompt_length: int) -> str:
    """A sequence as text: where it has a prompt, that, and on a new line its response, up to where this ends."""
    if not prompt_length:
        return tokenizer.decode(tokens)
    return f"{tokenizer.decode(tokens[:prompt_length])}\n→ {tokenizer.answer(tokens[prompt_length:])}"
