"""Distillation losses, one paper per file."""

from kdbench.criteria.at import AT
from kdbench.criteria.base import Criterion, Teachers
from kdbench.criteria.cc import CC
from kdbench.criteria.ckd import CKD
from kdbench.criteria.cmkd import CMKD
from kdbench.criteria.confidence_penalty import ConfidencePenalty
from kdbench.criteria.crd import CRD
from kdbench.criteria.dist import DIST
from kdbench.criteria.dkd import DKD
from kdbench.criteria.fitnet import FitNet
from kdbench.criteria.icd import ICD
from kdbench.criteria.kd import KD
from kdbench.criteria.kdsvd import KDSVD
from kdbench.criteria.label_smoothing import LabelSmoothing
from kdbench.criteria.lskd import LSKD, StandardizedDKD
from kdbench.criteria.matched_smoothing import MatchedSmoothing
from kdbench.criteria.nst import NST
from kdbench.criteria.pkt import PKT
from kdbench.criteria.reviewkd import ReviewKD
from kdbench.criteria.rkd import RKD
from kdbench.criteria.sp import SP
from kdbench.criteria.srrl import SRRL
from kdbench.criteria.vid import VID

__all__ = [
    "AT",
    "CC",
    "CKD",
    "CMKD",
    "CRD",
    "DIST",
    "DKD",
    "ICD",
    "KD",
    "KDSVD",
    "LSKD",
    "NST",
    "PKT",
    "RKD",
    "SP",
    "SRRL",
    "VID",
    "ConfidencePenalty",
    "Criterion",
    "FitNet",
    "LabelSmoothing",
    "MatchedSmoothing",
    "ReviewKD",
    "StandardizedDKD",
    "Teachers",
]
