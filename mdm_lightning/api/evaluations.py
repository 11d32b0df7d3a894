"""Evaluations: what can be measured of a model, and what one of your own consists of."""

from mdm_lightning.evaluation.advice.advise import Advise
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import Evaluation, NotApplicable, Row, Subject
from mdm_lightning.evaluation.generation.caching import Caching
from mdm_lightning.evaluation.generation.frontier import Frontier
from mdm_lightning.evaluation.generation.mauve import Mauve
from mdm_lightning.evaluation.generation.python_parses import PythonParses
from mdm_lightning.evaluation.generation.quality import Generation
from mdm_lightning.evaluation.generation.samples import SampleTexts
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.certificate import Certificate
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.evaluation.lm_eval.evaluation import LmEval
from mdm_lightning.evaluation.paper.exact_distribution import ExactDistribution
from mdm_lightning.evaluation.paper.figures_and_energies import PaperFigures

__all__ = [
    "Advise",
    "Caching",
    "Certificate",
    "Evaluation",
    "ExactDistribution",
    "Frontier",
    "Generation",
    "Likelihood",
    "LmEval",
    "Mauve",
    "NotApplicable",
    "OrderCosts",
    "PaperFigures",
    "Paths",
    "Policy",
    "Profile",
    "PythonParses",
    "Race",
    "Row",
    "SampleTexts",
    "Subject",
    "TaskAccuracy",
]
