r"""Plain autograd through the same steps: the reference that the other methods are held against.

    k_j = w (p(L_0 - G x_j) - y),   x_j = s_n + h_n T sum_{l<j} a_jl k_l,   s_{n+1} = s_n + h_n T sum_j b_j k_j

Written in the paper's own s and t, sharing no arithmetic with the fast path; memory grows with every stage.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Steps
from ctml.flows.gradient_flow.reduced import ReducedFlow
from ctml.flows.tableaus import Tableau


@dataclass(frozen=True)
class Unrolled:
    """Plain autograd through the steps: the reference."""

    def through(self, flow: HeadFlow, steps: Steps) -> Float[Tensor, "tasks ways d"]:
        """Return W(T), differentiable in everything, with every stage in autograd's graph."""
        with torch.no_grad():
            sizes = ReducedFlow.of_head(flow).solve(steps).sizes
        return flow.head - unrolled(flow, sizes, steps.tableau).mT @ flow.features


def unrolled(
    flow: HeadFlow, sizes: Float[Tensor, "steps tasks"], tableau: Tableau
) -> Float[Tensor, "tasks support ways"]:
    """Return s(T) by given steps (fractions of the horizon), as an autograd graph."""
    gram = flow.features @ flow.features.transpose(1, 2)
    logits = flow.features @ flow.head.transpose(-1, -2)

    def slope(s: Tensor) -> Tensor:
        return flow.weights[..., None] * (flow.loss.predict(logits - gram @ s) - flow.targets)

    s = torch.zeros_like(flow.targets)
    for size in sizes:
        h = (size.to(flow.horizon.dtype) * flow.horizon)[:, None, None]
        k: list[Tensor] = []
        for row in tableau.a:
            k.append(slope(s + h * sum(float(a) * k_l for a, k_l in zip(row, k, strict=True))))
        s = s + h * sum(float(b) * k_j for b, k_j in zip(tableau.b, k, strict=True))
    return s
