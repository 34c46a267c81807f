"""Batch norms over all processes: nothing of a network is lost on the way there and back."""

import pytest
import torch
from torch import nn

from glore.train.recipe import Recipe
from glore.train.sync import SyncBatchNorms
from glore.train.tree import put

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18", "densenet121", "mobilenetv2_050"])
def test_a_converted_network_computes_the_same_and_comes_back(name):
    torch.manual_seed(0)
    net = nn.ModuleDict({"net": timm.create_model(name, num_classes=3)}).eval()
    picture = torch.randn(2, 3, 64, 64)
    before, modules = net["net"](picture), dict(net.named_modules())
    sync = SyncBatchNorms()
    synced = sync.apply(net)
    norms = [module for module in synced.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(synced["net"](picture), before)
    synced.train()["net"](picture)  # which moves the statistics
    after = synced.eval()["net"](picture)
    assert not torch.allclose(after, before)
    back = sync.revert(synced)
    assert dict(back.named_modules()) == modules
    torch.testing.assert_close(back["net"](picture), after)


def test_a_norm_that_would_lose_a_part_is_refused():
    class Loud(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"^trainer.sync_batchnorm=True: 1 is a Loud, which cannot be had for several"):
        SyncBatchNorms().apply(nn.Sequential(nn.Conv2d(3, 4, 1), Loud(4)))


def test_a_run_that_ends_before_it_begins_has_nothing_to_bring_back():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert SyncBatchNorms().revert(net) is net


@pytest.mark.parametrize("wanted", [True, False])
def test_a_recipe_takes_it_where_it_is_asked_for(tree, tmp_path, wanted):
    put(tree, "trainer.sync_batchnorm", wanted)
    trainer = Recipe(tree).build(tmp_path)[2]
    assert isinstance(trainer._accelerator_connector._layer_sync, SyncBatchNorms) is wanted
