"""Image data held in memory: files, arrays, splits, views, loaders. Re-exports nothing: the catalog needs no torch."""
