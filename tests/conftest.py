import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["direct", "folded"])
def order(request, monkeypatch):
    """Run a test in both orders, whatever the sizes would choose."""
    monkeypatch.setattr("glore.units.products.folds", lambda *sizes, **mode: request.param == "folded")
    return request.param
