"""Quadratic tasks: everything about them is known in closed form, so they are the oracle of the theory notebooks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.tasks.analytic import TaskTable, quadratic


@dataclass(frozen=True, repr=False)
class Quadratic(TaskTable):
    """A finite set of tasks f_i(w) = 1/2 (w - c_i)' H_i (w - c_i).

    These tasks have no examples: a loss is a function of w alone, the same for support and query
    (the oracle setting of Xu, Chen and Karbasi 2021).

    Args:
        hessian: H_i, symmetric positive definite.
        centre: c_i, the tasks' minimisers.
    """

    hessian: Float[Tensor, "*families tasks d d"]
    centre: Float[Tensor, "*families tasks d"]

    @classmethod
    def draw(
        cls,
        n_tasks: int,
        dim: int,
        generator: torch.Generator,
        *,
        curvature: tuple[float, float] = (1.0, 5.0),
        spread: float = 2.0,
        shared_hessian: bool = False,
    ) -> "Quadratic":
        """Draw tasks in float64: eigenvalues uniform in `curvature`, random eigenvectors, c_i ~ spread * N(0, I)."""
        at_least("n_tasks", n_tasks, 1)
        at_least("dim", dim, 1)
        positive("curvature[0]", curvature[0])
        at_least("curvature[1]", curvature[1], curvature[0])
        n_hessians = 1 if shared_hessian else n_tasks
        draws = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        eigenvalues = curvature[0] + (curvature[1] - curvature[0]) * torch.rand(n_hessians, dim, **draws)
        basis, _ = torch.linalg.qr(torch.randn(n_hessians, dim, dim, **draws))
        hessian = (basis * eigenvalues[:, None]) @ basis.mT
        return cls(hessian.expand(n_tasks, dim, dim), spread * torch.randn(n_tasks, dim, **draws))

    def loss(self, w: Float[Tensor, "... d"]) -> Float[Tensor, "... tasks"]:
        """Return f_i(w) for every task; w may carry leading axes."""
        return self.support(w[..., None, :])

    def support(self, points: Float[Tensor, "... #tasks d"]) -> Float[Tensor, "... tasks"]:
        """Return f_i(w_i), each task's loss at its own point."""
        return quadratic(self.hessian, points - self.centre)

    query = support  # the oracle setting: one function is both

    def gradient(self, w: Float[Tensor, "... d"]) -> Float[Tensor, "... tasks d"]:
        """Return grad f_i(w) = H_i (w - c_i) for every task."""
        return torch.einsum("tde,...te->...td", self.hessian, w[..., None, :] - self.centre)
