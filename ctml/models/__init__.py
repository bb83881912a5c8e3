"""Models that run many tasks at once: every parameter may be shared by the tasks or be each task's own."""

from ctml.models.conv1d import Conv1D
from ctml.models.conv4 import Conv4
from ctml.models.deep_head import DeepHead
from ctml.models.layers import BatchNorm, Conv2d, ConvBlock, Linear, NormMode
from ctml.models.mlp import MLP
from ctml.models.per_task import PerTask
from ctml.models.resnet12 import ResNet12
from ctml.models.scaled_features import ScaledFeatures
from ctml.models.transformer import Transformer

__all__ = [
    "MLP",
    "BatchNorm",
    "Conv1D",
    "Conv2d",
    "Conv4",
    "ConvBlock",
    "DeepHead",
    "Linear",
    "NormMode",
    "PerTask",
    "ResNet12",
    "ScaledFeatures",
    "Transformer",
]
