"""Low rank (低秩分解): a layer as two or three thinner ones.

    linear    W [m, n]  ~  B A,    A = sqrt(S_k) V_k^T [k, n],    B = U_k sqrt(S_k) [m, k],    W = U S V^T

The truncated SVD is the best approximation of rank k (Eckart and Young 1936), and what it misses is known
beforehand: |W - BA|^2 = the sum of the squared singular values left out. It pays below the break-even rank,
k (m + n) < m n.

    whitened  the best k for the layer's *outputs*: with E[x x^T] = L L^T the SVD of W L is cut instead, and
              A is multiplied by L^-1 (Wang et al. 2024, https://arxiv.org/abs/2403.07378, section 3)

    channel   [m, c, h, w] as [m, c h w]:    k filters of h x w, then 1x1     Zhang et al. 2016,
                                                                              https://arxiv.org/abs/1505.06798
    spatial   as [c h, w m]:                 k filters of h x 1, then 1 x w   Jaderberg et al. 2014,
                                                                              https://arxiv.org/abs/1405.3866
    tucker    both channel axes:             1x1 to r, h x w to q, then 1x1   Kim et al. 2016,
                                                                              https://arxiv.org/abs/1511.06530

Ranks come from a share of the energy, from a share of the parameters, or from `allocate`, which spends one
budget over all layers. Which of them keeps a network's accuracy is measured, here by `sensitivity`.

Left out: CP decomposition (unstable to tune) and grouped or transposed convolutions (left as they are).
"""

from compresslab.techniques.lowrank.layers import (
    CONVOLUTIONS,
    as_matrix,
    factored,
    factorizable,
    spectrum,
)
from compresslab.techniques.lowrank.matrices import DAMPING, SVDS, factors
from compresslab.techniques.lowrank.networks import (
    Factoring,
    Moments,
    Sensitivity,
    factorize,
    input_moments,
    ranks_by_budget,
    ranks_by_energy,
    search,
    sensitivity,
)
from compresslab.techniques.lowrank.ranks import (
    allocate,
    break_even,
    rank_for_budget,
    rank_for_energy,
)

__all__ = [
    "CONVOLUTIONS",
    "DAMPING",
    "SVDS",
    "Factoring",
    "Moments",
    "Sensitivity",
    "allocate",
    "as_matrix",
    "break_even",
    "factored",
    "factorizable",
    "factorize",
    "factors",
    "input_moments",
    "rank_for_budget",
    "rank_for_energy",
    "ranks_by_budget",
    "ranks_by_energy",
    "search",
    "sensitivity",
    "spectrum",
]
