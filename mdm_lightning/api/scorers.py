"""Models that judge generated text, and the interface of one's own (``Judge``)."""

from mdm_lightning.evaluation.generation.huggingface_scorer import HuggingFaceJudge
from mdm_lightning.evaluation.generation.scorers import Judge, NgramJudge, NoJudge, Scores

__all__ = ["HuggingFaceJudge", "Judge", "NgramJudge", "NoJudge", "Scores"]
