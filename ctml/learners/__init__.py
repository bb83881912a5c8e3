"""Meta-learners: one method, one file."""

from ctml.learners.anil import ANIL
from ctml.learners.base import Learner
from ctml.learners.maml import MAML
from ctml.learners.reptile import Reptile

__all__ = ["ANIL", "MAML", "Learner", "Reptile"]
