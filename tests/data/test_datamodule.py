import lightning as L
import pytest
import torch

from saaae.data.corruption import GaussianNoise
from saaae.data.datamodule import ImageDataModule
from saaae.data.images import Images, Masks, to_unit_range
from saaae.data.sampler import EpochBatches
from tests.conftest import SERVING


def epoch(batches, number, start=0):
    batches.epoch, batches.start = number, start
    return [b.tolist() for b in batches]


def test_an_epoch_contains_every_image_once_in_its_own_order():
    batches = EpochBatches(10, 4, seed=0)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert sorted(i for b in first for i in b) == sorted(i for b in second for i in b) == list(range(10))
    assert first != second
    assert [len(b) for b in first] == [4, 4, 2]
    assert len(batches) == 3


def test_the_order_depends_only_on_seed_and_epoch_and_can_start_anywhere():
    torch.manual_seed(1)
    whole = epoch(EpochBatches(10, 4, seed=5), 3)
    torch.manual_seed(2)
    assert epoch(EpochBatches(10, 4, seed=5), 3, start=1) == whole[1:]
    assert epoch(EpochBatches(10, 4, seed=6), 3) != whole


def test_the_resumed_position_applies_only_to_the_first_epoch():
    batches = EpochBatches(10, 4, seed=0)
    batches.epoch, batches.start = 2, 1
    batches.set_epoch(2)
    assert len(list(batches)) == 2
    batches.set_epoch(3)
    assert len(list(batches)) == 3


def test_without_a_seed_images_come_in_order():
    assert epoch(EpochBatches(5, 2, seed=None), 7) == [[0, 1], [2, 3], [4]]


def test_bytes_are_scaled_to_the_unit_range():
    x = to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.tensor([0.0, 0.2, 1.0]))


PIXELS = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 4, 4).contiguous()


def images(rows=None):
    masks = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in (0, 255, 1)])
    return Images(
        PIXELS,
        label=torch.arange(10) * 10,
        reference=PIXELS + 100,
        masks=Masks(masks, torch.tensor([0] * 8 + [1, 2])),
        fabric=torch.arange(10) + 50,
        rows=rows,
    )


def test_splits_are_rows_of_shared_storage():
    part = images(torch.tensor([9, 3, 8]))
    assert part.size == 3
    raw = part.take(torch.tensor([2, 0]))
    assert raw.indices.tolist() == [2, 0]
    assert raw.pixels[:, 0, 0, 0].tolist() == [8, 9]
    assert raw.reference[:, 0, 0, 0].tolist() == [108, 109]
    assert raw.label.tolist() == [80, 90]
    assert raw.fabric.tolist() == [58, 59]
    assert raw.mask[:, 0, 0, 0].tolist() == [255, 1]
    assert raw.defect is None


def test_a_split_on_a_device_contains_only_its_own_images():
    part = images(torch.tensor([9, 3, 8]))
    moved = part.on(torch.device("cpu"))
    assert len(moved.pixels) == len(moved.masks.masks) == 3
    for a, b in zip(part.take(torch.tensor([2, 1])), moved.take(torch.tensor([2, 1])), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


class Ten(ImageDataModule):
    def load(self):
        return {"train": images(), "val": images(torch.arange(4)), "test": images(torch.arange(4, 10))}


class Watch(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.seen = {"train": [], "val": []}
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        self.seen["train"].append(batch)
        return self.weight * batch.input.mean()

    def validation_step(self, batch, _):
        self.seen["val"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_resident_images_give_the_same_batches_as_transferred_ones(tmp_path, workers):
    seen = []
    for resident in (False, True):
        torch.manual_seed(0)
        serving = SERVING | {"resident": resident, "num_workers": workers, "corruption": GaussianNoise(std=0.1)}
        model = Watch()
        L.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
        ).fit(model, Ten(image_size=4, channels=1, **serving))  # fmt: skip
        seen.append([batch for split in ("train", "val") for batch in model.seen[split]])
    assert len(seen[0]) == len(seen[1]) == 2 * 3 + 2
    for a, b in zip(*seen, strict=True):
        for field in ("input", "target", "indices", "label", "mask", "fabric"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field


def test_several_processes_share_every_step_and_test_every_image_once():
    def batches(size, seed):
        ranks = [list(EpochBatches(size, 4, seed, rank, 3)) for rank in range(3)]
        lengths = [len(EpochBatches(size, 4, seed, rank, 3)) for rank in range(3)]
        assert lengths == [len(of_rank) for of_rank in ranks]
        return ranks

    for size in (24, 25, 26, 36, 11):
        shuffled = batches(size, 0)
        assert len({tuple(map(len, of_rank)) for of_rank in shuffled}) == 1  # the same sizes at the same steps
        seen = torch.cat([batch for of_rank in shuffled for batch in of_rank])
        assert len(seen.unique()) == len(seen) == size - size % 3
        in_order = torch.cat([batch for of_rank in batches(size, None) for batch in of_rank])
        assert in_order.sort().values.tolist() == list(range(size))
    one = torch.cat(list(EpochBatches(24, 12, 0)))
    three = torch.stack([torch.cat(of_rank) for of_rank in batches(24, 0)], 1).flatten()
    assert torch.equal(one, three)  # equal to one process with three times the batch size
