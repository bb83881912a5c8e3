"""The curvature of ANIL's meta-objective, bounds on it in two geometries, the step-size rule, and costs.

    F(w, phi) = mean_i L_Q,i(w_N^i, phi),   w_0^i = w,   w_{m+1}^i = w_m^i - alpha grad_w L_S,i(w_m^i, phi)

Ji, Lee, Liang, Poor (2020) bound how F's curvature grows or shrinks with N in two geometries of the inner loss. The
theorems' own constants were not readable to us: the bounds here are derived (for alpha <= 1/L), of the same type, and
checked on the instances. Everything is float64 and free of `ctml.learners`: it is the oracle those are tested against.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, grad_and_value, hessian, vmap

from ctml.checks import positive
from ctml.tasks.analytic import expand
from ctml.theory.anil_instances import Constants, Instance

GEOMETRIES = ("strongly-convex", "nonconvex")


class Bounds(NamedTuple):
    """Upper bounds on F's gradient and on the spectral norms of its Hessian's blocks."""

    gradient_w: float
    gradient_phi: float
    ww: float
    w_phi: float
    phi_phi: float


def adapt(instance: Instance, w: Tensor, phi: Tensor, alpha: float, steps: int) -> Float[Tensor, "tasks n_w"]:
    """Return w_N of every task from the common start w `(n_w,)`."""
    tasks = instance.given(phi)
    w = expand(w, tasks.n_tasks)
    for _ in range(steps):
        w = w - alpha * grad(lambda w: tasks.support(w).sum())(w)
    return w


def meta_objective(instance: Instance, w: Tensor, phi: Tensor, alpha: float, steps: int) -> Float[Tensor, ""]:
    """Return F(w, phi)."""
    return instance.given(phi).query(adapt(instance, w, phi, alpha, steps)).mean()


def meta_gradient(
    instance: Instance, w: Float[Tensor, "points n_w"], phi: Float[Tensor, "points n_phi"], alpha: float, steps: int
) -> tuple[Float[Tensor, "points n_w"], Float[Tensor, "points n_phi"]]:
    """Return dF/dw and dF/dphi at many points."""
    return vmap(grad(lambda w, phi: meta_objective(instance, w, phi, alpha, steps), argnums=(0, 1)))(w, phi)


class Curvature(NamedTuple):
    """Spectral norms of the blocks of F's Hessian, one per point."""

    ww: Float[Tensor, " points"]
    w_phi: Float[Tensor, " points"]
    phi_phi: Float[Tensor, " points"]


def curvature(
    instance: Instance, w: Float[Tensor, "points n_w"], phi: Float[Tensor, "points n_phi"], alpha: float, steps: int
) -> Curvature:
    """Return the spectral norms of d2F/dw2, d2F/dw dphi and d2F/dphi2 at many points."""
    blocks = vmap(hessian(lambda w, phi: meta_objective(instance, w, phi, alpha, steps), argnums=(0, 1)))(w, phi)
    return Curvature(*(_spectral_norm(h) for h in (blocks[0][0], blocks[0][1], blocks[1][1])))


class Descent(NamedTuple):
    """Gradient descent on F from many points: F and the squared norms of its two gradients before each step."""

    objective: Float[Tensor, "iterations points"]
    gradient_w: Float[Tensor, "iterations points"]
    gradient_phi: Float[Tensor, "iterations points"]


def descend(
    instance: Instance,
    w: Float[Tensor, "points n_w"],
    phi: Float[Tensor, "points n_phi"],
    beta_w: float | Float[Tensor, "points 1"],
    beta_phi: float | Float[Tensor, "points 1"],
    alpha: float,
    steps: int,
    iterations: int,
) -> Descent:
    """Take w <- w - beta_w dF/dw, phi <- phi - beta_phi dF/dphi, all points side by side."""
    both = vmap(grad_and_value(lambda w, phi: meta_objective(instance, w, phi, alpha, steps), argnums=(0, 1)))
    rows = []
    for _ in range(iterations):
        (g_w, g_phi), objective = both(w, phi)
        rows.append((objective, g_w.square().sum(1), g_phi.square().sum(1)))
        w, phi = w - beta_w * g_w, phi - beta_phi * g_phi
    return Descent(*(torch.stack(column) for column in zip(*rows, strict=True)))


