"""Finite sets of tasks in two inner geometries: strongly convex (quadratic, log-cosh), nonconvex (two layers).

At common parameters phi an instance is `TaskLosses` in w; gradients and constants come without any learner. The two
strongly convex instances can also be written as a linear model on examples (`TwoBlocks`, `batch`, `loss`): then
`ctml.ANIL` itself runs them.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.checks import at_least, positive
from ctml.tasks.analytic import LossFunctions, TaskLosses, TaskTable, log_cosh, quadratic
from ctml.types import Examples, TaskBatch


@runtime_checkable
class Instance(Protocol):
    """Tasks with common parameters phi; `ctml.tasks.Cosine`, which has none, is one too."""

    def given(self, phi: Float[Tensor, " n_phi"]) -> TaskLosses:
        """Return the tasks at phi: L_S and L_Q, each as a function of the tasks' own w `(tasks, n_w)`."""
        ...


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


class TwoBlocks(nn.Module):
    """A linear model, x_w w + x_phi phi, whose parameters are called w and phi."""

    def __init__(self, w: Float[Tensor, " n_w"], phi: Float[Tensor, " n_phi"]):
        super().__init__()
        self.w, self.phi = nn.Parameter(w.clone()), nn.Parameter(phi.clone())

    def forward(self, x: Float[Tensor, "tasks n both"], context: Tensor | None = None) -> Float[Tensor, "tasks n 1"]:
        x_w, x_phi = x.split([self.w.shape[-1], self.phi.shape[-1]], dim=-1)
        return x_w @ self.w.unsqueeze(-1) + x_phi @ self.phi.unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class QuadraticTasks(TaskTable):
    """L_S = 1/2 (w - C phi - c)' A (w - C phi - c) and L_Q = 1/2 (w - D phi - d)' E (w - D phi - d)."""

    A: Float[Tensor, "tasks n_w n_w"]
    C: Float[Tensor, "tasks n_w n_phi"]
    c: Float[Tensor, "tasks n_w"]
    E: Float[Tensor, "tasks n_w n_w"]
    D: Float[Tensor, "tasks n_w n_phi"]
    d: Float[Tensor, "tasks n_w"]
    ridge: float = 0.0

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

    def given(self, phi: Float[Tensor, " n_phi"]) -> TaskLosses:
        """Return the tasks at phi."""
        return LossFunctions(
            support=lambda w: quadratic(self.A, w - self.C @ phi - self.c),
            query=lambda w: quadratic(self.E, w - self.D @ phi - self.d),
            n_tasks=self.n_tasks,
        )

    def adapted(self, w: Tensor, phi: Tensor, alpha: float, steps: int) -> Float[Tensor, "tasks n_w"]:
        """Return w_N in closed form: s + (I - alpha A)^N (w - s), s = C phi + c."""
        s = self.C @ phi + self.c
        return s + (torch.linalg.matrix_power(_eye_like(self.A) - alpha * self.A, steps) @ (w - s)[..., None])[..., 0]

    def batch(self) -> TaskBatch:
        """Write the tasks as examples of `TwoBlocks`: rows of the matrices' roots."""

        def least_squares(matrix: Tensor, map_: Tensor, offset: Tensor) -> Examples:
            root = torch.linalg.cholesky(matrix).mT
            return Examples(torch.cat([root, -root @ map_], -1), root @ offset[..., None])

        return TaskBatch(least_squares(self.A, self.C, self.c), least_squares(self.E, self.D, self.d))

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor) -> Float[Tensor, " tasks"]:
        """Return half the sum of squares: L_S or L_Q on `batch`'s examples."""
        return 0.5 * (outputs - targets).square().flatten(1).sum(1)


@dataclass(frozen=True, repr=False)
class LogCoshTasks(TaskTable):
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

    def given(self, phi: Float[Tensor, " n_phi"]) -> TaskLosses:
        """Return the tasks at phi."""
        return LossFunctions(
            support=lambda w: self._fit(w, phi)[0] + 0.5 * self.ridge * w.square().sum(-1),
            query=lambda w: self._fit(w, phi)[1],
            n_tasks=self.n_tasks,
        )

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

    def batch(self) -> TaskBatch:
        """Write the tasks as examples of `TwoBlocks`."""
        x, y = torch.cat([self.x, self.z], -1), self.y[..., None]
        n = x.shape[1] // 2
        return TaskBatch(Examples(x[:, :n], y[:, :n]), Examples(x[:, n:], y[:, n:]))

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor) -> Float[Tensor, " tasks"]:
        """Return the mean log cosh: L_Q, and L_S without its ridge, on `batch`'s examples."""
        return log_cosh(outputs - targets).flatten(1).mean(1)


@dataclass(frozen=True, repr=False)
class TwoLayerTasks(TaskTable):
    """Regression by a two-layer head, L = 1/2 mean (v' tanh(U' (e^phi x)) - y)^2, w = (U, v); nonconvex.

    The common parameters phi scale the inputs; y = sin 2 u'x with a direction u for each task.
    """

    x: Float[Tensor, "tasks n inputs"]
    y: Float[Tensor, "tasks n"]
    hidden: int

    @classmethod
    def draw(
        cls, generator: torch.Generator, *, n_tasks: int = 5, n: int = 10, inputs: int = 4, hidden: int = 4
    ) -> "TwoLayerTasks":
        """Draw standard normal inputs and directions; the first half of the examples is the support."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, dtype=torch.float64)

        x, u = normal(2 * n, inputs), normal(inputs, 1)
        return cls(x, torch.sin(2 * (x @ u)[..., 0]), hidden)

    @property
    def n_w(self) -> int:
        """Number of entries of U and v."""
        return (self.x.shape[-1] + 1) * self.hidden

    def given(self, phi: Float[Tensor, " inputs"]) -> TaskLosses:
        """Return the tasks at phi."""
        return LossFunctions(lambda w: self._fit(w, phi)[0], lambda w: self._fit(w, phi)[1], self.n_tasks)

    def _fit(self, w, phi):
        U, v = w[..., : -self.hidden].unflatten(-1, (-1, self.hidden)), w[..., -self.hidden :]
        outputs = (torch.tanh((self.x * phi.exp()) @ U) @ v[..., None])[..., 0]
        return (0.5 * (outputs - self.y).square()).unflatten(-1, (2, -1)).mean(-1).unbind(-1)


def _eye_like(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype)
