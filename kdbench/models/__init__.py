"""Networks: ours, timm's, torchvision's and the user's. None of them knows that distillation exists."""

from kdbench.models.create import create_network
from kdbench.models.network import Network
from kdbench.models.probe import TapRow, describe_taps, probe
from kdbench.models.timm_registry import register_timm
from kdbench.models.weights import classes_of, export_state, known_heads, load_weights, read_checkpoint

__all__ = [
    "Network",
    "TapRow",
    "classes_of",
    "create_network",
    "describe_taps",
    "export_state",
    "known_heads",
    "load_weights",
    "probe",
    "read_checkpoint",
    "register_timm",
]
