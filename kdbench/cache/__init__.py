"""Outputs of teachers, asked for once: what they are known by, how they are kept, what that spares.

Imports nothing, so that the plan can tell what a cache would spare without torch.
"""
