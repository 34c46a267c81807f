"""The order of the data and the items' random states follow from the seed, the epoch and the index alone."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, default_collate

pytest.importorskip("pytorch_lightning")
from glore.data.broken import BrokenSampleError
from glore.train.data import Draw, Order, Seeded


def orders(size, batch_size, processes, *, shuffle, seed=0, epoch=0):
    made = [
        Order(size, batch_size, shuffle=shuffle, seed=seed, rank=rank, processes=processes) for rank in range(processes)
    ]
    for order in made:
        order.set_epoch(epoch)
    return made


@given(
    size=st.integers(1, 60),
    per_process=st.integers(1, 5),
    processes=st.integers(1, 4),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_processes_share_each_global_batch(size, per_process, processes, seed, epoch):
    batch = per_process * processes
    (alone,) = (list(order) for order in orders(size, batch, 1, shuffle=True, seed=seed, epoch=epoch))
    shared = [list(order) for order in orders(size, batch, processes, shuffle=True, seed=seed, epoch=epoch)]
    assert len(alone) == size // batch * batch
    assert len({draw.item for draw in alone}) == len(alone)
    for start in range(0, len(alone), batch):
        part = start // processes
        together = [draw for own in shared for draw in own[part : part + per_process]]
        assert sorted(together) == sorted(alone[start : start + batch])
    for order, own in zip(orders(size, batch, processes, shuffle=True), shared, strict=True):
        assert len(order) == len(own)


@given(size=st.integers(1, 60), processes=st.integers(1, 4))
def test_in_evaluation_every_item_comes_once(size, processes):
    every = [draw for order in orders(size, 8, processes, shuffle=False) for draw in order]
    assert sorted(draw.item for draw in every) == list(range(size))
    assert [len(order) for order in orders(size, 8, processes, shuffle=False)] == [
        len(range(rank, size, processes)) for rank in range(processes)
    ]


def test_epochs_and_seeds_differ():
    draws = {
        tuple(next(iter(orders(50, 10, 1, shuffle=True, seed=seed, epoch=epoch))))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(draws) == 4


class Noisy(torch.utils.data.Dataset):
    classes = ("a", "b")

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.rand(2), random.random()


def test_an_item_depends_on_its_draw_alone_and_leaves_the_random_states():
    items = Seeded(Noisy())
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    one, again, other = items[Draw(1, 7)], items[Draw(1, 7)], items[Draw(1, 8)]
    assert (torch.rand(1), random.random()) == expected
    assert torch.equal(one[0], again[0])
    assert one[1:] == again[1:] == (one[1], 1)
    assert not torch.equal(one[0], other[0])
    assert one[1] != other[1]


class Half(Dataset):
    """Pictures of one size, of which every second one cannot be read."""

    classes = "ab"

    def __len__(self):
        return 4

    def __getitem__(self, item):
        if item % 2:
            raise BrokenSampleError(str(item))
        return np.full((3, 5), item), np.full((5,), item)

    def blank(self):
        return np.zeros((1, 1))


def test_what_stands_for_a_broken_sample_fits_its_batch():
    items = Seeded(Half(), "blank").__getitems__([Draw(item, 0) for item in (1, 2, 3)])
    inputs, targets, indices = default_collate(items)
    assert indices.tolist() == [-2, 2, -4]
    assert (inputs.shape, targets.shape) == ((3, 3, 5), (3, 5))
    assert Seeded(Half(), "blank")[Draw(1, 0)][0].shape == (1, 1)


def test_more_processes_than_samples_are_told_what_to_do():
    from glore.train.data import Data

    data = Data(lambda split: Half())
    data.trainer = SimpleNamespace(world_size=5, global_rank=0)
    with pytest.raises(ValueError, match=r"test has 4 samples for 5 processes: give --trainer\.devices 4"):
        data.test_dataloader()


def test_an_empty_split_is_told():
    from glore.train.data import Data

    data = Data(lambda split: [])
    data.trainer = SimpleNamespace(world_size=1, global_rank=0)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=f"^{split} has no samples"):
            getattr(data, f"{split}_dataloader")()


def test_a_split_without_names_of_classes_is_told():
    from glore.train.data import Data

    with pytest.raises(ValueError, match="list must have the names of its classes, in order, as classes"):
        Data(lambda split: [(torch.zeros(3), 0)]).split("train")


@pytest.mark.parametrize(
    ("options", "message"), [({"batch_size": 0}, "data.batch_size=0"), ({"workers": -1}, "data.workers=-1")]
)
def test_bad_sizes_are_named(options, message):
    from glore.train.data import Data

    with pytest.raises(ValueError, match=message):
        Data(lambda split: Noisy(), **options)
