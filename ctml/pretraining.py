r"""Features that are learned once and then given: a classifier of many classes, and its features of other pictures.

    min over Phi, V of E_(x, c) CE(V f_Phi(x), c)          all classes of a pool at once, no tasks

The features f_Phi are then frozen: what is compared on them costs seconds, and differs in nothing but what is compared.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctml.checks import at_least, positive
from ctml.rng import generator
from ctml.training import one_cycle
from ctml.types import ClassPool, HasHead, Model


def pretrain(model: Model, pool: ClassPool, *, epochs: int, batch: int = 128, rate: float = 3e-3, seed: int) -> None:
    """Train a network to tell all classes of a pool apart, by Adam in one cycle; images are mirrored at random.

    Args:
        model: with as many outputs as the pool has classes.
        pool: uint8 images.
        epochs, batch, rate: how often each image is seen, how many at a time, the largest rate.
        seed: of the order.

    Raises:
        ValueError: if the pool is smaller than a batch, or a number is out of its range.
    """
    at_least("epochs", epochs, 1)
    at_least("batch", batch, 1)
    positive("rate", rate)
    stream, network = generator(seed, "pretraining"), cast(nn.Module, model)
    per_epoch = len(pool.examples) // batch
    if per_epoch < 1:
        raise ValueError(f"batch={batch}: {pool.source} has only {len(pool.examples)} images; choose a smaller batch")
    classes = torch.arange(pool.n_classes).repeat_interleave(pool.counts)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = one_cycle(optimizer, rate, epochs * per_epoch, 0.2)
    for _ in range(epochs):
        order = torch.randperm(len(classes), generator=stream)[: per_epoch * batch]
        for chosen in order.view(per_epoch, batch):
            images = _scaled(pool.examples[chosen])
            if torch.rand((), generator=stream) < 0.5:
                images = images.flip(-1)
            loss = F.cross_entropy(network(images[None])[0], classes[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def embed(model: Model, pool: ClassPool, context: Tensor) -> ClassPool:
    """Return the pool of a network's features of its images.

    Args:
        model: with features, in batch-norm mode "support": each image is seen with the statistics of `context` alone.
        pool: images.
        context: images `(n, channels, side, side)` that give batch norm its statistics, the same for every image.

    Raises:
        ValueError: if the model's batch norm would mix the images.
    """
    norm = getattr(model, "norm", "support")
    if norm != "support":
        raise ValueError(f"model.norm={norm!r}: features would depend on their neighbours; build it with 'support'")
    given = _scaled(context)[None]
    parts = [cast(HasHead, model).features(_scaled(part)[None], given)[0] for part in pool.examples.split(1000)]
    return ClassPool(torch.cat(parts), pool.counts, pool.names, pool.source)


def split_classes(pool: ClassPool, first: int) -> tuple[ClassPool, ClassPool]:
    """Return the pool of the first classes and that of the rest.

    Raises:
        ValueError: if one of the two would be empty.
    """
    if not 0 < first < pool.n_classes:
        raise ValueError(f"first={first}: {pool.source} has {pool.n_classes} classes; leave some on both sides")
    cut = int(pool.counts[:first].sum())
    return (
        ClassPool(pool.examples[:cut], pool.counts[:first], pool.names[:first], pool.source),
        ClassPool(pool.examples[cut:], pool.counts[first:], pool.names[first:], pool.source),
    )


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
