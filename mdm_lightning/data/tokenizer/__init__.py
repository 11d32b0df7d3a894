"""Tokenizers: which one, how it is read, and text in context."""
