"""From the command line to recipes: compose, check, build. The only place that touches Hydra and instantiates.

Re-exports nothing, so that planning never imports torch.
"""
