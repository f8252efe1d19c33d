"""Types and rules that everything else rests on. Re-exports nothing, so that recipes never import torch."""
