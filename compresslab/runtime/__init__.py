"""Compressed networks that run on the kernels, and their files."""
