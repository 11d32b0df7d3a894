"""Mask schedules alpha_t, and what a schedule of one's own derives from (``MaskSchedule``)."""

from mdm_lightning.diffusion.schedule import BetaSchedule as Beta
from mdm_lightning.diffusion.schedule import CosineSchedule as Cosine
from mdm_lightning.diffusion.schedule import LinearSchedule as Linear
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.diffusion.schedule import PolynomialSchedule as Polynomial
from mdm_lightning.diffusion.schedule import SineSchedule as Sine
from mdm_lightning.diffusion.schedule import SquaredSineSchedule as SquaredSine
from mdm_lightning.diffusion.schedule import TabulatedSchedule as Tabulated

__all__ = ["Beta", "Cosine", "Linear", "MaskSchedule", "Polynomial", "Sine", "SquaredSine", "Tabulated"]
