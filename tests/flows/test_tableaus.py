"""Tableaus: the trees are Butcher's, the conditions are the textbook's, and a step has the order it states."""

import math
from fractions import Fraction

import pytest

from ctml.flows.tableaus import DORMAND_PRINCE, RK4, TABLEAUS, Tableau, density, rk2, rooted_trees, size


def test_number_of_rooted_trees():
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(size(tree) == 5 for tree in rooted_trees(5))


def test_conditions_are_the_textbooks():
    """The order-4 conditions written out by hand, on a tableau that satisfies none of them."""
    weights = (Fraction(1, 2), Fraction(1, 5), Fraction(3, 10))
    a = ((), (Fraction(2, 7),), (Fraction(1, 3), Fraction(1, 11)))
    tableau = Tableau("arbitrary", a, weights, order=1)
    c = tableau.c
    dense = [[*row, *[0] * (3 - len(row))] for row in a]
    b_a = [sum(weights[i] * dense[i][j] for i in range(3)) for j in range(3)]
    by_hand = {
        Fraction(1, 4): sum(w * x**3 for w, x in zip(weights, c, strict=True)),
        Fraction(1, 8): sum(weights[i] * c[i] * dense[i][j] * c[j] for i in range(3) for j in range(3)),
        Fraction(1, 12): sum(b_a[j] * c[j] ** 2 for j in range(3)),
        Fraction(1, 24): sum(b_a[j] * dense[j][k] * c[k] for j in range(3) for k in range(3)),
    }
    found = {Fraction(1, density(tree)): tableau.elementary_weight(tree) for tree in rooted_trees(4)}
    assert found == by_hand


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
def test_stated_order_is_the_true_one(tableau):
    """One order more must fail: the check is sharp."""
    with pytest.raises(ValueError, match="has not order"):
        Tableau(tableau.name, tableau.a, tableau.b, tableau.order + 1)


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
def test_order_seen_on_a_nonlinear_equation(tableau):
    """y' = -y^2, y(0) = 1 has y(1) = 1/2: halving the step divides the error by 2^order."""

    def error(n: int) -> float:
        y, h = 1.0, 1.0 / n
        for _ in range(n):
            k = []
            for row in tableau.a:
                k.append(-((y + h * sum(float(q) * s for q, s in zip(row, k, strict=True))) ** 2))
            y += h * sum(float(w) * s for w, s in zip(tableau.b, k, strict=True))
        return abs(y - 0.5)

    assert math.log2(error(32) / error(64)) == pytest.approx(tableau.order, abs=0.4)


def test_embedded_weights_and_first_same_as_last():
    assert DORMAND_PRINCE.first_same_as_last and not RK4.first_same_as_last
    with pytest.raises(ValueError, match="b_embedded"):
        Tableau("x", DORMAND_PRINCE.a, DORMAND_PRINCE.b, 5, b_embedded=DORMAND_PRINCE.b_embedded, embedded_order=5)


@pytest.mark.parametrize("a2", [0.3, 0.5, Fraction(2, 3), 0.9, 1])
def test_rk2_family(a2):
    assert rk2(a2).order == 2 and rk2(a2).b[1] == Fraction(a2)


def test_messages():
    with pytest.raises(ValueError, match="a2=0"):
        rk2(0)
    with pytest.raises(ValueError, match="rows of"):
        Tableau("implicit", ((1,), (0, 1)), (Fraction(1, 2), Fraction(1, 2)), 1)
    with pytest.raises(ValueError, match="one weight per stage"):
        Tableau("short", ((),), (1,), 1, b_embedded=(1, 0), embedded_order=1)
    with pytest.raises(ValueError, match="both or neither"):
        Tableau("half", ((),), (1,), 1, b_embedded=(1,))
