"""Policies, baseline and gradients against torch.distributions, ridge regression and finite differences, float64."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from ctml import trees
from ctml.rl import Gaussian, GaussianPolicy, Navigation, rollout
from ctml.rl.baseline import baseline, features
from ctml.rl.policy_gradient import advantages, gather, inner_gradient, inner_loss, surrogate_and_divergence
from ctml.rng import generator

TASKS, N = 3, 4


@pytest.fixture
def environment():
    return Navigation(horizon=12, stop_within=0.35)


@pytest.fixture
def policy():
    return GaussianPolicy(2, 2, hidden=(6, 6), std=0.3, generator=generator(0, "w")).double()


def goals(environment):
    return environment.sample(TASKS, generator(0, "goals")).double()


def per_task(policy):
    theta = trees.expand(dict(policy.named_parameters()), TASKS)
    noise = generator(1, "noise")
    return {k: (v + 0.1 * torch.randn(v.shape, generator=noise, dtype=v.dtype)).detach() for k, v in theta.items()}


def test_gaussian_is_torchs_normal():
    def draw(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    stream = generator(0, "g")
    new, old = (Gaussian(draw(TASKS, 5, 2), draw(TASKS, 1, 2)) for _ in range(2))
    actions = draw(TASKS, 5, 2)
    reference, before = (Independent(Normal(g.mean, g.log_std.exp()), 1) for g in (new, old))
    torch.testing.assert_close(new.log_prob(actions), reference.log_prob(actions))
    torch.testing.assert_close(new.divergence_from(old), kl_divergence(before, reference))


def test_fisher_is_the_hessian_of_the_divergence():
    old = Gaussian(torch.tensor([[[0.3, -1.0]]]).double(), torch.tensor([[[0.2, -0.4]]]).double())

    def divergence(point):
        return Gaussian(*point.view(2, 1, 1, 2)).divergence_from(old).sum()

    hessian = torch.func.hessian(divergence)(torch.cat([x.flatten() for x in old]))
    torch.testing.assert_close(hessian, torch.diag(torch.cat([x.flatten() for x in old.fisher()])))


def test_baseline_is_ridge_regression_on_the_steps_taken(environment, policy):
    seen = rollout(environment, policy, {}, goals(environment), N, generator(0, "act"))
    assert 0 < seen.taken.mean() < 1
    to_go, ridge = seen.to_go(0.99), 1e-3
    found = baseline(seen, to_go, ridge)
    for i in range(TASKS):
        kept = seen.taken[i].flatten() > 0
        x, y = features(seen)[i][kept], to_go[i].flatten()[kept]
        x_ridge = torch.cat([x, ridge**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
        w = torch.linalg.lstsq(x_ridge, torch.cat([y, torch.zeros(x.shape[1], dtype=y.dtype)])).solution
        torch.testing.assert_close(found[i].flatten()[kept], x @ w, rtol=1e-6, atol=1e-8)


def test_advantages_are_normalised_over_the_steps_taken(environment, policy):
    seen = rollout(environment, policy, {}, goals(environment), N, generator(0, "act"))
    found, taken = advantages(seen, 0.99), seen.taken.flatten(1) > 0
    for i in range(TASKS):
        kept = found[i][taken[i]]
        assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
        assert float(kept.std(correction=0)) == pytest.approx(1, rel=1e-6)
        assert (found[i][~taken[i]] == 0).all()


def test_inner_gradient_is_the_derivative_of_each_tasks_loss(environment, policy):
    params = per_task(policy)
    seen = gather(environment, policy, params, goals(environment), N, 0.99, generator(0, "act"))
    found = trees.flatten(inner_gradient(policy, params, seen), batched=True)
    across = torch.randn(found.shape, generator=generator(0, "d"), dtype=torch.float64)
    eps, flat = 1e-6, trees.flatten(params, batched=True)
    like = dict(policy.named_parameters())
    ahead, behind = (inner_loss(policy, trees.unflatten(flat + s * eps * across, like), seen) for s in (1, -1))
    torch.testing.assert_close((found * across).sum(-1), (ahead - behind) / (2 * eps), rtol=1e-6, atol=1e-8)


def test_surrogate_starts_with_reinforces_gradient_and_no_divergence(environment, policy):
    params = {k: v.requires_grad_() for k, v in per_task(policy).items()}
    seen = gather(environment, policy, params, goals(environment), N, 0.99, generator(0, "act"))
    surrogate, divergence = surrogate_and_divergence(policy, params, seen)
    found = torch.autograd.grad(surrogate.sum(), list(params.values()))
    for a, b in zip(found, inner_gradient(policy, params, seen).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert float(divergence.detach().abs().max()) < 1e-14


def test_every_other_step_still_averages(environment, policy):
    seen = gather(environment, policy, per_task(policy), goals(environment), N, 0.99, generator(0, "act")).thin(2)
    torch.testing.assert_close(seen.share.sum(-1), torch.ones(TASKS, dtype=torch.float64))
    assert seen.observations.shape[1] == N * environment.horizon // 2
