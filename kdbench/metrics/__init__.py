"""What is measured of a trained network: accuracy, calibration, fidelity to its teachers, robustness, cost."""

from kdbench.metrics.attacks import FGSM, PGD, fgsm, pgd
from kdbench.metrics.base import Evaluation, Samples
from kdbench.metrics.calibration import Calibration, reliability
from kdbench.metrics.cka import LinearCKA
from kdbench.metrics.common_corruptions import CommonCorruptions, corrupt
from kdbench.metrics.cost import Latency, count_bytes, count_macs, count_parameters, latency
from kdbench.metrics.evaluate import Accuracy, evaluate
from kdbench.metrics.fidelity import Fidelity, agreement, kl_divergence
from kdbench.metrics.linear_probe import LinearProbe
from kdbench.metrics.ood import OOD, auroc

__all__ = [
    "FGSM",
    "OOD",
    "PGD",
    "Accuracy",
    "Calibration",
    "CommonCorruptions",
    "Evaluation",
    "Fidelity",
    "Latency",
    "LinearCKA",
    "LinearProbe",
    "Samples",
    "agreement",
    "auroc",
    "corrupt",
    "count_bytes",
    "count_macs",
    "count_parameters",
    "evaluate",
    "fgsm",
    "kl_divergence",
    "latency",
    "pgd",
    "reliability",
]
