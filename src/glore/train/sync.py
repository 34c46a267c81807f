"""Batch norms whose statistics are of all processes, for networks whose norms hold their activations too."""

from __future__ import annotations

from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

TORCHS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TIMMS = "timm.layers.norm_act.BatchNormAct2d"


class SyncBatchNorms(TorchSyncBatchNorm):
    """What `--trainer.sync_batchnorm true` does: norms over all processes in training, and those of before after it.

    torch's conversion, which Lightning calls, would drop the activations that timm has in its norms, and Lightning
    would not bring them back.

    Raises:
        ValueError: there is a norm of another kind, of which SyncBatchNorm might drop a part.
    """

    def __init__(self) -> None:
        self.before: dict[str, nn.Module] = {}  # a run may end before it gets to apply

    def apply(self, model: nn.Module) -> nn.Module:
        self.before = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
        others = {path: norm for path, norm in self.before.items() if type(norm) not in TORCHS}
        if not others:
            return super().apply(model)
        for path, norm in others.items():
            if f"{type(norm).__module__}.{type(norm).__qualname__}" != TIMMS:
                raise ValueError(
                    f"trainer.sync_batchnorm=True: {path} is a {type(norm).__name__}, which cannot be had for several "
                    "processes without losing what it does besides: leave it out"
                )
        from timm.layers.norm_act import convert_sync_batchnorm

        synced: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synced

    def revert(self, model: nn.Module) -> nn.Module:
        for path, norm in self.before.items():
            synced = model.get_submodule(path)
            for name, buffer in synced.named_buffers(recurse=False):  # which may be on another device by now
                setattr(norm, name, buffer)
            norm.training = synced.training
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, norm)
        return model
