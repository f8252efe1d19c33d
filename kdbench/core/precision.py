"""Precisions of arithmetic, as ``trainer.precision`` names them."""

import torch

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of forward and backward passes
