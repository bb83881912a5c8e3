r"""Explicit Runge-Kutta methods as data that checks itself.

    k_j = f(y_n + h sum_{l<j} a_jl k_l),      y_{n+1} = y_n + h sum_j b_j k_j,      c_j = sum_l a_jl

Letters are Butcher's. The RK-MAML paper's letters are in `ctml.learners.rk_maml` and here:

    here (Butcher)   RK-MAML paper   what it is
    b                a               weights of the stages in the step
    a                q               how far a stage moves along earlier stages
    c                -               time of a stage, sum of its row of a

Invariant: a `Tableau` exists only if it has the order that it states. The order conditions are those of Butcher's
rooted trees: a method has order p if, for every rooted tree t with at most p vertices,

    sum_i b_i Phi_i(t) = 1 / gamma(t),   Phi_i([t_1 .. t_k]) = prod_m sum_j a_ij Phi_j(t_m),
    gamma(t) = |t| prod_m gamma(t_m).

Coefficients are exact fractions, so the check is an equality, not a tolerance.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

Tree = tuple  # a rooted tree is the sorted tuple of the trees that hang from its root; () is a single vertex


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """Return all rooted trees with `order` vertices: 1, 1, 2, 4, 9, 20, ..."""
    return tuple(sorted(_forests(order - 1, order - 1)))


def _forests(vertices: int, largest: int) -> Iterator[Tree]:
    """Yield every multiset of trees with `vertices` vertices in all, none of them larger than `largest`."""
    if vertices == 0:
        yield ()
    for size in range(min(vertices, largest), 0, -1):
        for how_many in range(1, vertices // size + 1):
            for chosen in combinations_with_replacement(rooted_trees(size), how_many):
                for rest in _forests(vertices - size * how_many, size - 1):
                    yield tuple(sorted(chosen + rest))


def size(tree: Tree) -> int:
    """Return |t|, the number of vertices."""
    return 1 + sum(map(size, tree))


def density(tree: Tree) -> int:
    """Return gamma(t) = |t| prod_m gamma(t_m)."""
    return size(tree) * math.prod(map(density, tree))


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

    Args:
        name: shown in figures and tables.
        a: row j holds a_j1 .. a_j,j-1 (the first row is empty).
        b: one weight per stage.
        order: the order that the coefficients must have.
        b_embedded: weights of the embedded method whose difference from b estimates the error of a step.
        embedded_order: order of the embedded method.

    Raises:
        ValueError: if shapes do not fit, or an order condition fails (the message names the tree).
    """

    name: str
    a: tuple[tuple[Fraction | int, ...], ...] = field(repr=False)
    b: tuple[Fraction | int, ...] = field(repr=False)
    order: int
    b_embedded: tuple[Fraction | int, ...] | None = field(default=None, repr=False)
    embedded_order: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", tuple(tuple(map(Fraction, row)) for row in self.a))
        object.__setattr__(self, "b", tuple(map(Fraction, self.b)))
        if len(self.a) != self.stages or any(len(row) != j for j, row in enumerate(self.a)):
            rows = [len(row) for row in self.a]
            needed = list(range(self.stages))
            raise ValueError(f"a has rows of {rows} entries: an explicit method with these b needs {needed}")
        self._check("b", self.b, self.order)
        if (self.b_embedded is None) != (self.embedded_order is None):
            raise ValueError("b_embedded and embedded_order: give both or neither")
        if self.b_embedded is not None and self.embedded_order is not None:
            object.__setattr__(self, "b_embedded", tuple(map(Fraction, self.b_embedded)))
            self._check("b_embedded", self.b_embedded, self.embedded_order)

    def __hash__(self) -> int:
        # Equal tableaus have equal names; hashing forty fractions at every cached look-up would cost more than a step.
        return hash((self.name, self.order))

    def _check(self, name: str, weights: tuple[Fraction | int, ...], order: int) -> None:
        if len(weights) != self.stages:
            raise ValueError(f"{name} has {len(weights)} entries for {self.stages} stages: give one weight per stage")
        for vertices in range(1, order + 1):
            for tree in rooted_trees(vertices):
                found, needed = self.elementary_weight(tree, weights), Fraction(1, density(tree))
                if found != needed:
                    raise ValueError(
                        f"{name} of {self.name!r} has not order {order}: the condition of tree {tree} is {found}, "
                        f"must be {needed}; correct the coefficients or state order {vertices - 1}"
                    )

    def elementary_weight(self, tree: Tree, weights: tuple[Fraction | int, ...] | None = None) -> Fraction:
        """Return sum_i b_i Phi_i(t) (Butcher's elementary weight of a tree; equals 1 / gamma(t) up to the order)."""
        weights = self.b if weights is None else weights
        return sum((b * phi for b, phi in zip(weights, self._stage_weights(tree), strict=True)), Fraction(0))

    def _stage_weights(self, tree: Tree) -> list[Fraction]:
        """Return Phi_i(t) of every stage i."""
        product = [Fraction(1)] * self.stages
        for branch in tree:
            phi = self._stage_weights(branch)
            inner = [sum((q * p for q, p in zip(row, phi, strict=False)), Fraction(0)) for row in self.a]
            product = [x * y for x, y in zip(product, inner, strict=True)]
        return product

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.b)

    @property
    def c(self) -> tuple[Fraction, ...]:
        """Times of the stages, the row sums of a."""
        return tuple(Fraction(sum(row)) for row in self.a)

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the slope at the new point, so that the next step has its first stage for free."""
        return self.stages > 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]


def rk2(a2: float | Fraction) -> Tableau:
    """Return the order-2 method with weights (1 - a2, a2); its second stage moves by 1 / (2 a2).

    a2 (the RK-MAML paper's letter; b_2 here) = 1 is the midpoint rule, 3/4 Ralston's of least error, 1/2 Heun's.

    Raises:
        ValueError: if a2 is 0, which has no second stage to move.
    """
    if a2 == 0:
        raise ValueError("a2=0: an order-2 method needs weight on its second stage; use EULER, or a2 in (0, 1]")
    a2 = Fraction(a2)
    return Tableau(f"RK2, a2 = {a2.limit_denominator(1000)}", ((), (1 / (2 * a2),)), (1 - a2, a2), order=2)


def _fractions(*rows: str) -> tuple[tuple[Fraction, ...], ...]:
    return tuple(tuple(map(Fraction, row.split())) for row in rows)


EULER = Tableau("Euler", ((),), (Fraction(1),), order=1)
MIDPOINT = rk2(1)
RALSTON = rk2(Fraction(3, 4))
CHAPRA_RALSTON = rk2(Fraction(2, 3))
HEUN = rk2(Fraction(1, 2))
HEUN3 = Tableau("Heun 3", _fractions("", "1/3", "0 2/3"), *_fractions("1/4 0 3/4"), order=3)
KUTTA3 = Tableau("Kutta 3", _fractions("", "1/2", "-1 2"), *_fractions("1/6 2/3 1/6"), order=3)
RK4 = Tableau("RK4", _fractions("", "1/2", "0 1/2", "0 0 1"), *_fractions("1/6 1/3 1/3 1/6"), order=4)
THREE_EIGHTHS = Tableau("3/8 rule", _fractions("", "1/3", "-1/3 1", "1 -1 1"), *_fractions("1/8 3/8 3/8 1/8"), order=4)
DORMAND_PRINCE = Tableau(
    "Dormand-Prince 5(4)",
    _fractions(
        "",
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
    ),
    *_fractions("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
    order=5,
    b_embedded=_fractions("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40")[0],
    embedded_order=4,
)

TABLEAUS = (EULER, MIDPOINT, RALSTON, CHAPRA_RALSTON, HEUN, HEUN3, KUTTA3, RK4, THREE_EIGHTHS, DORMAND_PRINCE)
"""All of the above, for tests and tables."""
