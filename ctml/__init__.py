"""ctml: a reproducible companion to five papers on meta-learning in continuous time.

    maml_ode    Xu, Chen, Karbasi, Meta Learning in the Continuous Time Limit
    rk_maml     Im, Jiang, Verma, Model-Agnostic Meta-Learning using Runge-Kutta Methods
    comln       Deleu et al., Continuous-Time Meta-Learning with Forward Mode Differentiation
    fo_b_maml   Chayti, Jaggi, A New First-Order Meta-Learning Algorithm with Convergence Guarantees
    anil        Ji, Lee, Liang, Poor, Convergence of Meta-Learning with Task-Specific Adaptation over Partial Parameters

Start with `notebooks/00_tour.ipynb`.
"""

from ctml import data, flows, models, tasks
from ctml.evaluation import MetaTest, meta_test
from ctml.learners import (
    ANIL,
    COMLN,
    FOBMAML,
    IMAML,
    MAML,
    RKMAML,
    BiMAML,
    GradientLearner,
    Learner,
    LostGraph,
    MetaSGD,
    ProximalFOMAML,
    ProximalReptile,
    Reptile,
    Switch,
    stack,
)
from ctml.losses import accuracy, cross_entropy, mse
from ctml.rng import generator
from ctml.statistics import interval
from ctml.training import History, NonFiniteMetaGradient, Validation, meta_train
from ctml.types import ClassPool, Examples, Loss, Params, TaskBatch, TaskDistribution

__version__ = "0.1.0"

__all__ = [
    "ANIL",
    "COMLN",
    "FOBMAML",
    "IMAML",
    "MAML",
    "RKMAML",
    "BiMAML",
    "ClassPool",
    "Examples",
    "GradientLearner",
    "History",
    "Learner",
    "Loss",
    "LostGraph",
    "MetaSGD",
    "MetaTest",
    "NonFiniteMetaGradient",
    "Params",
    "ProximalFOMAML",
    "ProximalReptile",
    "Reptile",
    "Switch",
    "TaskBatch",
    "TaskDistribution",
    "Validation",
    "accuracy",
    "cross_entropy",
    "data",
    "flows",
    "generator",
    "interval",
    "meta_test",
    "meta_train",
    "models",
    "mse",
    "stack",
    "tasks",
]
