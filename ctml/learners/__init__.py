"""Meta-learners: one method, one file."""

from ctml.learners.anil import ANIL
from ctml.learners.base import Learner
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.learners.comln import COMLN
from ctml.learners.fo_b_maml import FOBMAML
from ctml.learners.imaml import IMAML
from ctml.learners.maml import MAML
from ctml.learners.proximal import ProximalFOMAML, ProximalReptile
from ctml.learners.reptile import Reptile
from ctml.learners.stacked import stack

__all__ = [
    "ANIL",
    "COMLN",
    "FOBMAML",
    "IMAML",
    "MAML",
    "BiMAML",
    "Learner",
    "ProximalFOMAML",
    "ProximalReptile",
    "Reptile",
    "Switch",
    "stack",
]
