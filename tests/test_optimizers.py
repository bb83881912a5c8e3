"""Outer optimisers against steps computed by hand."""

import pytest
import torch

from ctml.optimizers import SNGDM, ClippedGD, NormalizedGD


def parameters(*values):
    return [torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in values]


def step(optimizer, params, *gradients):
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.tensor(g, dtype=torch.float64)
    optimizer.step()
    return [p.detach().clone() for p in params]


def close(actual, *expected):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, torch.tensor(e, dtype=torch.float64), rtol=1e-11, atol=0)


def test_normalized_step_has_length_lr_over_all_parameters_together():
    params = parameters([1.0], [1.0, 1.0])
    close(step(NormalizedGD(params, lr=0.5), params, [3.0], [0.0, 4.0]), [0.7], [1.0, 0.6])


def test_clipped_step_is_plain_below_the_clip_and_bounded_above():
    params = parameters([0.0, 0.0])
    optimizer = ClippedGD(params, lr=0.1, clip=2.0)
    close(step(optimizer, params, [0.6, 0.8]), [-0.06, -0.08])
    close(step(optimizer, params, [30.0, 40.0]), [-0.06 - 0.12, -0.08 - 0.16])


def test_sngdm_by_hand():
    params = parameters([0.0, 0.0])
    optimizer = SNGDM(params, lr=1.0, weight=0.25)
    close(step(optimizer, params, [3.0, 4.0]), [-0.6, -0.8])  # v = (3, 4), |v| = 5
    # v = .75 (3, 4) + .25 (11, -8) = (5, 1), |v| = sqrt 26
    close(step(optimizer, params, [11.0, -8.0]), [-0.6 - 5 / 26**0.5, -0.8 - 1 / 26**0.5])


def test_sngdm_with_weight_one_is_the_normalized_step():
    one, other = parameters([2.0, -1.0]), parameters([2.0, -1.0])
    momentum, plain = SNGDM(one, lr=0.3, weight=1.0), NormalizedGD(other, lr=0.3)
    for g in ([1.0, 5.0], [-2.0, 0.5], [0.1, 0.1]):
        torch.testing.assert_close(step(momentum, one, g), step(plain, other, g))


def test_sngdm_resumes_from_its_state():
    gradients = ([1.0, 5.0], [-2.0, 0.5], [0.1, 0.1])
    whole = parameters([2.0, -1.0])
    optimizer = SNGDM(whole, lr=0.3, weight=0.2)
    for g in gradients:
        expected = step(optimizer, whole, g)
    first = parameters([2.0, -1.0])
    stopped = SNGDM(first, lr=0.3, weight=0.2)
    step(stopped, first, gradients[0])
    resumed = SNGDM(first, lr=9.0, weight=0.9)
    resumed.load_state_dict(stopped.state_dict())
    for g in gradients[1:]:
        actual = step(resumed, first, g)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make", [lambda p: NormalizedGD(p, lr=0.1), lambda p: SNGDM(p, lr=0.1), lambda p: ClippedGD(p, lr=0.1)]
)
def test_a_stationary_point_stays(make):
    params = parameters([1.0, 2.0])
    close(step(make(params), params, [0.0, 0.0]), [1.0, 2.0])


def test_closure_and_scheduler_work_as_with_any_torch_optimizer():
    params = parameters([3.0])
    optimizer = NormalizedGD(params, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)

    def closure():
        optimizer.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(3):
        losses.append(float(optimizer.step(closure).detach()))
        scheduler.step()
    assert losses == pytest.approx([9.0, 4.0, 2.25], rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: NormalizedGD(p, lr=-1.0), "lr=-1.0: must be a positive"),
        (lambda p: ClippedGD(p, lr=0.1, clip=0.0), "clip=0.0: must be a positive"),
        (lambda p: SNGDM(p, lr=0.1, weight=1.5), r"weight=1.5: must lie in \(0, 1\]"),
    ],
)
def test_senseless_rates_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(parameters([1.0]))
