"""The gradient flow of a linear head and its exact meta-gradients (COMLN).

Read in this order: `reduced` (the flow in M N numbers), `integrate` (batched Runge-Kutta), then the meta-gradients:
`unrolled` (the reference), `adjoint` (ours, the default), `forward` (the paper's), `backward_flow` (the one that
fails). `squared` has the closed form, `head` the one function that puts them together.
"""

from ctml.flows.gradient_flow.head import METHODS, ClosedForm, adapt_head
from ctml.flows.gradient_flow.integrate import Adaptive, FixedSteps, Path, Solver, integrate
from ctml.flows.gradient_flow.links import LINKS
from ctml.flows.gradient_flow.reduced import ReducedFlow

__all__ = [
    "LINKS",
    "METHODS",
    "Adaptive",
    "ClosedForm",
    "FixedSteps",
    "Path",
    "ReducedFlow",
    "Solver",
    "adapt_head",
    "integrate",
]