def strongly_convex_bounds(constants: Constants, alpha: float, steps: int) -> Bounds:
    """Bound gradient and curvature for a mu-strongly convex inner loss, alpha <= 1/L, q = 1 - alpha mu (S1, S2).

    |dF/dw| <= M q^N,   L_ww <= L q^2N + (rho M/mu) q^(N-1) (1 - q^N),   L_phiphi bounded in N
    """
    mu, L, rho, tau, M = constants
    kappa, q = constants.kappa, 1 - alpha * mu
    _step_allowed(alpha, L)
    return Bounds(
        gradient_w=M * q**steps,
        gradient_phi=M * (1 + kappa * (1 - q**steps)),
        ww=L * q ** (2 * steps) + rho * M / mu * q ** (steps - 1) * (1 - q**steps),
        w_phi=(1 + kappa) * (L * q**steps + rho * M * steps * alpha * q ** (steps - 1)),
        phi_phi=(1 + kappa) * (L * (1 + kappa) + tau * M / mu + L * rho * M / mu**2),
    )


def nonconvex_bounds(constants: Constants, alpha: float, steps: int) -> Bounds:
    """Bound gradient and w-curvature for a nonconvex inner loss, s = 1 + alpha L (N1, N2).

    |dF/dw|, |dF/dphi| <= M s^N,   L_ww, L_wphi <= L s^2N + (rho M/L) s^(N-1) (s^N - 1),   L_phiphi: infinity stands
    """
    _, L, rho, _, M = constants
    s = 1 + alpha * L
    _step_allowed(alpha, L)
    first = M * s**steps
    second = L * s ** (2 * steps) + rho * M / L * s ** (steps - 1) * (s**steps - 1)
    return Bounds(first, first, second, second, float("inf"))


def step_size(L: float, steps: int, geometry: str, c: float = 1.0) -> float:
    """Return the inner step size that keeps the constants of F bounded in N: 1/L, or c / (N L) if nonconvex.

    With c / (N L), (1 + alpha L)^N <= e^c. The 1/N follows Ji, Yang, Liang (2022) on multi-step MAML; ours for ANIL.
    """
    positive("L", L)
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry={geometry!r}: must be one of {', '.join(GEOMETRIES)}")
    return 1 / L if geometry == "strongly-convex" else c / (max(steps, 1) * L)


def head_smoothness(features: Float[Tensor, "tasks n features"], ridge: float = 0.0) -> Float[Tensor, " tasks"]:
    """Bound L of mean softmax cross-entropy in a linear head with bias: 1/2 lambda_max([h 1]'[h 1] / n) + ridge."""
    h = torch.cat([features, features.new_ones(*features.shape[:-1], 1)], -1)
    gram = h @ h.mT if h.shape[1] < h.shape[2] else h.mT @ h
    return 0.5 * torch.linalg.eigvalsh(gram / h.shape[1])[:, -1] + ridge


class Cost(NamedTuple):
    """Entries that one task's meta-gradient evaluates: of gradients, and of matrices of second derivatives."""

    gradient: int
    second_order: int


def anil_cost(n_w: int, n_phi: int, steps: int) -> Cost:
    """Count ANIL's entries: N n_w + (n_w + n_phi) of gradients, N n_w (n_w + n_phi) of second derivatives."""
    return Cost(steps * n_w + n_w + n_phi, steps * n_w * (n_w + n_phi))


def maml_cost(n_w: int, n_phi: int, steps: int) -> Cost:
    """Count MAML's entries: ANIL with everything in w."""
    return anil_cost(n_w + n_phi, 0, steps)


def cost_of_bound(steps: Tensor, q: float, c1: float, c2: float) -> Tensor:
    """Return the shape of the total cost to reach a given accuracy, (N + 1) (c1 + c2 q^N)^2, up to a factor."""
    return (steps + 1) * (c1 + c2 * q**steps) ** 2


def _step_allowed(alpha: float, L: float) -> None:
    if alpha > 1 / L:
        raise ValueError(f"alpha={alpha}: the bounds hold for alpha <= 1/L = {1 / L:.4g}")


def _spectral_norm(block: Float[Tensor, "points rows columns"]) -> Float[Tensor, " points"]:
    # An instance without phi has empty blocks, of which torch knows no spectral norm.
    return torch.linalg.matrix_norm(block, 2) if block.numel() else block.new_zeros(len(block))
