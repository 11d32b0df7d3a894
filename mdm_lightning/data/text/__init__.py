"""Text: where it comes from, how it is split, packed into sequences, or paired with prompts."""
