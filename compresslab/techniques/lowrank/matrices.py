"""The best factors of a matrix: the truncated SVD, plain or weighted by the inputs' second moment.

W [m, n]  ~  B A,    A = sqrt(S_k) V_k^T [k, n],    B = U_k sqrt(S_k) [m, k],    W = U S V^T
"""

import torch

SVDS = ("exact", "randomised")


DAMPING = 1e-6
"""Added to the second moments' diagonal, relative to its mean: inputs that are always 0 have none."""


def factors(
    weight: torch.Tensor,
    rank: int,
    moment: torch.Tensor | None = None,
    svd: str = "exact",
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, n] and B [m, rank] whose product is nearest to the weight [m, n].

    Args:
        weight: float [m, n].
        rank: 1 to min(m, n).
        moment: E[x x^T] of the inputs, [n, n]; if given, |(W - BA) x|^2 is what becomes smallest.
        svd: "exact" (`torch.linalg.svd`) or "randomised" (`torch.svd_lowrank`; Halko et al. 2011,
            https://arxiv.org/abs/0909.4061), faster where rank is far below min(m, n).

    Raises:
        ValueError: for another shape, rank or svd, a weight with NaN or infinity, or a moment that is not
            [n, n] and finite.
    """
    _check_matrix(weight, rank, svd)
    root = None if moment is None else _root(moment, weight.shape[1])
    target = weight.double() if root is None else weight.double() @ root
    if svd == "exact":
        u, s, vt = torch.linalg.svd(target, full_matrices=False)
    else:
        # Some more columns than asked for, and power iterations: Halko et al., section 4.
        u, s, v = torch.svd_lowrank(target, min(rank + 8, *target.shape), niter=4)
        vt = v.T
    half = s[:rank].sqrt()
    first, second = half[:, None] * vt[:rank], u[:, :rank] * half
    if root is not None:
        first = torch.linalg.solve_triangular(root, first, upper=False, left=False)
    return first.to(weight.dtype), second.to(weight.dtype)


def _check_matrix(weight: torch.Tensor, rank: int, svd: str) -> None:
    if weight.ndim != 2 or not weight.is_floating_point() or 0 in weight.shape:
        kind = f"{weight.dtype} {list(weight.shape)}"
        raise ValueError(f"weight must be a float matrix with rows and columns, got {kind}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite, got NaN or infinity in it")
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"rank must be 1 to {min(weight.shape)} for this weight, got {rank}")
    if svd not in SVDS:
        raise ValueError(f"svd must be one of {', '.join(SVDS)}, got {svd!r}")


def _root(moment: torch.Tensor, inputs: int) -> torch.Tensor:
    """The lower triangular L with L L^T = moment, slightly damped."""
    if tuple(moment.shape) != (inputs, inputs) or not bool(torch.isfinite(moment).all()):
        raise ValueError(
            f"moment must be finite and of shape [{inputs}, {inputs}], got {list(moment.shape)}"
        )
    moment = moment.double()
    if not torch.allclose(moment, moment.T, rtol=1e-4, atol=1e-6 * float(moment.abs().max())):
        raise ValueError("moment must be symmetric, as E[x x^T] is")
    ridge = DAMPING * moment.diagonal().mean().clamp(min=1e-12)
    damped = moment + ridge * torch.eye(inputs, dtype=torch.float64)
    root, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError("moment must have no negative eigenvalues, as E[x x^T] has none")
    return root
