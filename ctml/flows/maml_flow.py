"""Meta-training in continuous time: integrate dw/dt = field(w) from many initial points at once.

    MAML's gradient descent  w_{k+1} = w_k - beta grad F(w_k)  is explicit Euler with step beta  on  dw/dt = -grad F(w)

The numerical method is torchdiffeq's: "dopri5" chooses its own steps, so no outer step size is left; "euler", "heun2"
and "rk4" step from one of `times` to the next. BI-MAML's change of field is an event of the first flow.

Source: Xu, Chen and Karbasi 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torchdiffeq import odeint

from ctml.checks import positive
from ctml.flows.maml_field import Field, hessian

Gap = Callable[[Tensor], Tensor]
"""Maps points (*points, d) to numbers (*points); the event happens where they first fall to zero."""

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")


class NonFiniteFlow(ArithmeticError):
    """The field returned NaN or infinity; says when and from which initial point."""


class EventNeverHappens(ValueError):
    """The flow came to its horizon without the event; says how close it came."""


def flow(
    field: Field,
    w0: Float[Tensor, "*points d"],
    times: Float[Tensor, " times"],
    *,
    method: str = "dopri5",
    rtol: float = 1e-9,
    atol: float = 1e-11,
) -> Float[Tensor, "times *points d"]:
    """Integrate from every initial point and return the points at the given times.

    Args:
        field: maps points to velocities, such as `maml_field(losses, alpha)`.
        w0: initial points; w0 itself is the solution at times[0].
        times: increasing; the grid itself for a fixed-step method.
        method: an adaptive method ("dopri5", ...) or a fixed-step one ("euler", "heun2", "rk4", ...).
        rtol, atol: tolerances of an adaptive method, held by every coordinate of every point.

    Raises:
        NonFiniteFlow: if the flow leaves the finite numbers.
        ValueError: if the method does not exist.
    """
    return cast(Tensor, odeint(_finite(field), w0, times, **_solver(method, rtol, atol)))  # a pair only with an event


def flow_until(
    field: Field,
    w0: Float[Tensor, "*points d"],
    gap: Gap,
    *,
    horizon: float,
    rtol: float = 1e-9,
    atol: float = 1e-11,
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points d"]]:
    """Integrate every point until its own event: the first time at which gap(w(t)) = 0.

    Args:
        field, w0, rtol, atol: as in `flow`, with dopri5.
        gap: positive before the event; where it is not, the event is at time 0.
        horizon: the time by which all events must have happened.

    Returns:
        The event times, and the points at them.

    Raises:
        EventNeverHappens: if the horizon comes first, with the smallest gap seen.
        NonFiniteFlow: if the flow leaves the finite numbers.
    """
    positive("horizon", horizon)
    w, now, times = w0, w0.new_zeros(()), w0.new_zeros(w0.shape[:-1])
    closest = gap(w0)
    waiting = closest > 0
    while waiting.any():
        # A point that is through stands still, so one integration carries all that still wait to the next event.
        def waiting_field(w: Tensor, moving: Tensor = waiting) -> Tensor:
            return torch.where(moving[..., None], field(w), 0.0)

        def first_event(t: Tensor, w: Tensor, moving: Tensor = waiting) -> Tensor:
            nonlocal closest
            here = gap(w)
            closest = torch.minimum(closest, here)
            return torch.minimum(here[moving].min(), horizon - t)

        now, path = odeint(
            _finite(waiting_field),
            w,
            torch.stack([now, now + 1]),
            event_fn=first_event,
            **_solver("dopri5", rtol, atol),
        )
        w = path[-1]
        if now >= horizon - atol:
            still = closest[waiting]
            raise EventNeverHappens(
                f"horizon={horizon:g}: {int(waiting.sum())} of {waiting.numel()} points have no event by then; "
                f"the gap must fall to 0 and came no closer than {float(still.max()):.4g}: raise the threshold by more "
                f"than that, or the horizon"
            )
        remaining = torch.where(waiting, gap(w), torch.inf)
        happened = remaining <= remaining.min().clamp_min(0)
        times = torch.where(happened, now, times)
        waiting = waiting & ~happened
    return times, w


@dataclass(frozen=True)
class BiphasicFlow:
    """Trajectories of BI-MAML in continuous time.

    Attributes:
        times: `(times, *points)`; each point has its own clock marks, since each switches at its own time.
        points: `(times, *points, d)`.
        switch_time: `(*points)`.
    """

    times: Float[Tensor, "times *points"]
    points: Float[Tensor, "times *points d"]
    switch_time: Float[Tensor, "*points"]


def slows_to(field: Field, threshold: float | Tensor) -> Gap:
    """Make the event |field(w)| = threshold; a threshold may be one number for each point."""
    return lambda w: field(w).norm(dim=-1) - threshold


def settle(field: Field, w: Float[Tensor, "*points d"], *, steps: int = 20) -> Float[Tensor, "*points d"]:
    """Return the rest points field(w) = 0 near the given points, by Newton's method on a field -grad F.

    Raises:
        ArithmeticError: if a point has not come to rest after so many steps; start closer.
    """
    for _ in range(steps):
        velocity = field(w)
        if (velocity.norm(dim=-1) <= 1e-12 * (1 + w.norm(dim=-1))).all():
            return w
        w = w + torch.linalg.solve(hessian(field, w), velocity)
    fastest = float(field(w).norm(dim=-1).max())
    if not fastest <= 1e-9:
        raise ArithmeticError(
            f"steps={steps}: a point still moves at speed {fastest:.3g}; follow the flow further first"
        )
    return w


def rest_points(
    field: Field, line: Float[Tensor, "points 1"]
) -> tuple[Float[Tensor, "stable 1"], Float[Tensor, "unstable 1"]]:
    """Return where a field on the line changes its sign between two grid points: where it attracts, where it repels."""
    sign = field(line)[:, 0].sign()
    return line[:-1][(sign[:-1] > 0) & (sign[1:] <= 0)], line[:-1][(sign[:-1] < 0) & (sign[1:] >= 0)]


def biphasic_flow(
    first: Field, second: Field, w0: Float[Tensor, "*points d"], gap: Gap, *, end: float, marks: int = 200, **tolerances
) -> BiphasicFlow:
    """Follow the first field until gap(w) = 0, then the second one until time `end` (BI-MAML: joint, then MAML).

    Args:
        first, second, w0, gap: as in `flow_until`.
        end: when the trajectories end; the horizon of the switch.
        marks: points kept of each phase.

    Raises:
        EventNeverHappens, NonFiniteFlow: as in `flow_until`.
    """
    switch_time, _ = flow_until(first, w0, gap, horizon=end, **tolerances)
    share = torch.linspace(0, 1, marks, dtype=w0.dtype, device=w0.device)

    # Each point's phase is stretched to [0, 1], so that points with different switch times go through together.
    def stretched(field: Field, duration: Tensor) -> Field:
        return lambda w: duration[..., None] * field(w)

    rest = end - switch_time
    early = flow(stretched(first, switch_time), w0, share, **tolerances)
    late = flow(stretched(second, rest), early[-1], share, **tolerances)
    clock = share.view(-1, *[1] * switch_time.dim())
    return BiphasicFlow(
        torch.cat([clock * switch_time, switch_time + clock * rest]), torch.cat([early, late]), switch_time
    )


def _solver(method: str, rtol: float, atol: float) -> dict:
    if method in ADAPTIVE:
        # torchdiffeq's own norm is a mean over all numbers, under which one point could hide behind many.
        return {"method": method, "rtol": rtol, "atol": atol, "options": {"norm": lambda e: e.abs().max()}}
    if method in FIXED:
        return {"method": method}
    raise ValueError(f"method={method!r}: must be one of {', '.join(ADAPTIVE + FIXED)}")


def _finite(field: Field) -> Callable[[Tensor, Tensor], Tensor]:
    def velocity(t: Tensor, w: Tensor) -> Tensor:
        v = field(w)
        bad = ~torch.isfinite(v).all(-1)
        if bad.any():
            which = f" for initial points {bad.nonzero().flatten().tolist()}" if bad.dim() else ""
            raise NonFiniteFlow(
                f"the field is not finite at t={float(t):.4g}{which}: start closer or take smaller steps or alpha"
            )
        return v

    return velocity
