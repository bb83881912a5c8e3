"""Adaptation in continuous time: Runge-Kutta tableaus and the gradient flow of a linear head."""

from ctml.flows.gradient_flow import Adaptive, ClosedForm, FixedSteps, adapt_head

__all__ = ["Adaptive", "ClosedForm", "FixedSteps", "adapt_head"]
