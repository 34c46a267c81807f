"""Products over positions in the cheap order.

Letters: batch b, channels c, states s, nodes n, positions l. A unit pools its map X (c, l) with a projection P (n, l)
into nodes, and broadcasts what it made of them back to the positions. Written as published, both directions form maps
of (s, l): `V = (Ws X) Pᵀ` and `We (Z P)`. The products associate, `V = Ws (X Pᵀ)` and `(We Z) P`, so neither has to be.

The projection is kept centred, `Pc = P − p̄` with `p̄` its mean over positions: `glore.units.residual_norm` then has the
batch statistics of `We Z P` from small matrices.

Source: Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019, equations 2 to 5. The order is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.flop_counter import flop_registry

from glore.units.ndim import BATCH_NORMS, CONVS


def folds(positions: int, channels: int, states: int, nodes: int, *, training: bool = False) -> bool:
    """Whether the cheap order beats the published one on a map of this many positions.

    In multiply-adds, `l (c s + c n + s n)` stands against `l · 2 c n + c s n` on the pooling side, and `l (s n + s c)`
    against `l c n + c s n` on the broadcasting side. Both tip at the same l, c/3 at the default widths. Training
    computes more small matrices, `c s n` and the like, and tips at half as much again (docs/results.md has the times).
    """
    small = channels * states * nodes * (1.5 if training else 1)
    return positions * (channels * states + states * nodes - channels * nodes) > small


def symbolic(x: Tensor) -> bool:
    """Whether sizes are symbols, as in `torch.fx.symbolic_trace` and `torch.export`: then none can decide anything."""
    return isinstance(x, torch.fx.Proxy) or torch.compiler.is_exporting()


# torch's counter of operations knows these but not in place, and would count our units for less than they do
for _product in ("addmm", "baddbmm"):
    _aten = torch.ops.aten
    flop_registry.setdefault(getattr(_aten, f"{_product}_"), flop_registry[getattr(_aten, _product)])


def plain(layer: nn.Module, *, bias: bool | None = None) -> bool:
    """Whether calling `layer` does just what torch's own convolution or batch norm does with its weights.

    A subclass, a parametrisation, a hook or a replaced `forward` (LoRA, quantisation, counters) is not plain: such
    a layer has to be called, its weights alone do not say what it computes. Nor is a convolution that looks at more
    than one position, or a norm in evaluation mode that keeps no statistics. Hooks on all modules at once
    (`torch.nn.modules.module.register_module_forward_hook`) do not count: torch's own counter of operations sets one.

    Args:
        layer: a child of a unit.
        bias: whether it must have a bias to be plain, or must have none; None where either will do.
    """
    if not untouched(layer, *CONVS, *BATCH_NORMS):
        return False
    if bias is not None and bias is (layer.bias is None):
        return False
    if isinstance(layer, CONVS):
        one_position = set(layer.kernel_size) == set(layer.stride) == {1} and set(layer.padding) == {0}
        return one_position and layer.groups == 1
    return layer.training or layer.running_mean is not None


def untouched(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is exactly of one of these classes, without hooks or a forward of its own."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) in kinds and "forward" not in layer.__dict__ and not hooks


def as_typed(x: Tensor) -> AbstractContextManager[object]:
    """No autocast: products run in the types that their operands have. The meta device knows no autocast at all."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def product_dtype(x: Tensor) -> torch.dtype | None:
    """The type that autocast gives the large products; None where it is off and operands have to agree."""
    device = x.device.type
    if not x.is_meta and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return None


def cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The operand of a large product in the type of `product_dtype`."""
    return x if dtype is None else x.to(dtype)


@torch.fx.wrap
def times(weight: Float[Tensor, "i j"], x: Float[Tensor, "b j k"]) -> Float[Tensor, "b i k"]:
    """One matrix times each sample. Unlike matmul it never copies x to fold the batch.

    The matrix is cast before it is expanded: autocast by itself would copy it for each sample.
    """
    dtype = product_dtype(x)
    return torch.bmm(cast(weight, dtype).expand(x.shape[0], -1, -1), cast(x, dtype))


def stats_dtype(x: Tensor) -> torch.dtype:
    """The type of sums over positions and of norm statistics: float32, or float64 for a float64 map."""
    return torch.promote_types(x.dtype, torch.float32)


@torch.fx.wrap
def scaled_product(
    a: Float[Tensor, "b i j"], b: Float[Tensor, "b j k"], scale: float | torch.SymFloat
) -> Float[Tensor, "b i k"]:
    """`scale · a b`, scaled before the float32 sums are rounded: in half precision only the result has to fit."""
    return torch.baddbmm(a.detach()[..., :1], a, b, beta=0, alpha=scale)  # beta=0 leaves out the first


def add_product_(out: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`out += alpha a b`, without a temporary where the types agree."""
    if out.dtype == a.dtype:
        if not (torch.is_grad_enabled() or symbolic(out)) and out.stride(1) == 1:
            out.mT.baddbmm_(b.mT, a.mT, alpha=alpha)  # torch would take a channels-last map sample by sample
            return out
        return out.baddbmm_(a, b, alpha=alpha)
    return out.add_(torch.bmm(a, b), alpha=alpha)


def sum_samples(x: Float[Tensor, "b i j"]) -> Float[Tensor, "i j"]:
    """The sum over the batch; a batch of one is not copied."""
    return x.sum_to_size(1, *x.shape[1:])[0]


@torch.fx.wrap
def pool(
    x: Float[Tensor, "b c l"], weight: Float[Tensor, "n c"], bias: Float[Tensor, " n"], *, lean: bool = False
) -> tuple[Float[Tensor, "b c l"], Float[Tensor, "b n l"], Float[Tensor, "b n"], Float[Tensor, "b c n"]]:
    """Project the map and pool it with its own projection.

    Args:
        x: the map X.
        weight: the projection's weight Wp.
        bias: the projection's bias bp.
        lean: backpropagate by hand, which adds the gradient into the residual's own. For training: the forward is
            then no longer made of plain operations, and cannot be differentiated twice.

    Returns:
        X itself, to carry on as the residual: through it the gradient of the residual reaches this step.
        Pc: the centred projection, `P − p̄`.
        p̄: the projection's mean over positions, float32 in mixed precision.
        G: `X Pᵀ / l`, float32 in mixed precision.
    """
    if lean:
        x, centred, mean_p, pooled, _ = _LeanPool.apply(x, weight, bias, product_dtype(x))
    else:
        centred, mean_p, pooled, _ = _pool(x, weight, bias, product_dtype(x))
    return x, centred, mean_p, pooled


