r"""Forward sensitivities as one would first write them, without COMLN's decomposition: what it saves is seen from here.

    d/dt dW/dW_0   = -H dW/dW_0,              H = sum_i A_i (x) phi_i phi_i^T,     A_i = (diag(p_i) - p_i p_i^T) / M
    d/dt dW/dphi_m = -(H dW/dphi_m + d(grad L)/dphi_m)

N^2 d^2 and M N d^2 numbers (Table 1 of Deleu et al. 2022, "naive forward-mode"): for 1,600 features 1.5 GB in float32.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ctml.checks import at_least


def naive_sensitivities(
    features: Float[Tensor, "M d"], labels: Int[Tensor, " M"], head: Float[Tensor, "N d"], *, rate: float, steps: int
) -> tuple[Float[Tensor, "N d"], Float[Tensor, "N d N d"], Float[Tensor, "N d M d"]]:
    """Take Euler steps of W and of its two Jacobians; return W, dW/dW_0 and dW/dphi.

    Args:
        features, labels, head: Phi, y and W_0 of one task.
        rate, steps: of the walk.
    """
    at_least("steps", steps, 1)
    (M, d), N = features.shape, len(head)
    targets = F.one_hot(labels, N).to(features.dtype)
    eye = torch.eye(d, dtype=features.dtype, device=features.device)
    one = torch.eye(N, dtype=features.dtype, device=features.device)
    W, of_head, of_features = head, torch.einsum("nk,ab->nakb", one, eye), features.new_zeros(N, d, M, d)
    for _ in range(steps):
        p = (features @ W.mT).softmax(-1)
        A = (torch.einsum("in,nk->ink", p, one) - torch.einsum("in,ik->ink", p, p)) / M

        def curved(jacobian: Tensor, A: Tensor = A) -> Tensor:
            """Return H times a Jacobian `(N, d, *, d)`."""
            along = torch.einsum("ia,na...->in...", features, jacobian)
            return torch.einsum("ia,in...->na...", features, torch.einsum("ink,ik...->in...", A, along))

        direct = torch.einsum("mn,ab->namb", (p - targets) / M, eye)
        direct = direct + torch.einsum("ma,mnb->namb", features, A @ W)
        of_head = of_head - rate * curved(of_head)
        of_features = of_features - rate * (curved(of_features) + direct)
        W = W - rate * (p - targets).mT @ features / M
    return W, of_head, of_features
