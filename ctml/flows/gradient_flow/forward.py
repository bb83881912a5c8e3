r"""Forward-mode meta-gradients: the method of the paper (Deleu et al. 2022, equations 10 to 13).

The Jacobians of W(t) would take N^2 d^2 + M N d^2 numbers; they decompose over pairs of support embeddings:

    dW(t)/dW_0   = I - sum_ij B[i,j] (x) phi_i phi_j^T
    dW(t)/dphi_m = -( s_m (x) I + sum_i B[i,m] W_0 (x) phi_i + sum_ij z[i,m,j] phi_j^T (x) phi_i )
    dB[i,j]/dt   = A_i ( 1(i=j) I - sum_k G_ik B[k,j] )
    dz[i,m,j]/dt = -A_i ( 1(i=m) s_j + 1(i=j) s_m + sum_k G_ik z[k,m,j] ),     A_i = w_i dlink/dz at example i

B is M x M x N x N, z is M x M x M x N: constant memory, whatever the number of steps, and no backward integration.
Both obey one linear equation with different sources, dX/dt = A (source - G X), so they are kept side by side as one X
of shape (M, N, M N + M M): rows (i, n), columns (j, n') for B and (m, j) for z. A and G are positive semi-definite, so
this system is stable; its steps are those that s alone asks for, which makes the result the exact derivative of the
steps taken in Phi and W_0. The derivative in T is the flow's own, equation 13.

At the end, with V = dLoss/dW(T) and P = Phi V^T, the projections C = sum_i P_i B[i,:] and D = sum_i P_i z[i,:,:] give

    dLoss/dW_0 = V - C^T Phi,     dLoss/dPhi = -(s V + C W_0 + D Phi),     dLoss/dT = -<V, dL/dW(T)>
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Steps


class Sensitivities:
    """The right-hand side of (s, B, z), time in units of the horizon.

    Args:
        flow: the flow of the head.
    """

    def __init__(self, flow: HeadFlow):
        self.gram = flow.features @ flow.features.transpose(1, 2)
        self.logits = flow.features @ flow.head.transpose(-1, -2)
        self.targets, self.link = flow.targets, flow.loss.link
        self.horizon, self.weights = flow.horizon, flow.weights
        n_tasks, support, ways = flow.targets.shape
        self.tasks, self.support, self.ways = n_tasks, support, ways
        self.of_s = support * ways
        self.columns = support * ways + support * support
        self.numbers = self.of_s * (1 + self.columns)
        self.one_hot = torch.eye(ways, dtype=self.targets.dtype, device=self.targets.device)

    def start(self) -> Float[Tensor, "tasks numbers"]:
        """Return the state at t = 0: nothing has moved."""
        return self.logits.new_zeros(self.tasks, self.numbers)

    def split(self, state: Float[Tensor, "tasks numbers"]) -> tuple[Tensor, Tensor]:
        """Return s `(tasks, M, N)` and X `(tasks, M, N, M N + M M)`."""
        s, x = state.split([self.of_s, self.numbers - self.of_s], dim=1)
        return s.view(-1, self.support, self.ways), x.view(-1, self.support, self.ways, self.columns)

    def residual(self, s: Float[Tensor, "tasks support ways"]) -> tuple[Tensor, Tensor]:
        """Return ds/dt and the predictions p."""
        predicted = self.link.predict((self.logits - self.gram @ s).mT).mT
        return self.weights[..., None] * (predicted - self.targets), predicted

    def slope(self, state: Float[Tensor, "tasks numbers"], out: Float[Tensor, "tasks numbers"]) -> None:
        """Write the derivative of (s, B, z)."""
        s, x = self.split(state)
        ds, dx = self.split(out)
        velocity, predicted = self.residual(s)
        torch.mul(velocity, self.horizon[:, None, None], out=ds)
        # R = source - G X, then dX = T A R.
        torch.matmul(self.gram, x.flatten(2), out=dx.view(self.tasks, self.support, -1))
        dx.neg_()
        of_b = dx[..., : self.of_s].unflatten(-1, (self.support, self.ways))  # (tasks, i, n, j, n')
        of_z = dx[..., self.of_s :].unflatten(-1, (self.support, self.support))  # (tasks, i, n, m, j)
        of_b.diagonal(dim1=1, dim2=3).add_(self.one_hot[..., None])
        of_z.diagonal(dim1=1, dim2=3).sub_(s.mT[..., None])  # i = m: s_j; axes (tasks, n, j, i)
        of_z.diagonal(dim1=1, dim2=4).sub_(s.mT[..., None])  # i = j: s_m; axes (tasks, n, m, i)
        curvature = self.curvature(predicted)
        dx.copy_((curvature.flatten(0, 1) @ dx.flatten(0, 1)).view_as(dx))

    def tolerance(self, atol: float) -> Float[Tensor, "tasks numbers"]:
        """Watch s alone: its steps are those of the reduced flow."""
        of_all = self.logits.new_full((self.tasks, self.numbers), torch.inf)
        of_all[:, : self.of_s] = atol
        return of_all

    def safe_step(self) -> Float[Tensor, " tasks"]:
        """Return the first step that the reduced flow would take (see `ReducedFlow.safe_step`)."""
        rate = (self.horizon * self.weights.T).T[..., None] * self.gram
        return 1 / rate.flatten(1).norm(dim=1).clamp(min=1)

    def jacobian(self, state: Tensor, _: Tensor, v: Tensor) -> Float[Tensor, "tasks s"]:
        """Return T A G v, minus the derivative of the slope of s; of `v` only the part of s counts."""
        s, _ = self.split(state)
        logits = self.gram @ v[:, : self.of_s].view_as(s)
        pulled = self.link.pull_back(logits.mT.contiguous(), self.residual(s)[1].mT.contiguous()).mT
        return ((self.horizon[:, None] * self.weights)[..., None] * pulled).flatten(1)

    def curvature(self, predicted: Float[Tensor, "tasks support ways"]) -> Float[Tensor, "tasks support ways ways"]:
        """Return T A_i, one N x N matrix per example."""
        columns = predicted[..., None].expand(*predicted.shape, self.ways)
        directions = self.one_hot.expand_as(columns)
        pulled = self.link.pull_back(directions.contiguous(), columns.contiguous())
        return (self.horizon[:, None] * self.weights)[..., None, None] * pulled


@dataclass(frozen=True)
class ForwardMode:
    """The paper's sensitivities, carried along: constant memory, whatever the number of steps."""

    def through(self, flow: HeadFlow, steps: Steps) -> Float[Tensor, "tasks ways d"]:
        """Return W(T), differentiable in Phi, W_0 and T."""
        flow.refuse_gradient("weights", self)
        flow.refuse_gradient("labels", self)
        given = flow.features, flow.targets, flow.head, flow.horizon, flow.weights
        return CarrySensitivities.apply(*given, flow.loss, steps)


