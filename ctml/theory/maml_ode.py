"""The MAML ODE and BI-MAML on strongly convex tasks: constants, bounds, and the quadratic case solved.

    f_i mu-strongly convex, L-smooth, its Hessian rho-Lipschitz;  mean_i |grad f_i - grad f|^2 <= sigma^2 on the path
    0 < alpha < 1/L, so the eigenvalues of I - alpha H_i lie in [a, b],   a = 1 - alpha L,  b = 1 - alpha mu

The paper (Xu, Chen and Karbasi 2021) states a linear rate to an approximate stationary point. The constants below are
derived here from the definition of one-step MAML, with their proofs sketched beside them; they are not the paper's.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.tasks.logistic_ridge import LogisticRidge
from ctml.tasks.quadratic import Quadratic


def symmetric_part(a: float, b: float) -> float:
    """Return the greatest lambda with x'PQx >= lambda |x|^2 for all symmetric P, Q with eigenvalues in [a, b].

    lambda_A = a^2 if 3a >= b, else (a+b)^2/8 - (b-a)^2/4

    The vectors Px fill a ball around (a+b)/2 x of radius (b-a)/2 |x|: the least inner product of two of its points.

    Raises:
        ValueError: unless 0 < a <= b.
    """
    positive("a", a)
    at_least("b", b, a)
    return a**2 if 3 * a >= b else (a + b) ** 2 / 8 - (b - a) ** 2 / 4


def least_turned_product(a: float, b: float, angles: int = 20_001) -> float:
    """Return the same by brute force: two-dimensional P, Q with eigenvalues a, b are the worst, turned by any angle."""
    angle = torch.linspace(0, math.pi, angles, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    ends = torch.diag(torch.tensor([a, b], dtype=torch.float64))
    product = ends @ (turn @ ends @ turn.mT)
    return float(torch.linalg.eigvalsh((product + product.mT) / 2).min())


def greatest_turn(a: float, b: float, angles: int = 2001) -> float:
    """Return max |PQ - m^2 I|, m = (a+b)/2, by brute force over two-dimensional P, Q with eigenvalues a or b."""
    angle = torch.linspace(0, math.pi, angles, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    ends = torch.diag_embed(torch.tensor([[a, a], [a, b], [b, b]], dtype=torch.float64))
    product = ends[:, None, None] @ (turn @ ends[:, None] @ turn.mT)
    centred = product - ((a + b) / 2) ** 2 * torch.eye(2, dtype=torch.float64)
    return float(torch.linalg.matrix_norm(centred, ord=2).max())


@dataclass(frozen=True)
class Bounds:
    """The bounds for one task family and one inner step size.

    Args:
        mu, smoothness: least and greatest curvature of the tasks, mu and L.
        alpha: inner step size.
        sigma: heterogeneity, the greatest sqrt(mean_i |grad f_i - grad f|^2) on the path.
        rho: Lipschitz constant of the Hessians; only phase 2 and the discretisation need it.

    Raises:
        ValueError: unless 0 < mu <= L, 0 < alpha < 1/L, and sigma, rho >= 0.
    """

    mu: float
    smoothness: float
    alpha: float
    sigma: float = 0.0
    rho: float = 0.0

    def __post_init__(self) -> None:
        positive("mu", self.mu)
        at_least("smoothness", self.smoothness, self.mu)
        positive("alpha", self.alpha)
        at_least("sigma", self.sigma, 0)
        at_least("rho", self.rho, 0)
        if self.alpha * self.smoothness >= 1:
            raise ValueError(
                f"alpha={self.alpha:g}: the theorems need alpha < 1/L = {1 / self.smoothness:.4g}, where I - alpha H "
                f"is positive definite; take a smaller inner step"
            )

    @classmethod
    def of(cls, tasks: LogisticRidge, share: float, sigma: float = 0.0) -> "Bounds":
        """Take mu, L and rho from the tasks, and alpha = share / L."""
        return cls(tasks.ridge, tasks.smoothness, share / tasks.smoothness, sigma, tasks.hessian_lipschitz)

    @property
    def a(self) -> float:
        """1 - alpha L."""
        return 1 - self.alpha * self.smoothness

    @property
    def b(self) -> float:
        """1 - alpha mu."""
        return 1 - self.alpha * self.mu

    # T1: f falls along the MAML ODE. grad F_i = A_i grad f_i with A_i = (I - alpha H_i)(I - alpha mean H_i), and with
    # d_i = grad f_i - grad f, whose mean is 0,   grad F = E A_i grad f + E (A_i - m^2 I) d_i   for any number m.

    @property
    def descent(self) -> float:
        """lambda_A, by which grad F descends the joint loss: <grad f_i, grad F_i> >= lambda_A |grad f_i|^2."""
        return symmetric_part(self.a, self.b)

    @property
    def turning(self) -> float:
        """kappa = b^2 - m^2 with m = (a+b)/2: how far A_i is from a multiple of the identity, |A_i - m^2 I| <= kappa.

        Both factors are m I + r S with |S| <= 1 and r = (b-a)/2, so A_i - m^2 I = m r (S + T) + r^2 S T, of norm at
        most 2 m r + r^2 = (m + r)^2 - m^2. It is of order alpha: kappa = alpha (L - mu) + O(alpha^2).
        """
        return self.b**2 - ((self.a + self.b) / 2) ** 2

    @property
    def stationary_radius(self) -> float:
        """kappa sigma / lambda_A, which |grad f| does not exceed at any stationary point of F; sharp as alpha -> 0."""
        return self.turning * self.sigma / self._positive_descent()

    @property
    def floor(self) -> float:
        """(kappa sigma / lambda_A)^2 / 2 mu, to which the joint gap falls at a linear rate; of order alpha^2."""
        return self.stationary_radius**2 / (2 * self.mu)

    def joint_gap(self, t: Float[Tensor, " times"], gap0: float) -> Float[Tensor, " times"]:
        """Bound the joint loss along the MAML ODE, T1.

        sqrt(f(w(t)) - f*) <= sqrt(floor) + e^(-lambda_A mu t) (sqrt(f(w0) - f*) - sqrt(floor))_+

        With x = |grad f|, f' <= -lambda_A x^2 + kappa sigma x. Above the floor x >= sqrt(2 mu (f - f*)) lies where the
        right side falls in x, so u = sqrt(f - f*) obeys u' <= -lambda_A mu (u - sqrt(floor)).

        Raises:
            ValueError: if lambda_A <= 0 (alpha too close to 1/L for this mu/L).
        """
        end = math.sqrt(self.floor)
        above = max(0.0, math.sqrt(gap0) - end)
        return (end + torch.exp(-self._positive_descent() * self.mu * t) * above) ** 2

    def joint_gap_along(
        self, t: Float[Tensor, " times"], gap0: float, sigma: Float[Tensor, " times"]
    ) -> Float[Tensor, " times"]:
        """Bound the joint loss by the disagreement that is still to come, s(t) = sup of sigma from t on.

        sqrt(f(w(t)) - f*) <= U(t),   U' = -lambda_A mu (U - eps(t)),   U(0) = max(sqrt(f(w0) - f*), eps(0))

        with eps(t) = kappa s(t) / (lambda_A sqrt(2 mu)). Since s never rises, U stays above eps, where T1's inequality
        for sqrt(f - f*) holds. Between marks s is that of the earlier one, which is larger. Own `sigma` is not used.
        """
        still = sigma.flip(0).cummax(0).values.flip(0)
        level = self.turning * still / (self._positive_descent() * math.sqrt(2 * self.mu))
        fade = torch.exp(-self._positive_descent() * self.mu * t.diff())
        bound = [torch.maximum(torch.tensor(gap0, dtype=t.dtype).sqrt(), level[0])]
        for k, factor in enumerate(fade):
            bound.append(level[k] + factor * (bound[-1] - level[k]))
        return torch.stack(bound).square()

    @property
    def gradient_radius(self) -> float:
        """r_A, below which |grad F| stays in the end: kappa sigma (1 + b^2/lambda_A sqrt(L/mu)), T1."""
        condition = math.sqrt(self.smoothness / self.mu)
        return self.turning * self.sigma * (1 + self.b**2 / self._positive_descent() * condition)

    def _positive_descent(self) -> float:
        if self.descent <= 0:
            raise ValueError(
                f"alpha={self.alpha:g}: lambda_A={self.descent:.3g} is not positive, so the bound says nothing; "
                f"alpha <= 2/(3L - mu) = {2 / (3 * self.smoothness - self.mu):.4g} is small enough"
            )
        return self.descent

    # T1': each task's MAML loss is gradient dominated although it may be non-convex

    @property
    def gradient_dominance(self) -> float:
        """mu (1 - alpha L)^2, with which |grad F_i|^2 >= 2 mu (1 - alpha L)^2 (F_i - f_i*)."""
        return self.mu * self.a**2

    def maml_gap(self, t: Float[Tensor, " times"], gap0: float, sigma_maml: float) -> Float[Tensor, " times"]:
        """Bound the MAML loss on its own flow, T1' (6), with mean_i |grad F_i - grad F|^2 <= sigma_maml^2 on the path.

        F(w(t)) - mean f_i* <= e^(-2 mu (1-alpha L)^2 t) (F(w0) - mean f_i*) + sigma_maml^2 / (2 mu (1-alpha L)^2)
        """
        rate = 2 * self.gradient_dominance
        return torch.exp(-rate * t) * gap0 + sigma_maml**2 / rate

    # T2: the curvature of F grows with the inner gradient, so a fixed step is unsafe far away

    def maml_smoothness(self, inner_gradient: float) -> float:
        """Bound |hess F_i(w)| <= (1 - alpha mu)^2 L + alpha rho (1 - alpha mu) |grad f_i(w)|."""
        return self.b**2 * self.smoothness + self.alpha * self.rho * self.b * inner_gradient

    # T3: where inner gradients are small, F is strongly convex

    @property
    def critical_inner_gradient(self) -> float:
        """G_c = mu (1-alpha L)^2 / (alpha rho (1-alpha mu)); F curves upward where mean_i |grad f_i| < G_c."""
        return math.inf if self.rho == 0 else self.mu * self.a**2 / (self.alpha * self.rho * self.b)

    @property
    def strong_convexity(self) -> float:
        """mu_F = mu (1-alpha L)^2 / 2, where mean_i |grad f_i| <= G_c / 2."""
        return self.mu * self.a**2 / 2

    @property
    def limits_agree(self) -> bool:
        """Condition (*): G_c/2 >= sigma (1 + kappa/lambda_A sqrt(L/mu)); MAML and BI-MAML then share their limit."""
        if self.descent <= 0:
            return False
        condition = math.sqrt(self.smoothness / self.mu)
        return self.critical_inner_gradient / 2 >= self.sigma * (1 + self.turning / self.descent * condition)

    @property
    def safe_switch(self) -> float:
        """eps_1 = sqrt(mu/L) (G_c/2 - sigma): from |grad f| <= eps_1 on, phase 2 stays where F is strongly convex.

        Raises:
            ValueError: if sigma >= G_c/2: no switch by the joint gradient is then safe by this theorem.
        """
        margin = self.critical_inner_gradient / 2 - self.sigma
        if margin <= 0:
            raise ValueError(
                f"sigma={self.sigma:.4g}: at least G_c/2={self.critical_inner_gradient / 2:.4g}, so no switch is "
                f"known to be safe; take a smaller alpha or more similar tasks"
            )
        return math.sqrt(self.mu / self.smoothness) * margin

    # T4: what phase 1 saves

    def phase_one_time(self, joint_gradient0: float, switch_at: float) -> float:
        """Bound the length of phase 1: T1 <= ln(|grad f(w0)| / eps_1) / mu."""
        positive("joint_gradient0", joint_gradient0)
        positive("switch_at", switch_at)
        return max(0.0, math.log(joint_gradient0 / switch_at) / self.mu)


def time_saved_per_efold(curvature: float, alpha: float) -> float:
    """Return how much longer MAML takes than joint training for a factor e of distance where the curvature is h, T4.

    1/(h (1 - alpha h)^2) - 1/h
    """
    positive("curvature", curvature)
    return 1 / (curvature * (1 - alpha * curvature) ** 2) - 1 / curvature


@dataclass(frozen=True)
class QuadraticMaml:
    """MAML on quadratic tasks in closed form (T5): F is a convex quadratic for every alpha.

    M = mean_i (I - alpha H_i) H_i (I - alpha H_i),   w_F* = M^-1 mean_i M_i c_i,   w(t) = w_F* + e^(-M t) (w0 - w_F*)

    Args:
        tasks: the quadratics.
        alpha: inner step size; 0 is joint training.
    """

    tasks: Quadratic
    alpha: float

    @property
    def hessians(self) -> Float[Tensor, "tasks d d"]:
        """M_i, the Hessians of the tasks' MAML losses."""
        h = self.tasks.hessian
        contraction = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device) - self.alpha * h
        return contraction @ h @ contraction

    @property
    def hessian(self) -> Float[Tensor, "d d"]:
        """M, the Hessian of F."""
        return self.hessians.mean(0)

    @property
    def minimiser(self) -> Float[Tensor, " d"]:
        """w_F*, the stationary point of F."""
        pull = (self.hessians @ self.tasks.centre[..., None]).mean(0)
        return torch.linalg.solve(self.hessian, pull)[:, 0]

    @property
    def rates(self) -> Float[Tensor, " d"]:
        """Eigenvalues of M in increasing order: the slowest is the flow's rate, the fastest limits the step size."""
        return torch.linalg.eigvalsh(self.hessian)

    def solution(self, t: float, w0: Float[Tensor, "*points d"]) -> Float[Tensor, "*points d"]:
        """Return w(t) of the MAML ODE."""
        return self.minimiser + (w0 - self.minimiser) @ torch.linalg.matrix_exp(-t * self.hessian)


def greatest_maml_curvature(alpha: float) -> float:
    """Return max over h of h (1 - alpha h)^2 on 0 <= alpha h <= 4/3: 4 / (27 alpha), taken at h = 1/(3 alpha)."""
    positive("alpha", alpha)
    return 4 / (27 * alpha)
