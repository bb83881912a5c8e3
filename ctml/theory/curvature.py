"""Extreme curvatures of a task's loss where its Hessian is too large to write down."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from ctml.tasks.analytic import Losses


def extreme_curvatures(loss: Losses, phi: Float[Tensor, "tasks d"], accuracy: float = 1e-3) -> Float[Tensor, "tasks 2"]:
    """Return the least and the largest eigenvalue of each task's Hessian, by Lanczos on Hessian-vector products.

    H v = d/dr grad f(phi + r v) at r = 0

    Args:
        loss: f, `(tasks, d)` to `(tasks,)`.
        phi: where; float64 is best.
        accuracy: relative, of the eigenvalues.
    """
    with torch.enable_grad():
        phi = phi.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(phi).sum(), phi, create_graph=True)
    tasks, d = phi.shape

    def extremes(task: int) -> list[float]:
        def product(v: np.ndarray) -> np.ndarray:
            direction = torch.zeros_like(phi)
            direction[task] = torch.from_numpy(np.array(v).ravel()).to(phi)
            return torch.autograd.grad(slope, phi, direction, retain_graph=True)[0][task].double().cpu().numpy()

        hessian = LinearOperator((d, d), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        start = np.random.default_rng(0).standard_normal(d)  # the default start differs from call to call
        options: Any = {"tol": accuracy, "v0": start, "return_eigenvectors": False}
        least, most = (eigsh(hessian, 1, which=end, **options) for end in ("SA", "LA"))
        return [float(least[0]), float(most[0])]

    return torch.tensor([extremes(task) for task in range(tasks)], dtype=phi.dtype, device=phi.device)