class CarrySensitivities(torch.autograd.Function):
    """W(T) as a function of Phi, W_0 and T, carrying B and z instead of a graph."""

    @staticmethod
    def forward(ctx, features, targets, head, horizon, weights, loss, steps: Steps):
        """Integrate (s, B, z) together."""
        system = Sensitivities(HeadFlow(features, targets, head, horizon, weights, loss))
        s, sensitivities = system.split(steps.integrate(system.slope, system.start(), watched=system).final)
        velocity, _ = system.residual(s)
        ctx.save_for_backward(features, head, s, sensitivities, velocity)
        return head - s.mT @ features

    @staticmethod
    @once_differentiable
    def backward(ctx, v):
        """Project the sensitivities on V = dLoss/dW(T)."""
        features, head, s, sensitivities, velocity = ctx.saved_tensors
        n_tasks, support, ways = s.shape
        p = features @ v.mT
        projected = (p.reshape(n_tasks, 1, -1) @ sensitivities.flatten(1, 2))[:, 0]
        c = projected[:, : support * ways].unflatten(1, (support, ways))
        d = projected[:, support * ways :].unflatten(1, (support, support))
        d_features = -(s @ v + c @ head + d @ features)
        d_head = v - c.mT @ features
        d_horizon = -(p * velocity).sum((1, 2))
        return d_features, None, d_head, d_horizon, None, None, None
