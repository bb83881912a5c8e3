r"""Plain autograd through the same steps: the reference that the other methods are held against.

    k_j = w (p(L_0 - G x_j) - y),   x_j = s_n + h_n T sum_{l<j} a_jl k_l,   s_{n+1} = s_n + h_n T sum_j b_j k_j

Written in the paper's own s and t, sharing no arithmetic with the fast path; memory grows with every stage.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.tableaus import Tableau


def unrolled(
    features: Float[Tensor, "tasks support d"],
    targets: Float[Tensor, "tasks support ways"],
    head: Float[Tensor, "*tasks ways d"],
    horizon: Float[Tensor, " tasks"],
    weights: Float[Tensor, "tasks support"],
    loss: str,
    sizes: Float[Tensor, "steps tasks"],
    tableau: Tableau,
) -> Float[Tensor, "tasks support ways"]:
    """Return s(T) by given steps (fractions of the horizon), as an autograd graph."""
    gram = features @ features.transpose(1, 2)
    logits = features @ head.transpose(-1, -2)

    def slope(s: Tensor) -> Tensor:
        z = logits - gram @ s
        return weights[..., None] * ((z.softmax(-1) if loss == "cross_entropy" else z) - targets)

    s = torch.zeros_like(targets)
    for size in sizes:
        h = (size.to(horizon.dtype) * horizon)[:, None, None]
        k: list[Tensor] = []
        for row in tableau.a:
            k.append(slope(s + h * sum(float(a) * k_l for a, k_l in zip(row, k, strict=True))))
        s = s + h * sum(float(b) * k_j for b, k_j in zip(tableau.b, k, strict=True))
    return s
