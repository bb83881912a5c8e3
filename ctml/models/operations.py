"""The operations that take the time: convolution with each task's own weights, and batch statistics.

Their derivatives are written here so that they are again such operations, to any order: torch's own second derivatives
of a grouped convolution and of batch norm are slow, and under `torch.vmap` that of batch norm is wrong.

Invariant: the images of all tasks are *stacked*, ``(n, tasks·channels, height, width)`` in channels-last memory. There
a convolution per task is a grouped convolution and statistics per task are those of an ordinary batch norm. What
`unstack` gives back is a view, and so is `stack` of that: between layers nothing is copied.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.grad import conv2d_input, conv2d_weight

CACHE_NUMBERS = 2**19  # 2 MiB of float32: a block, read and written in turn, stays in a core's cache


def stack(x: Float[Tensor, "tasks n channels height width"]) -> Float[Tensor, "n stacked height width"]:
    """Lay the images of all tasks side by side as channels, channels last in memory."""
    stacked = x.transpose(0, 1).flatten(1, 2)
    if stacked.shape[1] == 1:  # torch takes one channel for channels-last already and would go on in the slow order
        return stacked.clone(memory_format=torch.channels_last)
    return stacked.contiguous(memory_format=torch.channels_last)


def unstack(stacked: Float[Tensor, "n stacked height width"], tasks: int) -> Float[Tensor, "tasks n _ height width"]:
    """Undo `stack`, as a view."""
    return stacked.unflatten(1, (tasks, -1)).transpose(0, 1)


def _face(x, w, g, shape, options):
    """Return the derivative of Φ(x, w, g) = ⟨g, conv(x, w)⟩ in the slot left open (None), a tensor of that shape."""
    if g is None:
        return F.conv2d(x, w, **options)
    return conv2d_input(shape, w, g, **options) if x is None else conv2d_weight(x, shape, g, **options)


def _next_faces(face, ctx, u):
    """Return the gradients of a face along the cotangent u of its output.

    The form is linear in each slot, so they are again faces: u closes the slot that was open, and another slot opens.
    """
    *slots, where = ctx.saved_tensors
    slots = [u if slot is None else slot for slot in slots]
    gradients = [None] * len(ctx.needs_input_grad)
    for i in range(3):
        if ctx.needs_input_grad[i]:
            others = [None if j == i else slot for j, slot in enumerate(slots)]
            gradients[i] = face(*others, where, slots[i].shape, ctx.options)
    return tuple(gradients)


def _channels_last(*tensors) -> list[Any]:
    # One operand in the other order would send the result, and all that follows, the slow way.
    return [t if t is None else t.contiguous(memory_format=torch.channels_last) for t in tensors]


class _Convolution(Function):
    """A face of Φ(x, w, g) = ⟨g, conv(x, w)⟩: open in g it is the convolution, in x and w its two gradients."""

    @staticmethod
    def forward(x, w, g, where, shape, options):
        x, w, g = _channels_last(x, w, g)
        return _face(x, w, g, shape, options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *slots_and_where, _, ctx.options = inputs
        ctx.save_for_backward(*slots_and_where)

    @staticmethod
    def backward(ctx, u):
        return _next_faces(_Convolution.apply, ctx, u)


class _PooledConvolution(Function):
    """A face of Φ(x, w, g) = ⟨g, P conv(x, w)⟩, where P picks one pixel of each 2x2 square.

    The picks `where` are constants (n, squares, channels). The convolved images would be the largest tensor of a
    network; they are made and used up a few at a time, and never leave the cache.
    """

    @staticmethod
    def forward(x, w, g, where, shape, options):
        x, w, g = _channels_last(x, w, g)
        size = (shape if x is None else x.shape)[-2:]
        parts = []
        for few in _few(where, size):
            at = where[few].long()
            if g is None:
                assert x is not None, "one slot is open at a time"
                z = F.conv2d(x[few], w, **options)
                picked = z.permute(0, 2, 3, 1).flatten(1, 2).gather(1, at)
                parts.append(picked.unflatten(1, (size[0] // 2, size[1] // 2)).permute(0, 3, 1, 2))
            else:
                pixels = g.new_zeros(len(at), size[0] * size[1], at.shape[2])
                pixels.scatter_(1, at, g[few].permute(0, 2, 3, 1).flatten(1, 2))
                spread = pixels.unflatten(1, size).permute(0, 3, 1, 2)
                if x is None:
                    parts.append(_face(None, w, spread, (len(at), *shape[1:]), options))
                else:
                    parts.append(_face(x[few], None, spread, shape, options))
        return sum(parts) if w is None else torch.cat(parts)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *slots_and_where, _, ctx.options = inputs
        ctx.save_for_backward(*slots_and_where)

    @staticmethod
    def backward(ctx, u):
        return _next_faces(_PooledConvolution.apply, ctx, u)


class _ConvolutionMaxPool(Function):
    """The largest of each 2x2 square of conv(x, w), and where it was."""

    @staticmethod
    def forward(x, w, options):
        x, w = _channels_last(x, w)
        pooled, where = [], []
        for few in _few(x, x.shape[-2:], w.shape[0]):
            largest, at = F.max_pool2d(F.conv2d(x[few], w, **options), 2, return_indices=True)
            pooled.append(largest)
            where.append(at.permute(0, 2, 3, 1).flatten(1, 2).int())  # half the memory of torch's own int64
        return torch.cat(pooled), torch.cat(where)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, ctx.options = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, w, None, output[1])

    @staticmethod
    def backward(ctx, u, _):
        return _next_faces(_PooledConvolution.apply, ctx, u)


def _few(images, size, channels=None):
    """Cut images into slices whose convolved images fit into the cache of a core; elsewhere into one."""
    channels = images.shape[-1] if channels is None else channels
    step = max(1, CACHE_NUMBERS // (size[0] * size[1] * channels)) if images.is_cpu else len(images)
    return [slice(i, i + step) for i in range(0, len(images), step)]


def convolve(
    x: Float[Tensor, "n stacked height width"], w: Float[Tensor, "tasks outputs inputs k k"], stride: int = 1
) -> Float[Tensor, "n _ _ _"]:
    """Convolve stacked images, each task's with its own weights, zero-padded by half a kernel.

    z[t, o, p] = Σ_{i, d} w[t, o, i, d] x[t, i, stride·p + d]
    """
    options = {"stride": stride, "padding": w.shape[-1] // 2, "groups": len(w)}
    return _Convolution.apply(x, w.flatten(0, 1), None, None, None, options)


def convolve_and_pool(
    x: Float[Tensor, "n stacked height width"], w: Float[Tensor, "tasks outputs inputs k k"]
) -> Float[Tensor, "n _ _ _"]:
    """Return the 2x2 max-pooled `convolve(x, w)` without keeping what is pooled."""
    options = {"padding": w.shape[-1] // 2, "groups": len(w)}
    return _ConvolutionMaxPool.apply(x, w.flatten(0, 1), options)[0]


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
    u = patches.unflatten(0, images.shape[:2])  # (tasks, n, inputs k k, pixels)
    mean_u = u.mean(dim=(1, 3), keepdim=True)
    centred = u - mean_u
    covariance = (centred @ centred.mT).sum(1) / (u.shape[1] * u.shape[3])
    rows = w.flatten(2)
    return (rows @ mean_u[:, 0]).flatten(), ((rows @ covariance) * rows).sum(2).flatten()
