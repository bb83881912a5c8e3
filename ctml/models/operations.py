"""The operations that take the time: convolution with each task's own weights, and batch statistics.

Their derivatives are written here so that they are again such operations, to any order: torch's own second derivatives
of a grouped convolution and of batch norm are slow, and under `torch.vmap` that of batch norm is wrong.

Invariant: the images of all tasks are *stacked*, ``(n, tasks·channels, height, width)`` in channels-last memory. There
a convolution per task is a grouped convolution and statistics per task are those of an ordinary batch norm. What
`unstack` gives back is a view, and so is `stack` of that: between layers nothing is copied.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.grad import conv2d_input, conv2d_weight


def stack(x: Float[Tensor, "tasks n channels height width"]) -> Float[Tensor, "n stacked height width"]:
    """Lay the images of all tasks side by side as channels, channels last in memory."""
    stacked = x.transpose(0, 1).flatten(1, 2)
    if stacked.shape[1] == 1:  # torch takes one channel for channels-last already and would go on in the slow order
        return stacked.clone(memory_format=torch.channels_last)
    return stacked.contiguous(memory_format=torch.channels_last)


def unstack(stacked: Float[Tensor, "n stacked height width"], tasks: int) -> Float[Tensor, "tasks n _ height width"]:
    """Undo `stack`, as a view."""
    return stacked.unflatten(1, (tasks, -1)).transpose(0, 1)


class _Trilinear(Function):
    """One of the three faces of Φ(x, w, g) = ⟨g, conv(x, w)⟩: its derivative in the slot left open (None).

    The face open in g is the convolution; those open in x and in w are its two gradients. The derivative of a face
    along a cotangent u is again a face: u closes the slot that was open, and another slot opens.
    """

    @staticmethod
    def forward(x, w, g, shape, options):
        # One operand in the other order would send the result, and all that follows, the slow way.
        x, w, g = (slot if slot is None else slot.contiguous(memory_format=torch.channels_last) for slot in (x, w, g))
        if g is None:
            return F.conv2d(x, w, **options)
        return conv2d_input(shape, w, g, **options) if x is None else conv2d_weight(x, shape, g, **options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *slots, _, ctx.options = inputs
        ctx.save_for_backward(*slots)

    @staticmethod
    def backward(ctx, u):
        slots = [u if slot is None else slot for slot in ctx.saved_tensors]
        gradients = [None] * 5
        for i in range(3):
            if ctx.needs_input_grad[i]:
                others = [None if j == i else slot for j, slot in enumerate(slots)]
                gradients[i] = _Trilinear.apply(*others, slots[i].shape, ctx.options)
        return tuple(gradients)


def convolve(
    x: Float[Tensor, "n stacked height width"], w: Float[Tensor, "tasks outputs inputs k k"], stride: int = 1
) -> Float[Tensor, "n _ _ _"]:
    """Convolve stacked images, each task's with its own weights, zero-padded by half a kernel.

    z[t, o, p] = Σ_{i, d} w[t, o, i, d] x[t, i, stride·p + d]
    """
    options = {"stride": stride, "padding": w.shape[-1] // 2, "groups": len(w)}
    return _Trilinear.apply(x, w.flatten(0, 1), None, None, options)


class _Moments(Function):
    """Mean and variance of each channel, N numbers in each.

    ∂/∂z = (ḡ_mean + 2 ḡ_var (z - mean)) / N
    """

    @staticmethod
    def forward(z):
        return torch.batch_norm_update_stats(z, None, None, 0.0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx, g_mean, g_var):
        z, mean = ctx.saved_tensors
        numel = z.numel() / z.shape[1]
        slope = g_var * (2 / numel)
        offset = g_mean / numel - slope * mean
        return torch.addcmul(offset[:, None, None], z, slope[:, None, None])


def moments(z: Float[Tensor, "n stacked height width"]) -> tuple[Float[Tensor, " stacked"], Float[Tensor, " stacked"]]:
    """Return the mean and the (biased) variance of each task's channels over examples and pixels."""
    return _Moments.apply(z)


def moments_after_convolution(
    x: Float[Tensor, "n stacked height width"], w: Float[Tensor, "tasks outputs inputs k k"], stride: int = 1
) -> tuple[Float[Tensor, " _"], Float[Tensor, " _"]]:
    """Return `moments(convolve(x, w, stride))` from the moments of x's patches u, without convolving.

    mean = W ū,   var = diag W Σ Wᵀ,   Σ = cov u

    Where a patch is shorter than the list of outputs this costs less than to read the outputs.
    """
    tasks, kernel = len(w), w.shape[-1]
    images = unstack(x, tasks)
    patches = F.unfold(images.flatten(0, 1), kernel, padding=kernel // 2, stride=stride)
    u = patches.unflatten(0, images.shape[:2]).transpose(1, 2).flatten(2)  # (tasks, inputs k k, n pixels)
    mean_u = u.mean(2, keepdim=True)
    centred = u - mean_u
    covariance = centred @ centred.mT / u.shape[2]
    rows = w.flatten(2)
    return (rows @ mean_u).flatten(), ((rows @ covariance) * rows).sum(2).flatten()
