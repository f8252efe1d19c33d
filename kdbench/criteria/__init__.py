"""Distillation losses, one paper per file."""

from kdbench.criteria.base import Criterion, Teachers
from kdbench.criteria.kd import KD
from kdbench.criteria.label_smoothing import LabelSmoothing

__all__ = ["KD", "Criterion", "LabelSmoothing", "Teachers"]
