"""What is measured of a trained network: accuracy, calibration, fidelity to its teachers, cost."""

from kdbench.metrics.base import Evaluation
from kdbench.metrics.calibration import Calibration, reliability
from kdbench.metrics.cost import Latency, count_macs, count_parameters, latency
from kdbench.metrics.evaluate import Accuracy, evaluate
from kdbench.metrics.fidelity import Fidelity, agreement, kl_divergence

__all__ = [
    "Accuracy",
    "Calibration",
    "Evaluation",
    "Fidelity",
    "Latency",
    "agreement",
    "count_macs",
    "count_parameters",
    "evaluate",
    "kl_divergence",
    "latency",
    "reliability",
]
