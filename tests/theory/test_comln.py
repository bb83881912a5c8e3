"""What is carried forward with the flow: against autograd through another solver, and the contraction it promises."""

import pytest
import torch
import torch.nn.functional as F
from torchdiffeq import odeint

from ctml.flows.gradient_flow import Adaptive, CrossEntropy, SquaredError, adapt_head
from ctml.flows.gradient_flow.forward import Sensitivities
from ctml.flows.tableaus import RK4
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Embeddings
from ctml.theory.comln import apart_from_anil, carried_forward, growth_of_a_nudge, largest_rates, there_and_back

TASKS = Embeddings(ways=3, shots=2, queries=0, d=8)
TIGHT = Adaptive(1e-11, 1e-13)
M, N = 6, 3


@pytest.fixture
def task():
    stream = generator(0, "t")
    return *TASKS.sample(2, stream).support, TASKS.head(stream)


def velocity(s, L_0, G, labels, loss):
    p = L_0 - G @ s if loss == SquaredError() else (L_0 - G @ s).softmax(-1)
    return (p - F.one_hot(labels, N)) / M


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()], ids=repr)
def test_b_and_z_are_derivatives_of_s_in_logits_and_gram_matrix(task, loss):
    features, labels, head = task
    carried = carried_forward(features, labels, head, 3.0, TIGHT, loss)
    for i in range(2):

        def s_of(L_0, G, i=i):
            slope = lambda _, s: velocity(s, L_0, G, labels[i], loss)  # noqa: E731
            return odeint(slope, torch.zeros_like(L_0), torch.tensor([0.0, 3.0]), rtol=1e-10, atol=1e-12)[-1]

        L_0, G = features[i] @ head.mT, features[i] @ features[i].mT
        in_L_0, in_G = torch.autograd.functional.jacobian(s_of, (L_0, G))
        torch.testing.assert_close(carried.s[i], s_of(L_0, G), rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(carried.B[i], in_L_0, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(carried.z[i], in_G + in_G.mT, rtol=1e-7, atol=1e-9)


def test_rates_are_those_of_the_linearised_flow(task):
    features, labels, head = task
    carried = carried_forward(features, labels, head, 3.0, TIGHT)
    for i in range(2):
        L_0, G = features[i] @ head.mT, features[i] @ features[i].mT
        slope = lambda s, i=i: velocity(s, L_0, G, labels[i], CrossEntropy())  # noqa: E731, B023
        jacobian = torch.autograd.functional.jacobian(slope, carried.s[i]).reshape(M * N, M * N)
        expected = torch.linalg.eigvals(-jacobian).real.sort().values
        torch.testing.assert_close(carried.rates()[i].real.sort().values, expected, rtol=1e-8, atol=1e-10)


def test_it_contracts_from_one_and_fades_only_with_cross_entropy(task):
    at = {
        loss: [carried_forward(*task, horizon, TIGHT, loss) for horizon in (1e-6, 1.0, 100.0)]
        for loss in (CrossEntropy(), SquaredError())
    }
    for carried in at.values():
        start, middle, end = (c.contraction() for c in carried)
        torch.testing.assert_close(start, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-5)
        assert (middle < start).all()
        assert (end < middle).all()
    fastest = {loss: [c.rates().real.max() for c in carried] for loss, carried in at.items()}
    assert fastest[CrossEntropy()][2] < 0.9 * fastest[CrossEntropy()][0]
    assert fastest[SquaredError()][2] == pytest.approx(float(fastest[SquaredError()][0]))


def test_stability_states_the_extremes_over_the_tasks(task):
    features, labels, head = task
    both = carried_forward(features, labels, head, 3.0, TIGHT).stability()
    each = [
        carried_forward(f[None], y[None], head, 3.0, TIGHT).stability() for f, y in zip(features, labels, strict=True)
    ]
    for name, value in both.items():
        extreme = min if name == "slowest" else max
        assert value == pytest.approx(extreme(one[name] for one in each), abs=1e-8)
    assert both["B"] <= 3.0 * 0.5 / M  # T max |A|


@pytest.mark.parametrize("seed", range(3))
def test_b_and_z_stay_below_bounds_of_their_own(seed):
    stream = generator(seed, "t")
    (features, labels), head = TASKS.sample(1, stream).support, TASKS.head(stream)
    for horizon in (0.01, 0.1, 10.0, 1000.0):
        carried = carried_forward(features, labels, head, horizon, Adaptive(1e-8, 1e-10))
        found, bound = carried.stability(), carried.bounds(horizon)
        assert found["B"] < bound["B"]
        assert found["z"] < bound["z"]


def test_orthonormal_embeddings_of_one_probability_reach_a_fixed_part_of_the_bound_at_once():
    # kappa = 1 and p = (1/2, 1/2): A = [[1, -1], [-1, 1]] / 4M has norm 1 / 2M, so at small T the bound is attained.
    features, labels = torch.eye(4, dtype=torch.float64)[None], torch.tensor([[0, 0, 1, 1]])
    head, horizon = torch.zeros(2, 4, dtype=torch.float64), 1e-4
    carried = carried_forward(features, labels, head, horizon, TIGHT)
    assert carried.stability()["B"] == pytest.approx(carried.bounds(horizon)["B"], rel=1e-3)


def test_dependent_embeddings_have_no_bound(task):
    features, labels, head = task
    features = features.clone()
    features[:, 1] = features[:, 0]
    with pytest.raises(ValueError, match="independent"):
        carried_forward(features, labels, head, 1.0, TIGHT).bounds(1.0)


class Reversed(Sensitivities):
    """Time runs backwards: what contracts expands."""

    def slope(self, state, out):
        super().slope(state, out)
        out.neg_()


def test_a_push_fades_and_grows_where_time_runs_backwards(task):
    features, labels, head = task
    features, labels = features[:1], labels[:1]
    options = {"nudges": 3, "solver": Adaptive(1e-7, 1e-9)}
    for horizon in (1.0, 30.0):
        left = growth_of_a_nudge(features, labels, head, horizon, stream=generator(0, "n"), **options)
        assert max(left.values()) < 1
    for name, factor in growth_of_a_nudge(
        features, labels, head, 10.0, stream=generator(0, "n"), system=Reversed, **options
    ).items():
        assert factor > 1.5, name


def test_a_push_of_b_and_z_fades_as_the_matrix_exponential_says(task):
    features, labels, head = task
    labels, horizon = labels[:1], 5e-3  # so short that A is that of the start
    left = growth_of_a_nudge(features[:1], labels, head, horizon, TIGHT, nudges=1, stream=generator(0, "n"))
    carried = carried_forward(features[:1], labels, head, 1e-6, TIGHT)
    A = torch.block_diag(*carried.A[0])
    G = torch.kron(carried.G[0], torch.eye(N, dtype=torch.float64))
    columns = M * N + M * M
    push = torch.randn(M * N * (1 + columns), generator=generator(0, "n"), dtype=torch.float64)[M * N :]
    push = push.view(M * N, columns)
    after = torch.linalg.matrix_exp(-horizon * A @ G) @ push
    expected = ((after * (G @ after)).sum() / (push * (G @ push)).sum()).sqrt()
    assert left["B and z"] == pytest.approx(float(expected), rel=1e-6)


def test_euler_steps_are_anil_and_a_part_that_is_wrong_is_seen(monkeypatch):
    batch = Embeddings(ways=3, shots=2, queries=2, d=8).sample(2, generator(0, "t"))

    def model():
        return MLP([8, 6, 3], torch.tanh, generator=generator(0, "network")).double()

    assert max(apart_from_anil(model, batch, 0.5, 20).values()) < 1e-12
    monkeypatch.setattr("ctml.theory.comln.EULER", RK4)
    assert min(apart_from_anil(model, batch, 0.5, 20).values()) > 1e-6


def test_time_times_the_largest_rate_does_not_feel_the_scale_of_the_features(task):
    features, labels, _ = task
    zero = torch.zeros(N, features.shape[-1], dtype=features.dtype)
    heads = {}
    for c in (1.0, 7.0):
        rate = largest_rates(c * features)
        torch.testing.assert_close(rate, torch.linalg.matrix_norm(c * features, 2).square() / M)
        heads[c] = c * adapt_head(c * features, labels, zero, 4 / rate, solver=TIGHT)
    torch.testing.assert_close(heads[1.0], heads[7.0], rtol=1e-7, atol=1e-9)


def test_the_way_back_expands_what_the_way_there_contracted():
    curvature, grid = torch.diag(torch.tensor([1.0, 0.1])), torch.linspace(0, 20, 41)
    start = torch.tensor([[2.0], [-1.0]])
    there, back = there_and_back(curvature, start, grid, 1e-6)
    exact = start * torch.exp(-curvature.diagonal()[:, None] * grid[:, None, None])
    torch.testing.assert_close(there, exact, rtol=0, atol=1e-4)
    assert torch.equal(there[-1], back[-1])
    assert abs(float(back[0, 0] - there[0, 0])) > 0.1
