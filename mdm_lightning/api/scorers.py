"""Models that score generated text, and the interface of one's own (``Scorer``)."""

from mdm_lightning.checkpoint.run_scorer import RunScorer
from mdm_lightning.evaluation.generation.huggingface_scorer import HuggingFaceScorer
from mdm_lightning.evaluation.generation.scorers import NgramScorer, NoScorer, Scorer, Scores

__all__ = ["HuggingFaceScorer", "NgramScorer", "NoScorer", "RunScorer", "Scorer", "Scores"]