def _pool(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stats = stats_dtype(x)
    with as_typed(x):
        mean_x = x.mean(-1, dtype=stats)  # (b, c)
        slope = mean_x @ weight.to(stats).mT  # (b, n)
        mean_p = slope + bias.to(stats)  # (b, n)
        x, weight = cast(x, dtype), cast(weight, dtype)
        centred = torch.baddbmm(-slope[..., None].to(x.dtype), weight.expand(x.shape[0], -1, -1), x)  # (b, n, l)
        pooled = scaled_product(x, centred.mT, 1 / x.shape[-1])  # (b, c, n)
        pooled = pooled.to(stats).addcmul_(mean_x[..., None], mean_p[:, None])
    return centred, mean_p, pooled, mean_x


class _Once(Function):
    """Hands on gradients, the first `count` of its tensors; the rest is what they were made of, there to be reached."""

    @staticmethod
    def forward(count: int, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.view_as(part) for part in parts[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            "a GloRe unit in training mode can be differentiated once only: for second derivatives put it into "
            "evaluation mode, or register a hook on its projection, state or extend, which sends it through the direct "
            "order"
        )


def once(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Make a backward raise when it is itself differentiated.

    torch's own `once_differentiable` cuts the graph instead, so that `torch.autograd.grad` and `torch.func` get second
    derivatives without this share, and no error. The saved tensors are handed to it, before the gradients.
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint gives them no second time
        with torch.no_grad():
            results = backward(ctx, saved, *grads)
        if not torch.is_grad_enabled():
            return results
        made = [result for result in results if result is not None]
        handed = iter(_Once.apply(len(made), *made, *grads, *saved))
        return tuple(None if result is None else next(handed) for result in results)

    return guarded


class _LeanPool(Function):
    """`_pool` with a backward that writes dX once and forms nothing of (c, l) besides."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return x.view_as(x), *_pool(x, weight, bias, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.dtype = inputs
        _, centred, mean_p, _, mean_x = output
        ctx.mark_non_differentiable(mean_x)
        ctx.save_for_backward(x, weight, centred, mean_p, mean_x)

    @staticmethod
    @once
    def backward(ctx: Any, saved: tuple[Tensor, ...], *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        d_residual, d_centred, d_mean_p, d_pooled, _ = grads
        x, weight, centred, mean_p, mean_x = saved
        scale = 1 / x.shape[-1]
        with as_typed(x):
            xl, dg = cast(x, ctx.dtype), d_pooled.to(centred.dtype)
            dp = torch.baddbmm(d_centred, dg.mT, xl, alpha=scale)  # (b, n, l)
            d_bias = d_mean_p + (mean_x[:, None] @ d_pooled)[:, 0]  # (b, n)
            # the centring's own gradient is a constant over positions; what came by G cancels in it
            d_slope = d_mean_p - d_centred.sum(-1, dtype=d_mean_p.dtype)  # (b, n)
            d_weight = sum_samples(torch.bmm(dp, xl.mT)).to(d_slope.dtype).addmm_(d_slope.mT, mean_x)
            dx = None
            if ctx.needs_input_grad[0]:
                constant = torch.bmm(d_pooled, mean_p[..., None])[..., 0]
                constant = constant.addmm_(d_slope, weight.to(constant.dtype)).mul_(scale)  # (b, c)
                dx = d_residual + constant[..., None].to(x.dtype)
                add_product_(dx, cast(weight, ctx.dtype).mT.expand(x.shape[0], -1, -1), dp)
                add_product_(dx, dg, centred, alpha=scale)
        return dx, d_weight, d_bias.sum(0), None


def broadcast(
    centred: Float[Tensor, "b n l"],
    mean_p: Float[Tensor, "b n"],
    nodes: Float[Tensor, "b s n"],
    weight: Float[Tensor, "c s"],
    bias: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, "b c l"]:
    """`We Z P`, and a bias, for a norm that has to be called."""
    m = times(weight, nodes)  # (b, c, n)
    constant = torch.bmm(m, mean_p[..., None].to(m.dtype))  # (b, c, 1)
    constant = constant if bias is None else constant + bias[:, None].to(m.dtype)
    return torch.baddbmm(constant, m, centred)


def conv_of_product(
    conv: nn.Module, nodes: Float[Tensor, "b s n"], p: Float[Tensor, "b n l"], space: torch.Size
) -> Float[Tensor, "b c *space"]:
    """A convolution of kernel 1 over `Z P`: as `(W Z) P` where that is cheaper and the convolution is plain."""
    if (
        plain(conv)
        and isinstance(conv, CONVS)
        and (symbolic(p) or folds(p.shape[2], conv.out_channels, nodes.shape[1], nodes.shape[2]))
    ):
        folded = times(conv.weight.flatten(1), nodes)  # (b, c, n)
        y = torch.bmm(folded, p) if conv.bias is None else torch.baddbmm(conv.bias[:, None], folded, p)
        return y.unflatten(2, space)
    return conv(torch.bmm(nodes, p).unflatten(2, space))
