r"""The flow of the half squared error in closed form.

    ds/dt = w (L_0 - G s - Y)   =>   s(T) = S phi_T(K) S (L_0 - Y),    S = diag(sqrt w),  K = S G S,
    phi_T(k) = (1 - e^{-kT}) / k,                                      phi_T(0) = T

K = U diag(k) U^T is symmetric and positive semi-definite. Autograd through an eigendecomposition divides by differences
of eigenvalues, which vanish when there are more examples than features; the derivative of a matrix function needs only
divided differences (Daleckii and Krein),

    dphi(K)[E] = U (D o U^T E U) U^T,    D_ab = (phi(k_a) - phi(k_b)) / (k_a - k_b).

S has no derivative where a weight is zero, though the flow has one: for the weights the same e is taken in other
coordinates.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctml.flows.gradient_flow.adjoint import Adjoint
from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import MetaGradient
from ctml.flows.gradient_flow.losses import InnerLoss


@dataclass(frozen=True)
class ClosedForm:
    """No steps at all: the flow of the squared error, exactly, with its own exact gradients in everything."""

    def check(self, loss: InnerLoss, gradient: MetaGradient) -> None:
        """Raise ValueError if the loss has no closed form, or the gradient wants steps."""
        if not loss.linear:
            raise ValueError(f"solver=ClosedForm() with loss={loss}: only SquaredError() has a closed form")
        if gradient != Adjoint():
            raise ValueError(f"solver=ClosedForm() takes no steps for gradient={gradient}; leave the gradient out")

    def adapt(self, flow: HeadFlow, gradient: MetaGradient) -> Float[Tensor, "tasks ways d"]:
        """Return W(T)."""
        adapted = flow.head - exact_flow(replace(flow, weights=flow.weights.detach())).mT @ flow.features
        if not flow.weights.requires_grad:
            return adapted
        of_weights = in_weights(flow)
        return adapted + (of_weights - of_weights.detach())  # zero, with a derivative


def exact_flow(flow: HeadFlow) -> Float[Tensor, "tasks support ways"]:
    """Return s(T) of the squared loss, exactly, with exact gradients in all but the weights."""
    root = flow.weights.sqrt()[..., None]
    scaled = root * flow.features
    # phi_T(k) = T e(kT), so the horizon can join the matrix and e is one function of one matrix.
    t = flow.horizon[:, None, None]
    residual = root * (flow.features @ flow.head.mT - flow.targets)
    return t * root * MeanDecay.apply(t * (scaled @ scaled.mT), residual)


def in_weights(flow: HeadFlow) -> Float[Tensor, "tasks ways d"]:
    """Return W(T) - W_0 as a function of the weights alone, smooth where one is zero.

    y = C^T s,  Phi = C Q,  Q Q^T = 1   =>   dy/dt = C^T diag(w) (L_0 - Y - C y),   W(t) = W_0 - y(t)^T Q
    """
    with torch.no_grad():
        u, singular, basis = torch.linalg.svd(flow.features, full_matrices=False)
        coordinates, t = u * singular[:, None, :], flow.horizon[:, None, None]
        residual = flow.features @ flow.head.mT - flow.targets
    weighted = flow.weights[..., None] * coordinates
    return -(t * MeanDecay.apply(t * (weighted.mT @ coordinates), weighted.mT @ residual)).mT @ basis


class MeanDecay(torch.autograd.Function):
    """e(K) R for symmetric K >= 0, with e(k) = (1 - e^{-k}) / k, the mean of e^{-ku} over u in [0, 1]."""

    @staticmethod
    def forward(ctx, matrix, vectors):
        """Apply e(K) through the eigenvectors of K."""
        values, basis = torch.linalg.eigh(matrix)
        values = values.clamp(min=0)  # K is positive semi-definite up to rounding
        rotated = basis.mT @ vectors
        ctx.save_for_backward(values, basis, rotated)
        return basis @ (mean_decay(values)[..., None] * rotated)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        """Use the divided differences of e."""
        values, basis, rotated = ctx.saved_tensors
        cotangent = basis.mT @ cotangent
        inner = divided_difference(values[..., :, None], values[..., None, :]) * (cotangent @ rotated.mT)
        d_matrix = basis @ inner @ basis.mT
        return (d_matrix + d_matrix.mT) / 2, basis @ (mean_decay(values)[..., None] * cotangent)


SERIES_BELOW = 0.5
"""Below this the closed forms of e and e' lose digits to cancellation; the power series has none to lose."""
TERMS = 16


def mean_decay(k: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return e(k) = (1 - e^{-k}) / k, with e(0) = 1."""
    return torch.where(k > 0, -torch.expm1(-k) / k.clamp(min=torch.finfo(k.dtype).tiny), 1)


def mean_decay_slope(k: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return e'(k) = (e^{-k} (1 + k) - 1) / k^2, with e'(0) = -1/2."""
    small = k.clamp(max=SERIES_BELOW)
    # e(k) = sum_i (-k)^i / (i+1)!, so e'(k) = -sum_i (i+1) (-k)^i / (i+2)!; each term from the one before.
    series, term = torch.zeros_like(k), torch.full_like(k, -0.5)
    for i in range(TERMS):
        series = series + term
        term = term * -small * (i + 2) / ((i + 1) * (i + 3))
    large = k.clamp(min=SERIES_BELOW)
    return torch.where(k < SERIES_BELOW, series, (torch.exp(-large) * (1 + large) - 1) / large.square())


GAUSS_NODES = (0.0694318442029737, 0.3300094782075719, 0.6699905217924281, 0.9305681557970263)
GAUSS_WEIGHTS = (0.1739274225687269, 0.3260725774312731, 0.3260725774312731, 0.1739274225687269)
"""Four-point Gauss-Legendre rule on [0, 1]: exact to round-off for e' over an interval shorter than SERIES_BELOW."""


def divided_difference(a: Float[Tensor, "*#n"], b: Float[Tensor, "*#n"]) -> Float[Tensor, "*n"]:
    """Return (e(a) - e(b)) / (a - b); for close a and b as the mean of e' between them."""
    a, b = torch.broadcast_tensors(a, b)
    gap = a - b
    far = gap.abs() >= SERIES_BELOW
    quotient = (mean_decay(a) - mean_decay(b)) / torch.where(far, gap, 1)
    near = torch.where(far, 0, gap)
    mean = sum(w * mean_decay_slope(b + x * near) for x, w in zip(GAUSS_NODES, GAUSS_WEIGHTS, strict=True))
    return torch.where(far, quotient, mean)
