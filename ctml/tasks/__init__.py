"""Where tasks come from."""

from ctml.tasks.analytic import LossFunctions, TaskLosses, expand, side_by_side
from ctml.tasks.embeddings import Embeddings
from ctml.tasks.few_shot import FewShot
from ctml.tasks.fixed_labels import FixedLabels
from ctml.tasks.linear_regression import LinearRegression
from ctml.tasks.logistic import Logistic
from ctml.tasks.logistic_ridge import LogisticRidge
from ctml.tasks.noise import Noise
from ctml.tasks.one_dimensional import Cosine, CurvatureJump
from ctml.tasks.quadratic import Quadratic
from ctml.tasks.sinusoid import Sinusoid

__all__ = [
    "Cosine",
    "CurvatureJump",
    "Embeddings",
    "FewShot",
    "FixedLabels",
    "LinearRegression",
    "Logistic",
    "LogisticRidge",
    "LossFunctions",
    "Noise",
    "Quadratic",
    "Sinusoid",
    "TaskLosses",
    "expand",
    "side_by_side",
]
