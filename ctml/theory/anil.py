"""Instances with known constants for ANIL, the curvature of its meta-objective, bounds on it, and costs.

    F(w, phi) = mean_i L_Q,i(w_N^i, phi),   w_0^i = w,   w_{m+1}^i = w_m^i - alpha grad_w L_S,i(w_m^i, phi)

Ji, Lee, Liang, Poor (2020) bound how F's curvature grows or shrinks with N in two geometries of the inner loss. The
theorems' own constants were not readable to us: the bounds here are derived (for alpha <= 1/L), of the same type, and
checked on the instances. Everything is float64 and free of `ctml.learners`: it is the oracle those are tested against.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, hessian, vmap

from ctml.checks import at_least, positive

GEOMETRIES = ("strongly-convex", "nonconvex")


@runtime_checkable
class Instance(Protocol):
    """A finite set of tasks whose losses are functions of w and phi alone."""

    def inner(self, w: Float[Tensor, "tasks n_w"], phi: Float[Tensor, " n_phi"]) -> Float[Tensor, " tasks"]:
        """Return L_S of every task at its own w."""
        ...

    def outer(self, w: Float[Tensor, "tasks n_w"], phi: Float[Tensor, " n_phi"]) -> Float[Tensor, " tasks"]:
        """Return L_Q of every task at its own w."""
        ...

    @property
    def n_tasks(self) -> int: ...


class Constants(NamedTuple):
    """What the bounds are made of; each holds for every task of an instance.

    Attributes:
        mu: strong convexity of L_S in w; 0 for the nonconvex geometry.
        L: Lipschitz constant of grad L_S and grad L_Q in (w, phi).
        rho, tau: Lipschitz constants of d2L_S/dw2 and of d2L_S/dphi dw in (w, phi).
        M: largest |grad L_Q|.
    """

    mu: float
    L: float
    rho: float
    tau: float
    M: float

    @property
    def kappa(self) -> float:
        """Condition number L / mu."""
        return self.L / self.mu


class Bounds(NamedTuple):
    """Upper bounds on F's gradient and on the spectral norms of its Hessian's blocks."""

    gradient_w: float
    gradient_phi: float
    ww: float
    w_phi: float
    phi_phi: float


@dataclass(frozen=True)
class QuadraticTasks:
    """L_S = 1/2 (w - C phi - c)' A (w - C phi - c) and L_Q = 1/2 (w - D phi - d)' E (w - D phi - d)."""

    A: Float[Tensor, "tasks n_w n_w"]
    C: Float[Tensor, "tasks n_w n_phi"]
    c: Float[Tensor, "tasks n_w"]
    E: Float[Tensor, "tasks n_w n_w"]
    D: Float[Tensor, "tasks n_w n_phi"]
    d: Float[Tensor, "tasks n_w"]

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        *,
        n_tasks: int = 5,
        n_w: int = 6,
        n_phi: int = 4,
        curvature: tuple[float, float] = (0.5, 2.0),
    ) -> "QuadraticTasks":
        """Draw tasks whose A and E have evenly spaced eigenvalues between the ends of `curvature`, and random bases."""
        positive("curvature[0]", curvature[0])
        at_least("curvature[1]", curvature[1], curvature[0])

        def normal(*shape: int) -> Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, dtype=torch.float64)

        def definite() -> Tensor:
            basis, _ = torch.linalg.qr(normal(n_w, n_w))
            return (basis * torch.linspace(*curvature, n_w, dtype=torch.float64)) @ basis.mT

        scale = n_phi**-0.5
        return cls(
            definite(), scale * normal(n_w, n_phi), normal(n_w), definite(), scale * normal(n_w, n_phi), normal(n_w)
        )

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.A)

    def inner(self, w, phi):
        """Return L_S of every task."""
        return _half_square(self.A, w - self.C @ phi - self.c)

    def outer(self, w, phi):
        """Return L_Q of every task."""
        return _half_square(self.E, w - self.D @ phi - self.d)

    def adapted(self, w: Tensor, phi: Tensor, alpha: float, steps: int) -> Float[Tensor, "tasks n_w"]:
        """Return w_N in closed form: s + (I - alpha A)^N (w - s), s = C phi + c."""
        s = self.C @ phi + self.c
        return s + (torch.linalg.matrix_power(_eye_like(self.A) - alpha * self.A, steps) @ (w - s)[..., None])[..., 0]


@dataclass(frozen=True)
class LogCoshTasks:
    """L = mean log cosh(X w + Z phi - y), strongly convex in w by the ridge (mu/2)|w|^2 of the support loss."""

    x: Float[Tensor, "tasks n n_w"]
    z: Float[Tensor, "tasks n n_phi"]
    y: Float[Tensor, "tasks n"]
    ridge: float

    @classmethod
    def draw(
        cls, generator: torch.Generator, *, n_tasks: int = 5, n: int = 20, n_w: int = 6, n_phi: int = 4, ridge=0.5
    ) -> "LogCoshTasks":
        """Draw standard normal data; the first half of the examples is the support, the second the query."""
        positive("ridge", ridge)

        def normal(*shape: int) -> Tensor:
            return torch.randn(n_tasks, 2 * n, *shape, generator=generator, dtype=torch.float64)

        return cls(n_w**-0.5 * normal(n_w), n_phi**-0.5 * normal(n_phi), 2 * normal(), ridge)

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.x)

    def inner(self, w, phi):
        """Return L_S of every task."""
        return self._fit(w, phi)[0] + 0.5 * self.ridge * w.square().sum(-1)

    def outer(self, w, phi):
        """Return L_Q of every task."""
        return self._fit(w, phi)[1]

    def _fit(self, w, phi):
        residuals = (self.x @ w[..., None])[..., 0] + self.z @ phi - self.y
        return log_cosh(residuals).unflatten(-1, (2, -1)).mean(-1).unbind(-1)

    def constants(self) -> Constants:
        """Return constants that hold everywhere, from |tanh| <= 1, sech^2 <= 1 and |(sech^2)'| <= 4 / (3 sqrt 3)."""
        u = torch.cat([self.x, self.z], -1)
        n = u.shape[1] // 2
        curvature = torch.linalg.matrix_norm(u.unflatten(1, (2, n)), 2).square().max() / n + self.ridge
        lengths = {k: torch.linalg.vector_norm(v, dim=-1) for k, v in dict(u=u, x=self.x, z=self.z).items()}
        third = 4 / 27**0.5

        def largest(per_example: Tensor, part: slice) -> float:
            return float(per_example[:, part].mean(1).max())

        support, query = slice(None, n), slice(n, None)
        return Constants(
            mu=self.ridge,
            L=float(curvature),
            rho=third * largest(lengths["u"] * lengths["x"] ** 2, support),
            tau=third * largest(lengths["u"] * lengths["x"] * lengths["z"], support),
            M=largest(lengths["u"], query),
        )


