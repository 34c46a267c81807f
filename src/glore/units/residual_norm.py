"""`X + batch_norm(We Z P)` without ever forming the norm's input.

With `M = We Z` (c, n), and the projection split into its mean and the rest, `P = Pc + p̄ 1ᵀ`, channel i of the norm's
input `M P` has over one sample the mean `(M p̄)_i` and the variance `(M C Mᵀ)_ii`, `C = Pc Pcᵀ / l`. So the batch
statistics, and their gradients, follow from small matrices. For the backward only P is kept, which the pooling side
keeps anyway. Letters as in `glore.units.products`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from glore.units.products import add_product_, as_typed, once, sum_samples, times


def add_batch_normed(
    x: Float[Tensor, "b c l"],
    centred: Float[Tensor, "b n l"],
    mean_p: Float[Tensor, "b n"],
    nodes: Float[Tensor, "b s n"],
    weight: Float[Tensor, "c s"],
    norm: _BatchNorm,
) -> Float[Tensor, "b c l"]:
    """`X + batch_norm(We Z P)`, moving the norm's statistics in training as torch's own forward does.

    Args:
        x: the map X.
        centred: the projection about its mean, Pc, as `glore.units.products.pool` gives it.
        mean_p: that mean, p̄.
        nodes: the reasoned nodes Z.
        weight: the weight We that takes states to channels.
        norm: with a weight and a bias, and in evaluation mode with running statistics.

    Raises:
        ValueError: in training mode, there is one value a channel only, so no variance.
    """
    if not norm.training:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight * (norm.running_var.to(mean_p.dtype) + norm.eps).rsqrt()  # (c)
        shift = norm.bias - gain * norm.running_mean.to(mean_p.dtype)  # (c)
        return add_broadcast(x, centred, mean_p, nodes, weight, shift, gain)
    values = x.shape[0] * x.shape[2]
    if values == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    affine = norm.weight, norm.bias
    out, mean, variance, _ = _LeanBatchNorm.apply(x, centred, mean_p, nodes, weight, *affine, norm.eps)
    if norm.track_running_stats:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        share = torch.full_like(mean[0], norm.momentum or 0.0)
        if norm.momentum is None and norm.num_batches_tracked is not None:
            share = 1 / norm.num_batches_tracked.to(mean.dtype)
        unbiased = variance * (values / (values - 1))
        for statistic, own in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            if statistic is not None:
                statistic.lerp_(own.to(statistic.dtype), share.to(statistic.dtype))
    return out


def add_broadcast(
    x: Float[Tensor, "b c l"],
    centred: Float[Tensor, "b n l"],
    mean_p: Float[Tensor, "b n"],
    nodes: Float[Tensor, "b s n"],
    weight: Float[Tensor, "c s"],
    shift: Float[Tensor, " c"],
    gain: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, "b c l"]:
    """`X + gain · We Z P + shift`, gain and shift being numbers a channel; other arguments: `add_batch_normed`."""
    with as_typed(x):
        dtype = centred.dtype
        m = times(weight.to(dtype), nodes.to(dtype)).to(mean_p.dtype)  # (b, c, n)
        m = m if gain is None else m * gain[:, None]
        constant = torch.bmm(m, mean_p[..., None])[..., 0] + shift  # (b, c)
        return add_product_(x + constant[..., None].to(x.dtype), m.to(dtype), centred)


class _Moments:
    """Mean and variance of the norm's input `M P`, and what they are made of.

    `m` is M; `offset` is how far each sample's mean lies from the batch's; `mc` is M C.
    """

    def __init__(self, covariance: Tensor, mean_p: Tensor, nodes: Tensor, weight: Tensor, dtype: torch.dtype) -> None:
        self.m = times(weight.to(dtype), nodes.to(dtype)).to(mean_p.dtype)  # (b, c, n)
        means = torch.bmm(self.m, mean_p[..., None])[..., 0]  # (b, c)
        self.mean = means.mean(0)  # (c)
        self.offset = means - self.mean  # (b, c)
        self.mc = torch.bmm(self.m, covariance)  # (b, c, n)
        within = (self.mc * self.m).sum(-1).clamp_min(0)  # (b, c), and never below zero by rounding
        self.variance = (within + self.offset.square()).mean(0)  # (c)


class _LeanBatchNorm(Function):
    """`X + batch_norm(M P)`, `M = We Z`, keeping no map but P and recomputing what is small."""

    @staticmethod
    def forward(
        x: Tensor,
        centred: Tensor,
        mean_p: Tensor,
        nodes: Tensor,
        weight: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with as_typed(x):
            p = centred.to(mean_p.dtype)
            covariance = torch.bmm(p, p.mT).div_(p.shape[-1])  # (b, n, n)
            moments = _Moments(covariance, mean_p, nodes, weight, centred.dtype)
            gain = norm_weight * (moments.variance + eps).rsqrt()  # (c)
            constant = norm_bias + gain * moments.offset  # (b, c)
            out = x + constant[..., None].to(x.dtype)
            add_product_(out, moments.m.mul_(gain[:, None]).to(centred.dtype), centred)
        return out, moments.mean, moments.variance, covariance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, centred, mean_p, nodes, weight, norm_weight, _, ctx.eps = inputs
        _, mean, variance, covariance = output
        ctx.mark_non_differentiable(mean, variance, covariance)
        ctx.save_for_backward(centred, mean_p, nodes, weight, norm_weight, covariance)

    @staticmethod
    @once
    def backward(ctx: Any, saved: tuple[Tensor, ...], *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_out = grads[0]
        centred, mean_p, nodes, weight, norm_weight, covariance = saved
        samples, _, positions = centred.shape
        with as_typed(d_out):
            stats, dtype = mean_p.dtype, centred.dtype
            dy = d_out.to(dtype)
            moments = _Moments(covariance, mean_p, nodes, weight, dtype)
            m, mc, offset = moments.m, moments.mc, moments.offset
            rate = (moments.variance + ctx.eps).rsqrt()  # (c)
            gain = norm_weight * rate
            d_m = torch.bmm(dy, centred.mT).to(stats)  # (b, c, n), for now of the normed product
            d_sum = d_out.sum(-1, dtype=stats)  # (b, c)
            d_gain = ((d_m * m).sum(-1) + d_sum * offset).sum(0)  # (c)
            d_variance = d_gain * norm_weight * rate**3 / -samples  # (c), twice what falls to a sample
            d_mean = gain * (d_sum - d_sum.mean(0)) + d_variance * offset  # (b, c)
            d_mean_p = (d_mean[:, None] @ m)[:, 0]  # (b, n)
            d_m.mul_(gain[:, None]).addcmul_(mc, d_variance[:, None]).addcmul_(d_mean[..., None], mean_p[:, None])
            quadratic = torch.bmm((m * d_variance[:, None]).mT, m).to(dtype)  # (b, n, n)
            d_centred = torch.bmm(m.mul_(gain[:, None]).to(dtype).mT, dy)  # (b, n, l)
            d_centred.baddbmm_(quadratic, centred, alpha=1 / positions)
            d_m = d_m.to(dtype)
            d_nodes = times(weight.to(dtype).mT, d_m)  # (b, s, n)
            d_weight = sum_samples(torch.bmm(d_m, nodes.to(dtype).mT))  # (c, s)
        return d_out, d_centred, d_mean_p, d_nodes, d_weight, rate * d_gain, d_sum.sum(0), None
