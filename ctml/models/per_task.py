"""Any ordinary module as a model over tasks."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LazyBatchNorm1d,
    nn.LazyBatchNorm2d,
    nn.LazyBatchNorm3d,
)
"""Torch's layers that normalise by the batch and keep statistics."""

_INSTANCE_NORMS = (
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LazyInstanceNorm1d,
    nn.LazyInstanceNorm2d,
    nn.LazyInstanceNorm3d,
)


class PerTask(nn.Module):
    """Run an ordinary module on every task, each with its own parameters where it has them.

    out[t] = module(x[t]; θ[t])

    Args:
        module: maps (n, *features) to (n, *outputs), without batch norm.

    Raises:
        ValueError: the module normalises by batch. Running statistics would mix the tasks, and `torch.vmap` through
            torch's batch norm gives a wrong second-order gradient without a word.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        for name, part in module.named_modules():
            if isinstance(part, BATCH_NORMS + _INSTANCE_NORMS):
                raise ValueError(
                    f"module.{name} is a {type(part).__name__}, which has no exact second derivative per task: "
                    "use nn.GroupNorm or nn.LayerNorm, or build the model from ctml.models.Conv2d and BatchNorm"
                )
        self.module = module
        self._dims = {name: p.dim() for name, p in module.named_parameters()}

    def forward(self, x: Float[Tensor, "tasks n *features"], context: Tensor | None = None) -> Tensor:
        params = dict(self.module.named_parameters())
        own = {name: 0 if p.dim() > self._dims[name] else None for name, p in params.items()}
        return vmap(
            lambda params, x: functional_call(self.module, params, (x,)), in_dims=(own, 0), randomness="different"
        )(params, x)
