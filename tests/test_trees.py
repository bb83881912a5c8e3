"""Parameter dictionaries behave as vectors."""

import pytest
import torch

from ctml import trees


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(0)
    return tuple(
        {k: torch.randn(3, *s, generator=g, dtype=torch.float64) for k, s in {"w": (4, 2), "b": (4,)}.items()}
        for _ in range(2)
    )


def test_linear_operations_agree_with_flat_vectors(pair):
    x, y = pair
    assert torch.equal(trees.flatten(trees.axpy(2.0, x, y)), 2.0 * trees.flatten(x) + trees.flatten(y))
    assert torch.equal(trees.flatten(trees.sub(x, y)), trees.flatten(trees.add(x, trees.scale(-1.0, y))))


def test_dot_and_norm_per_task_and_over_all(pair):
    x, y = pair
    fx, fy = trees.flatten(x, batched=True), trees.flatten(y, batched=True)
    torch.testing.assert_close(trees.dot(x, y, batched=True), (fx * fy).sum(1))
    torch.testing.assert_close(trees.dot(x, y), (fx * fy).sum())
    torch.testing.assert_close(trees.norm(x, batched=True), fx.norm(dim=1))


def test_flatten_and_unflatten_are_inverse(pair):
    x, _ = pair
    shared = {k: v[0] for k, v in x.items()}
    back = trees.unflatten(trees.flatten(x, batched=True), shared)
    assert all(torch.equal(back[k], x[k]) for k in x)
    back = trees.unflatten(trees.flatten(shared), shared)
    assert all(torch.equal(back[k], shared[k]) for k in shared)


def test_expand_copies_nothing():
    shared = {"w": torch.ones(2, 3)}
    assert trees.expand(shared, 5)["w"].stride() == (0, 3, 1)
