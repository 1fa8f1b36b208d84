"""Steps of deployed networks; importing this makes every kind known to files."""

from compresslab.runtime.steps import between, binary, floating, integer, moving, pooling

__all__ = ["between", "binary", "floating", "integer", "moving", "pooling"]
