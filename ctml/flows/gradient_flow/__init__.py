"""The gradient flow of a linear head and its exact meta-gradients (COMLN).

Read in this order: `losses` (what is descended), `head_flow` (what is given), `reduced` (the flow in M N numbers),
`integrate` (batched Runge-Kutta), then the meta-gradients: `unrolled` (the reference), `adjoint` (ours, the default),
`forward` (the paper's), `backward_flow` (the one that fails). `squared` has the closed form, `head` the one function
that puts them together.
"""

from ctml.flows.gradient_flow.adjoint import Adjoint
from ctml.flows.gradient_flow.backward_flow import BackwardFlow
from ctml.flows.gradient_flow.forward import ForwardMode
from ctml.flows.gradient_flow.head import Solver, adapt_head, check_options
from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Adaptive, FixedSteps, MetaGradient, Path, Steps
from ctml.flows.gradient_flow.losses import CrossEntropy, InnerLoss, SquaredError
from ctml.flows.gradient_flow.reduced import ReducedFlow
from ctml.flows.gradient_flow.squared import ClosedForm
from ctml.flows.gradient_flow.unrolled import Unrolled

__all__ = [
    "Adaptive",
    "Adjoint",
    "BackwardFlow",
    "ClosedForm",
    "CrossEntropy",
    "FixedSteps",
    "ForwardMode",
    "HeadFlow",
    "InnerLoss",
    "MetaGradient",
    "Path",
    "ReducedFlow",
    "Solver",
    "SquaredError",
    "Steps",
    "Unrolled",
    "adapt_head",
    "check_options",
]
