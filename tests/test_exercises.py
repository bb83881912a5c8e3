"""What the notebooks' exercises and closing remarks state, computed anew: a false one must not ship."""

from pathlib import Path

import pytest
import torch

from ctml.flows.tableaus import EULER
from ctml.inner_solvers import ClosedForm
from ctml.learners.proximal import fo_maml_estimate, reptile_estimate
from ctml.learners.rk_maml import chain
from ctml.rng import generator
from ctml.theory.fo_b_maml import QSuite
from ctml.theory.maml_ode import symmetric_part, time_saved_per_efold
from ctml.theory.rk_maml import gradient_units

ROOT = Path(__file__).resolve().parents[1]
SUITES = [QSuite.draw(8, 10, generator(0, f"Q {i}")) for i in range(3)]  # those of notebook 02 at quick


def says(notebook: str, sentence: str) -> bool:
    """Tell whether a notebook's text holds a sentence, however its lines are broken."""
    text = (ROOT / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8").replace("\n#", " ")
    return sentence in " ".join(text.split())


def test_in_one_dimension_the_mean_of_fo_maml_can_point_the_wrong_way():
    theta = torch.randn(1, generator=generator(0, "theta"), dtype=torch.float64)
    wrong = 0
    for i in range(300):
        suite = QSuite.draw(8, 1, generator(0, f"suite {i}"))
        exact = suite.meta_gradient(theta, 1.0)
        found = fo_maml_estimate(suite, theta, 8, lam=1.0, solver=ClosedForm()).gradient
        assert torch.all(found * exact > 0)
        assert torch.all(found.abs() > exact.abs())
        wrong += bool(found.mean(0) * exact.mean(0) < 0)
    assert says("fo_b_maml/01_two_solves", f"It does in {wrong} of the first 300 suites")


def stationary_gradient(suite: QSuite, lam: float, matrix: torch.Tensor, centre: torch.Tensor) -> float:
    """Return |grad F| where mean_i M_i (phi_i(theta) - c_i) = 0, phi_i = H_i^{-1} (A_i a_i + lam theta)."""
    inverse = torch.linalg.inv(suite.A + lam * torch.eye(10, dtype=torch.float64))
    at_zero = (inverse @ suite.A @ suite.a[..., None] - centre[..., None])[..., 0]
    right = (matrix @ at_zero[..., None])[..., 0].mean(0)
    theta = torch.linalg.solve((lam * matrix @ inverse).mean(0), -right)
    return float(suite.meta_gradient(theta, lam).mean(0).norm())


def test_a_strong_pull_reconciles_fo_maml_and_not_reptile():
    places = {"FO-MAML": ("B", "b"), "Reptile": ("A", "a")}  # E grad f = 0 and E grad f^ = 0 at the adapted points
    ends = {
        (method, lam): [stationary_gradient(s, lam, getattr(s, matrix), getattr(s, centre)) for s in SUITES]
        for method, (matrix, centre) in places.items()
        for lam in (1.0, 20.0)
    }

    def spread(method: str, lam: float, digits: int) -> str:
        return f"{min(ends[method, lam]):.{digits}f}–{max(ends[method, lam]):.{digits}f}"

    fo_maml = f"from {spread('FO-MAML', 1.0, 2)} to {spread('FO-MAML', 20.0, 2)}"
    reptile = f"from {spread('Reptile', 1.0, 1)} to {spread('Reptile', 20.0, 1)}"
    assert says("fo_b_maml/02_who_converges_where", f"go {fo_maml}, and {reptile}")


def test_exact_descent_bears_a_rate_of_3_and_not_of_3_5():
    assert says("fo_b_maml/02_who_converges_where", '`SET="q_rate=3.5"`; at 3 it still converges on all three suites')
    for suite in SUITES:
        columns = [suite.meta_gradient(e, 1.0).mean(0) for e in (*torch.eye(10, dtype=torch.float64),)]
        at_zero = suite.meta_gradient(torch.zeros(10, dtype=torch.float64), 1.0).mean(0)
        hessian = torch.stack([column - at_zero for column in columns], 1)  # F is a quadratic
        largest = float(torch.linalg.eigvalsh((hessian + hessian.mT) / 2)[-1])
        assert 3 < 2 / largest < 3.5


def test_with_one_loss_reptile_and_fo_maml_are_one():
    assert says("fo_b_maml/02_who_converges_where", "Where FO-MAML ends, by the same path")
    same, theta = QSuite(SUITES[0].A, SUITES[0].a, SUITES[0].A, SUITES[0].a), torch.zeros(10, dtype=torch.float64)
    ends = [m(same, theta, 8, lam=1.0, solver=ClosedForm()).gradient for m in (reptile_estimate, fo_maml_estimate)]
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)
    other = fo_maml_estimate(SUITES[0], theta, 8, lam=1.0, solver=ClosedForm()).gradient
    assert (ends[0] - other).norm() > 0.1


def test_ten_steps_at_a_tenth_amplify_less_than_sevenfold():
    assert says(
        "anil/02_nonconvex", '`SET="cosine_step=0.1"`: at $\\alpha L=0.1$ ten steps amplify less than sevenfold'
    )
    assert 6.5 < 1.1 ** (2 * 10) < 7


def test_how_much_longer_the_maml_ode_takes():
    assert says("maml_ode/03_bi_maml", "$1/(1-\\alpha h)^2=6.25$ times; at $\\alpha h=0.1$ it is 1.23")
    assert 1 + time_saved_per_efold(1.0, 0.6) == pytest.approx(6.25)
    assert 1 + time_saved_per_efold(1.0, 0.1) == pytest.approx(1.23, abs=0.005)


def test_what_a_joint_phase_of_40_percent_saves_and_the_best_guess_costs():
    assert says("maml_ode/04_few_shot", "$k_1+4(K-k_1)$ gradients a task, $1-\\tfrac34\\cdot0.4=0.7$ of MAML's")
    joint, maml = gradient_units(EULER, "first"), gradient_units(chain(1), "second")
    assert (40 * joint + 60 * maml) / (100 * maml) == pytest.approx(0.7)
    assert says("maml_ode/04_few_shot", "$\\ln5\\approx1.609$")
    guess = torch.nn.functional.cross_entropy(torch.zeros(5, 5), torch.arange(5))
    assert float(guess) == pytest.approx(1.609, abs=5e-4)


def test_where_the_bound_of_the_maml_ode_stops():
    assert says(
        "maml_ode/02_strongly_convex",
        "$a/b=3-2\\sqrt2\\approx0.172$; with $b\\approx1$ that is $\\alpha L\\approx0.83$",
    )
    edge = 3 - 2 * 2**0.5
    assert symmetric_part(edge, 1.0) == pytest.approx(0, abs=1e-12)
    assert (edge, 1 - edge) == (pytest.approx(0.172, abs=5e-4), pytest.approx(0.83, abs=5e-3))
