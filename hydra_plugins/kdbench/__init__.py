"""Hydra loads plugins from this top-level name only: kdbench's launcher."""
