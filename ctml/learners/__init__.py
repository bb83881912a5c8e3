"""Meta-learners: one method, one file."""

from ctml.learners.anil import ANIL
from ctml.learners.base import Learner
from ctml.learners.fo_b_maml import FOBMAML
from ctml.learners.imaml import IMAML
from ctml.learners.maml import MAML
from ctml.learners.proximal import ProximalFOMAML, ProximalReptile
from ctml.learners.reptile import Reptile

__all__ = ["ANIL", "FOBMAML", "IMAML", "MAML", "Learner", "ProximalFOMAML", "ProximalReptile", "Reptile"]
