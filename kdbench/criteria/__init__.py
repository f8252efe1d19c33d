"""Distillation losses, one paper per file."""

from kdbench.criteria.ab import AB
from kdbench.criteria.ard import ARD
from kdbench.criteria.at import AT
from kdbench.criteria.base import Criterion, Parts, Teachers
from kdbench.criteria.bss import BSS
from kdbench.criteria.catkd import CATKD
from kdbench.criteria.cc import CC
from kdbench.criteria.ckd import CKD, GroupedCC, GroupedFitNet, GroupedVID
from kdbench.criteria.cmkd import CMKD
from kdbench.criteria.confidence_penalty import ConfidencePenalty
from kdbench.criteria.crd import CRD
from kdbench.criteria.dist import DIST
from kdbench.criteria.dkd import DKD
from kdbench.criteria.dml import DML
from kdbench.criteria.dpk import DPK
from kdbench.criteria.fitnet import FitNet
from kdbench.criteria.fsp import FSP
from kdbench.criteria.ft import FT
from kdbench.criteria.icd import ICD
from kdbench.criteria.kd import KD
from kdbench.criteria.kdiga import KDIGA
from kdbench.criteria.kdsvd import KDSVD
from kdbench.criteria.label_smoothing import LabelSmoothing
from kdbench.criteria.lskd import LSKD, StandardizedDKD
from kdbench.criteria.matched_smoothing import MatchedSmoothing
from kdbench.criteria.mlkd import MLKD
from kdbench.criteria.nst import NST
from kdbench.criteria.ofd import OFD
from kdbench.criteria.one import ONE
from kdbench.criteria.pkt import PKT
from kdbench.criteria.reviewkd import ReviewKD
from kdbench.criteria.rkd import RKD
from kdbench.criteria.simkd import SimKD
from kdbench.criteria.sp import SP
from kdbench.criteria.srrl import SRRL
from kdbench.criteria.tf_kd import TfKD
from kdbench.criteria.vid import VID

__all__ = [
    "AB",
    "ARD",
    "AT",
    "BSS",
    "CATKD",
    "CC",
    "CKD",
    "CMKD",
    "CRD",
    "DIST",
    "DKD",
    "DML",
    "DPK",
    "FSP",
    "FT",
    "ICD",
    "KD",
    "KDIGA",
    "KDSVD",
    "LSKD",
    "MLKD",
    "NST",
    "OFD",
    "ONE",
    "PKT",
    "RKD",
    "SP",
    "SRRL",
    "VID",
    "ConfidencePenalty",
    "Criterion",
    "FitNet",
    "GroupedCC",
    "GroupedFitNet",
    "GroupedVID",
    "LabelSmoothing",
    "MatchedSmoothing",
    "Parts",
    "ReviewKD",
    "SimKD",
    "StandardizedDKD",
    "Teachers",
    "TfKD",
]
