"""Annotations <-> labels: painting, patches, splits, draws, metrics; never opens a file."""
