"""Compression as functions from a model to a model; each file is one idea, on any module tree."""
