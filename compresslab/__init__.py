"""compresslab: make neural networks smaller and faster, in bytes and milliseconds that are real.

Read from the bottom up: `kernels` (NumPy and Numba), `numerics` (what codes mean), `data`, `models`,
`training`, `measure`, `report`, `classroom`, `cli`. Imports run one way along that list.
"""

import os

# Numba's OpenMP threads and torch's are two pools. Waiting threads that spin steal the other pool's
# cores (measured 4x slower when the two alternate), so they must sleep. Read when OpenMP starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
