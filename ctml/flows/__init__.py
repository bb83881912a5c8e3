"""Adaptation in continuous time: Runge-Kutta tableaus and the gradient flow of a linear head."""

from ctml.flows.gradient_flow import (
    Adaptive,
    Adjoint,
    BackwardFlow,
    ClosedForm,
    CrossEntropy,
    FixedSteps,
    ForwardMode,
    SquaredError,
    Unrolled,
    adapt_head,
)

__all__ = [
    "Adaptive",
    "Adjoint",
    "BackwardFlow",
    "ClosedForm",
    "CrossEntropy",
    "FixedSteps",
    "ForwardMode",
    "SquaredError",
    "Unrolled",
    "adapt_head",
]
