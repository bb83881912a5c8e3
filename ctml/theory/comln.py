"""What COMLN carries forward with the flow, and why that is stable (Deleu et al. 2022, section 3.3 and appendix D).

    ds/dt = (softmax(L_0 - G s) - Y) / M,     dB/dt = A (I - G B),     B = ds/dL_0

A = blockdiag(A_i) with A_i = (diag(p_i) - p_i p_i^T) / M and G = Phi Phi^T (x) I are positive semi-definite. So the
rates, the eigenvalues of A G, are real and not negative, and with Y = G^1/2 B G^1/2

    d(I - Y)/dt = -G^1/2 A G^1/2 (I - Y):     |I - Y| can only fall from its start

In the norm |v|_G = (v' G v)^1/2 two solutions can only come closer, those of s as those of B and z along one path of s:
`growth_of_a_nudge` pushes them and looks. What remains after a push is bounded, and so are B and z (with kappa the
condition number of Phi Phi^T; r = source - G X has dr/dt = d source/dt - G A r, which shrinks in |r|_{G^-1}):

    |B| <= kappa^1/2 T / 2M  and  |B| <= 2 / lambda_min,      |z| <= (kappa (M + 1) / M)^1/2 T^2 / 2M  (Frobenius)

The paper states the stability; its proof could not be read, the argument is ours.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torchdiffeq import odeint

from ctml.agreement import relative_error
from ctml.flows.gradient_flow import CrossEntropy, FixedSteps, HeadFlow, InnerLoss, Steps
from ctml.flows.gradient_flow.forward import Sensitivities
from ctml.flows.tableaus import EULER
from ctml.learners.anil import ANIL
from ctml.learners.comln import COMLN
from ctml.losses import cross_entropy
from ctml.types import Model, TaskBatch


class Carried(NamedTuple):
    """The state of forward mode at T, one axis for each index of the paper."""

    s: Float[Tensor, "tasks M N"]
    B: Float[Tensor, "tasks M N M N"]
    """B[i,j]_nn' is B[:, i, n, j, n']."""
    z: Float[Tensor, "tasks M N M M"]
    """z[i,m,j]_n is z[:, i, n, m, j]."""
    A: Float[Tensor, "tasks M N N"]
    G: Float[Tensor, "tasks M M"]

    def rates(self) -> Complex[Tensor, "tasks MN"]:
        """Return the eigenvalues of A G: how fast the system contracts at T."""
        return torch.linalg.eigvals(self._full_A() @ self._full_G())

    def contraction(self) -> Float[Tensor, " tasks"]:
        """Return |I - Y|, Y = G^1/2 B G^1/2, in the Frobenius norm, relative to its start."""
        root = _root(self._full_G())
        unit = torch.eye(root.shape[-1], dtype=root.dtype)
        return (unit - root @ self._full_B() @ root).flatten(1).norm(dim=1) / len(unit) ** 0.5

    def stability(self) -> dict[str, float]:
        """Return the extremes over the tasks: the rates at T, the norms of B (spectral) and z, the contraction."""
        rates = self.rates()
        return {
            "slowest": float(rates.real.min()),
            "fastest": float(rates.real.max()),
            "imaginary": float(rates.imag.abs().max()),
            "B": float(torch.linalg.matrix_norm(self._full_B(), 2).max()),
            "z": float(self.z.flatten(1).norm(dim=1).max()),
            "contraction": float(self.contraction().max()),
        }

    def bounds(self, horizon: float) -> dict[str, float]:
        """Return what the norms of B and z at T cannot exceed, whatever the labels and the head.

        Raises:
            ValueError: if the embeddings of a task are linearly dependent, for which there is no such bound.
        """
        values, support = torch.linalg.eigvalsh(self.G), self.G.shape[-1]
        least, most = values[:, 0], values[:, -1]
        if (least <= most * support * torch.finfo(values.dtype).eps).any():
            raise ValueError(f"G has rank below {support}: the bounds need linearly independent embeddings (M <= d)")
        reach = (most / least).sqrt() * horizon / (2 * support)  # |A_i| <= 1 / 2M for any probabilities
        return {
            "B": float(torch.minimum(reach, 2 / least).max()),
            "z": float(reach.max()) * horizon * (1 + 1 / support) ** 0.5,
        }

    def _full_B(self) -> Float[Tensor, "tasks MN MN"]:
        return self.B.flatten(3).flatten(1, 2)

    def _full_A(self) -> Float[Tensor, "tasks MN MN"]:
        return torch.stack([torch.block_diag(*blocks) for blocks in self.A])

    def _full_G(self) -> Float[Tensor, "tasks MN MN"]:
        unit = torch.eye(self.s.shape[-1], dtype=self.s.dtype)
        return torch.stack([torch.kron(gram.contiguous(), unit) for gram in self.G])


def carried_forward(
    features: Float[Tensor, "tasks M d"],
    labels: Int[Tensor, "tasks M"],
    head: Float[Tensor, "N d"],
    horizon: float,
    solver: Steps,
    loss: InnerLoss = CrossEntropy(),  # noqa: B008 - frozen
) -> Carried:
    """Integrate (s, B, z) to T from (0, 0, 0) and take them apart.

    Args:
        features, labels, head, horizon: Phi, y, W_0 and T.
        solver: of the whole system.
        loss: with `SquaredError()` A_i = I / M does not fade.
    """
    support, ways = features.shape[1], len(head)
    system = Sensitivities(HeadFlow.of(features, labels, head, features.new_tensor(horizon), None, loss))
    s, both = system.split(solver.integrate(system.slope, system.start()).final)
    B, z = both.split([support * ways, support * support], dim=-1)
    return Carried(
        s,
        B.unflatten(-1, (support, ways)),
        z.unflatten(-1, (support, support)),
        system.curvature(system.residual(s)[1]) / horizon,
        system.gram,
    )


def growth_of_a_nudge(
    features: Float[Tensor, "1 M d"],
    labels: Int[Tensor, "1 M"],
    head: Float[Tensor, "N d"],
    horizon: float,
    solver: Steps,
    *,
    nudges: int,
    stream: torch.Generator,
    size: float = 1e-4,
    system: type[Sensitivities] = Sensitivities,
) -> dict[str, float]:
    """Push the state of one task at t = 0 at random, follow it to T, and compare with the path that was not pushed.

    Args:
        features, labels, head, horizon, solver: as in `carried_forward`.
        nudges: how many random pushes; the largest growth is returned.
        stream: draws them.
        size: of the push of s; B and z obey linear equations, for which it does not matter.
        system: the right-hand side, to be replaced by one that is not stable.

    Returns:
        |push at T| over |push at 0|, in the norm of G: of "s", and of "B and z" along an unpushed path of s.
    """
    features, labels = features.expand(nudges, -1, -1), labels.expand(nudges, -1)
    given = HeadFlow.of(features, labels, head, features.new_tensor(horizon), None, CrossEntropy())
    flow = system(given)
    push = torch.randn(flow.start().shape, generator=stream, dtype=features.dtype)
    of_s, of_both = push.clone(), push.clone()
    of_s[:, flow.of_s :] = 0
    of_both[:, : flow.of_s] = 0

    def apart(start: Tensor, part: int) -> Tensor:
        """Return the distance in that part of the state, before and after."""
        ends = [solver.integrate(flow.slope, y, watched=flow).final for y in (flow.start() + start, flow.start())]
        both = (flow.split(start)[part], flow.split(ends[0] - ends[1])[part])
        before, after = ((v.flatten(2).mul(flow.gram @ v.flatten(2))).sum((1, 2)).sqrt() for v in both)
        return after / before

    return {"s": float(apart(size * of_s, 0).max()), "B and z": float(apart(of_both, 1).max())}


def there_and_back(
    curvature: Float[Tensor, "M M"], start: Float[Tensor, "M N"], grid: Float[Tensor, " times"], tolerance: float
) -> tuple[Float[Tensor, "times M N"], Float[Tensor, "times M N"]]:
    """Follow dr/dt = -curvature r by torchdiffeq's Dormand-Prince; return the path, and the path from its end back.

    Args:
        curvature, start, grid: the quadratic's matrix, r(0), and the times of the path.
        tolerance: relative and absolute.
    """

    def slope(_: Tensor, r: Tensor) -> Tensor:
        return -curvature @ r

    options = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
    forward = cast(Tensor, odeint(slope, start, grid, **options))
    return forward, cast(Tensor, odeint(slope, forward[-1], grid.flip(0), **options)).flip(0)


def largest_rates(features: Float[Tensor, "tasks M d"]) -> Float[Tensor, " tasks"]:
    """Return lambda_max(G) / M: T means something only times this, for it scales with the square of the features."""
    return torch.linalg.eigvalsh(features @ features.mT)[:, -1] / features.shape[1]


def apart_from_anil(model: Callable[[], nn.Module], batch: TaskBatch, rate: float, steps: int) -> dict[str, float]:
    """Return how far COMLN's Euler steps are from ANIL that adapts the head's weight: adapted weights, meta-gradients.

    Args:
        model: makes the network, the same at each call; its head's bias is set to zero, for COMLN's head has none.
        batch: tasks, of the network's dtype.
        rate, steps: alpha and K of ANIL; T = K alpha.
    """
    networks = model(), model()
    for network in networks:
        cast(nn.Linear, network.head).bias.data.zero_()
    euler = COMLN(cast(Model, networks[0]), cross_entropy, horizon=rate * steps, solver=FixedSteps(steps, EULER))
    anil = ANIL(cast(Model, networks[1]), cross_entropy, inner_lr=rate, inner_steps=steps, adapts="head.weight")
    flat = []
    for learner in (euler, anil):
        learner.meta_gradient(batch)
        named = cast(nn.Module, learner.model).named_parameters()
        flat.append(torch.cat([cast(Tensor, p.grad).flatten() for name, p in named if name != "head.bias"]))
    adapted = (learner.adapt(batch.support)["weight"] for learner in (euler, anil))
    return {"weights": relative_error(*adapted), "meta-gradients": relative_error(*flat)}


def _root(matrix: Float[Tensor, "tasks n n"]) -> Float[Tensor, "tasks n n"]:
    """Return the square root of positive semi-definite matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT
