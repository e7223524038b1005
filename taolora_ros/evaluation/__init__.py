"""Judging a model: recordings through the detector, scored against their annotations."""
