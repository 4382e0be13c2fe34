import torch

from saaae.data.datamodule import EpochBatches, to_unit_range


def epoch(batches, number, start=0):
    batches.epoch, batches.start = number, start
    return [b.tolist() for b in batches]


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own():
    batches = EpochBatches(10, 4, seed=0)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert sorted(i for b in first for i in b) == sorted(i for b in second for i in b) == list(range(10))
    assert first != second
    assert [len(b) for b in first] == [4, 4, 2]
    assert len(batches) == 3


def test_the_order_is_a_function_of_seed_and_epoch_and_can_start_anywhere():
    torch.manual_seed(1)
    whole = epoch(EpochBatches(10, 4, seed=5), 3)
    torch.manual_seed(2)
    assert epoch(EpochBatches(10, 4, seed=5), 3, start=1) == whole[1:]
    assert epoch(EpochBatches(10, 4, seed=6), 3) != whole


def test_a_new_epoch_forgets_the_start_of_the_resumed_one():
    batches = EpochBatches(10, 4, seed=0)
    batches.epoch, batches.start = 2, 1
    batches.set_epoch(2)
    assert len(list(batches)) == 2
    batches.set_epoch(3)
    assert len(list(batches)) == 3


def test_without_a_seed_images_come_in_order():
    assert epoch(EpochBatches(5, 2, seed=None), 7) == [[0, 1], [2, 3], [4]]


def test_bytes_become_the_unit_range():
    x = to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.tensor([0.0, 0.2, 1.0]))
