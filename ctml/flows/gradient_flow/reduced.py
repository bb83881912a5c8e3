r"""The flow of a linear head, reduced to the support set.

    dW/dt = -sum_m w_m (p_m - y_m) phi_m^T        stays in W_0 + span(phi), so with ds_m/dt = w_m (p_m - y_m), s(0) = 0,
    W(t) = W_0 - s(t)^T Phi,                      logits(t) = L_0 - G s(t),    L_0 = Phi W_0^T,   G = Phi Phi^T

(Deleu et al. 2022, section 3.2; w_m = 1/M there.) The whole adaptation lives in M N numbers and sees the embeddings
only through G and L_0. Here time and state are scaled once more, by t = T tau and s_m = T w_m sigma_m:

    d sigma / d tau = link(L_0 - H sigma) - Y,    tau in [0, 1],    H = G diag(T w)

The horizon and the weights have become part of the matrix H. Whoever differentiates sigma(1) with respect to L_0 and H
has, by the chain rule through those two products, the meta-gradients of Phi, W_0, T and w; T = 0 is no special case.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Path, Steps
from ctml.flows.gradient_flow.links import Link


@dataclass(frozen=True)
class ReducedFlow:
    """The flow of sigma; arrays carry the ways before the examples (see `links`).

    Args:
        logits: L_0 transposed, `(tasks, ways, support)`.
        gram: G, `(tasks, support, support)`.
        targets: Y transposed, `(tasks, ways, support)`.
        scale: T w_m, `(tasks, 1, support)`; s = scale * sigma.
        link: predictions from logits.
    """

    logits: Float[Tensor, "tasks ways support"]
    gram: Float[Tensor, "tasks support support"]
    targets: Float[Tensor, "tasks ways support"]
    scale: Float[Tensor, "tasks 1 support"]
    link: Link

    @classmethod
    def of_head(cls, flow: HeadFlow) -> "ReducedFlow":
        """Reduce the flow of a head."""
        features = flow.features
        gram, targets = features @ features.mT, flow.targets.mT.contiguous()
        return cls(flow.head @ features.mT, gram, targets, flow.scale, flow.loss.link)

    @cached_property
    def matrix(self) -> Float[Tensor, "tasks support support"]:
        """H transposed: row m is T w_m times row m of the Gram matrix."""
        return self.scale.mT * self.gram

    def slope(self, sigma: Float[Tensor, "tasks ways support"], out: Float[Tensor, "tasks ways support"]) -> None:
        """Write d sigma / d tau into `out`."""
        torch.baddbmm(self.logits, sigma, self.matrix, alpha=-1, out=out)
        self.link.predict(out, out=out)
        out.sub_(self.targets)

    def jacobian(self, sigma: Tensor, slope: Tensor, v: Tensor) -> Float[Tensor, "tasks ways support"]:
        """Return dlink(L_0 - H sigma) H v, where `slope` is that at sigma: minus the derivative of the slope."""
        return self.link.pull_back(v @ self.matrix, slope + self.targets)

    def solve(self, steps: Steps, record: str = "none") -> Path:
        """Integrate sigma from 0 over the whole horizon (`record`: states to keep, see `Steps.integrate`)."""
        return steps.integrate(self.slope, torch.zeros_like(self.logits), record=record, watched=self)

    def tolerance(self, atol: float) -> Float[Tensor, "tasks ways support"]:
        """Return the absolute tolerance of sigma that stands for `atol` in s; infinite where s cannot move."""
        return (atol / self.scale).expand_as(self.logits)

    def safe_step(self) -> Float[Tensor, " tasks"]:
        """Return 1 over a bound on the rate of contraction: a first step that the controller can enlarge.

        dlink/dz is at most 1, and ||H|| at most its Frobenius norm.
        """
        return 1 / self.matrix.flatten(1).norm(dim=1).clamp(min=1)
