"""Tableaus as the small matrices that the integrator and its transpose multiply with, made once per type and device."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.tableaus import Tableau


@cache
def step_matrix(
    tableau: Tableau, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "{tableau.stages}+2 1+{tableau.stages}"]:
    """Return what a step of size 1 adds to y: rows x_1 .. x_S, new y, error estimate; columns y, k_1 .. k_S."""
    stages = tableau.stages
    matrix = torch.zeros(stages + 2, 1 + stages, dtype=dtype)
    for j, row in enumerate([*tableau.a, tableau.b]):
        matrix[j, 1 : 1 + len(row)] = torch.tensor([float(a) for a in row], dtype=dtype)
    if tableau.b_embedded is not None:
        error = [float(b - embedded) for b, embedded in zip(tableau.b, tableau.b_embedded, strict=True)]
        matrix[stages + 1, 1:] = torch.tensor(error, dtype=dtype)
    return matrix.to(device)


@cache
def transpose_matrix(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "stages 1+stages"]:
    """Return the weights of v_j / h: row j; columns lambda, u_S, ..., u_1 (stages that have a weight, last first)."""
    stages = stages_in_step(tableau)
    matrix = torch.zeros(stages, 1 + stages, dtype=dtype)
    for j in range(stages):
        matrix[j, 0] = float(tableau.b[j])
        for later in range(j + 1, stages):
            matrix[j, stages - later] = float(tableau.a[later][j])
    return matrix.to(device)


@cache
def stage_rows(
    tableau: Tableau, dtype: torch.dtype, device: torch.device
) -> list[tuple[Float[Tensor, "1 before"], float]]:
    """Return (a_j1 .. a_j,j-1) and c_j of the stages that have a weight."""
    rows = zip(tableau.a[: stages_in_step(tableau)], tableau.c, strict=False)
    return [(torch.tensor([[float(a) for a in row]], dtype=dtype, device=device), float(c)) for row, c in rows]


@cache
def stages_in_step(tableau: Tableau) -> int:
    """Return the number of stages that shape the step: a last stage at the new point belongs to the next one."""
    return tableau.stages - tableau.first_same_as_last


@cache
def stable_reach(tableau: Tableau) -> float:
    """Return the largest z up to which |R(-x)| <= 1 for all 0 < x <= z: how far h lambda may go where a flow contracts.

    R(x) = 1 + sum_k (b . A^(k-1) 1) x^k is what a step multiplies the solution of y' = x y with.
    """
    power, terms = [1.0] * tableau.stages, [1.0]
    for _ in range(tableau.stages):
        terms.append(sum(float(b) * p for b, p in zip(tableau.b, power, strict=True)))
        power = [sum(float(a) * p for a, p in zip(row, power, strict=False)) for row in tableau.a]
    x = torch.arange(1, 5001, dtype=torch.float64) / 100
    factor = sum(term * (-x) ** k for k, term in enumerate(terms))
    outside = (torch.as_tensor(factor).abs() > 1 + 1e-12).nonzero()
    return float(x[outside[0, 0] - 1]) if len(outside) and outside[0, 0] > 0 else 0.0
