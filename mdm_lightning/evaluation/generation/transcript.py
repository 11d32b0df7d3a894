"""A prompt with its response, as text to read."""

from jaxtyping import Int64
from torch import Tensor

from mdm_lightning.data.tokenizer.tokenizer import Tokenizer


def transcript(tokenizer: Tokenizer, tokens: Int64[Tensor, " l"], prompt_length: int) -> str:
    """A sequence as text: where it has a prompt, that, and on a new line its response, up to where this ends."""
    if not prompt_length:
        return tokenizer.decode(tokens)
    prompt, response = tokens[:prompt_length], tokens[prompt_length:]
    return f"{tokenizer.decode(prompt)}\n→ {tokenizer.answer(response, after=prompt)}"