@dataclass(frozen=True)
class CosineTask:
    """L_S = cos w, L_Q = 1/2 (w - target)^2: nonconvex in one dimension, no phi; L = rho = 1."""

    target: float = 0.3
    n_tasks: int = 1

    def inner(self, w, phi):
        """Return L_S of the task."""
        return w.cos().sum(-1)

    def outer(self, w, phi):
        """Return L_Q of the task."""
        return 0.5 * (w - self.target).square().sum(-1)


def log_cosh(r: Tensor) -> Tensor:
    """Return log cosh r without overflow."""
    return r.abs() + torch.nn.functional.softplus(-2 * r.abs()) - torch.log(r.new_tensor(2.0))


def adapt(instance: Instance, w: Tensor, phi: Tensor, alpha: float, steps: int) -> Float[Tensor, "tasks n_w"]:
    """Return w_N of every task from the common start w `(n_w,)`."""
    w = w.expand(instance.n_tasks, *w.shape)
    for _ in range(steps):
        w = w - alpha * grad(lambda w: instance.inner(w, phi).sum())(w)
    return w


def meta_objective(instance: Instance, w: Tensor, phi: Tensor, alpha: float, steps: int) -> Float[Tensor, ""]:
    """Return F(w, phi)."""
    return instance.outer(adapt(instance, w, phi, alpha, steps), phi).mean()


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


def _half_square(matrix: Tensor, r: Tensor) -> Tensor:
    return 0.5 * torch.einsum("td,tde,te->t", r, matrix, r)


def _eye_like(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype)
