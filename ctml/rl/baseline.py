"""The linear feature baseline: an estimate of the reward to go by ridge regression, one per task (Duan et al. 2016).

b(o, t) = w . [o, o*o, t, t^2, t^3, 1],   t = step / 100
w = argmin sum_taken (b - R)^2 + ridge |w|^2
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.rl.trajectories import Trajectories

TIME_UNIT = 100  # steps; keeps t and its powers near one
LARGEST_OBSERVATION = 10.0


def features(trajectories: Trajectories) -> Float[Tensor, "tasks samples feature"]:
    """Return [o, o*o, t, t^2, t^3, 1] of every step, trajectories one after another, in float64."""
    o = trajectories.observations.double().clamp(-LARGEST_OBSERVATION, LARGEST_OBSERVATION)
    t = torch.arange(o.shape[2], device=o.device, dtype=o.dtype)[:, None] / TIME_UNIT
    time = torch.cat([t, t**2, t**3, torch.ones_like(t)], -1).expand(*o.shape[:-1], 4)
    return torch.cat([o, o.square(), time], -1).flatten(1, 2)


def baseline(
    trajectories: Trajectories, to_go: Float[Tensor, "tasks n horizon"], ridge: float = 1e-5
) -> Float[Tensor, "tasks n horizon"]:
    """Fit on these very trajectories and return the fitted b at each of their steps."""
    x = features(trajectories)
    weighted = x * trajectories.taken.flatten(1)[..., None]
    eye = torch.eye(x.shape[-1], device=x.device, dtype=x.dtype)
    w = torch.linalg.solve(weighted.mT @ x + ridge * eye, weighted.mT @ to_go.double().flatten(1)[..., None])
    return (x @ w)[..., 0].view_as(to_go).to(to_go.dtype)
