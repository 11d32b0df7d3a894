"""Data: corpora, tokenizers, packing into fixed-length sequences, synthetic tasks and the training order."""
