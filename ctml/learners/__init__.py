"""Meta-learners: one method, one file."""

from ctml.learners.anil import ANIL
from ctml.learners.base import Learner
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.learners.comln import COMLN
from ctml.learners.fo_b_maml import FOBMAML
from ctml.learners.gradient_learner import GradientLearner
from ctml.learners.imaml import IMAML
from ctml.learners.maml import MAML, LostGraph
from ctml.learners.meta_sgd import MetaSGD
from ctml.learners.proximal import ProximalFOMAML, ProximalReptile
from ctml.learners.reptile import Reptile
from ctml.learners.rk_maml import RKMAML
from ctml.learners.stacked import stack

__all__ = [
    "ANIL",
    "COMLN",
    "FOBMAML",
    "IMAML",
    "MAML",
    "RKMAML",
    "BiMAML",
    "GradientLearner",
    "Learner",
    "LostGraph",
    "MetaSGD",
    "ProximalFOMAML",
    "ProximalReptile",
    "Reptile",
    "Switch",
    "stack",
]
