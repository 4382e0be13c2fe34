import gzip
import struct

import pytest
import torch

from saaae.data.mnist import FILES, MNISTData, read_idx
from saaae.errors import UserError
from tests.conftest import SERVING, real_data


def idx(array):
    shape = array.shape
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}i", *shape) + array.numpy().tobytes()


def write_archives(folder, packed=True):
    folder.mkdir(parents=True)
    g = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("test", 6)):
        images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=g)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        for name, array in zip(FILES[part], (images, labels), strict=True):
            data = idx(array)
            (folder / (name + (".gz" if packed else ""))).write_bytes(gzip.compress(data) if packed else data)


def make(root, num_val=5, binarize=None, **serving):
    serving = {**SERVING, **serving}
    return MNISTData(
        root=str(root), num_val=num_val, num_classes=10, image_size=28, channels=1, binarize=binarize, **serving
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["MNIST/raw", "raw", "."])
def test_archives_are_read_in_place_and_nothing_is_written(tmp_path, packed, layout):
    write_archives(tmp_path / "mnist" / layout if layout != "." else tmp_path / "mnist", packed)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    data = make(tmp_path / "mnist")
    data.prepare_data()
    data.setup()
    assert {split: images.size for split, images in data.splits.items()} == {"train": 15, "val": 5, "test": 6}
    assert data.batch("test", torch.tensor([3])).label.tolist() == [3]
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_damaged_archive_is_reported(tmp_path):
    write_archives(tmp_path / "raw")
    path = tmp_path / "raw" / f"{FILES['test'][0]}.gz"
    whole = path.read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    for content in (b"", whole[:100], b"plain text", flipped):
        path.write_bytes(content)
        with pytest.raises(UserError, match="t10k-images.*not a readable IDX file"):
            make(tmp_path).setup()


def test_different_numbers_of_labels_and_images_are_rejected(tmp_path):
    write_archives(tmp_path / "raw")
    (tmp_path / "raw" / f"{FILES['train'][1]}.gz").write_bytes(gzip.compress(idx(torch.zeros(8, dtype=torch.uint8))))
    with pytest.raises(UserError, match=r"holds \(20, 28, 28\) pixels.*\(8,\) labels; expected"):
        make(tmp_path).setup()


def test_the_split_hash_includes_labels(tmp_path):
    hashes = set()
    for shift in (0, 1):
        write_archives(tmp_path / str(shift) / "raw")
        labels = (torch.arange(20, dtype=torch.uint8) + shift) % 10
        (tmp_path / str(shift) / "raw" / f"{FILES['train'][1]}.gz").write_bytes(gzip.compress(idx(labels)))
        data = make(tmp_path / str(shift))
        data.setup()
        hashes.add(data.split_hash())
    assert len(hashes) == 2


def test_too_many_validation_images_are_refused(tmp_path):
    write_archives(tmp_path / "raw")
    with pytest.raises(UserError, match=r"data.num_val=20.*20 images only"):
        make(tmp_path, num_val=20).setup()


def test_a_failed_download_is_reported_in_one_sentence_with_alternatives(tmp_path, monkeypatch):
    import torchvision

    def no_network(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a, b")

    monkeypatch.setattr(torchvision.datasets, "MNIST", no_network)
    with pytest.raises(UserError, match="could not be downloaded .*SAAAE_DATA_DIR.*data=speckle") as caught:
        make(tmp_path).prepare_data()
    assert "\n" not in str(caught.value)


def test_the_real_digits_have_their_published_statistics():
    data = make(real_data("mnist"), num_val=5000)
    data.setup()
    pixels, labels = data.splits["train"].pixels.float() / 255, data.splits["train"].label
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(float(pixels.mean()) - 0.1307) < 1e-4
    assert data.splits["test"].size == 10_000


def test_read_idx_returns_the_array(tmp_path):
    array = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    (tmp_path / "x").write_bytes(idx(array))
    assert torch.equal(read_idx(tmp_path / "x"), array)


def binary(root, binarize, seed=0):
    data = make(root, binarize=binarize, seed=seed)
    data.setup()
    return data


def test_static_digits_are_drawn_once_whatever_the_seed_and_dynamic_ones_by_seed_and_image(tmp_path):
    write_archives(tmp_path / "raw")
    gray, everything = binary(tmp_path, None), torch.arange(6)
    brightness = gray.batch("test", everything).input

    def drawn(binarize, seed=0, split="test", images=everything):
        batch = binary(tmp_path, binarize, seed).batch(split, images)
        assert torch.equal(batch.input, batch.target)
        return batch.input

    for binarize in ("static", "dynamic"):
        pixels = drawn(binarize)
        assert pixels.unique().tolist() == [0.0, 1.0]
        assert (pixels[brightness == 0] == 0).all()
        assert (pixels[brightness == 1] == 1).all()
        deviation = (pixels - brightness).sum() / (brightness * (1 - brightness)).sum().sqrt()
        assert abs(deviation) < 4  # standard deviations of the sum of the draws
        torch.testing.assert_close(drawn(binarize, images=torch.tensor([4, 1])), pixels[[4, 1]])
    assert torch.equal(drawn("static"), drawn("static", seed=1))
    assert not torch.equal(drawn("dynamic"), drawn("dynamic", seed=1))
    assert len({binary(tmp_path, binarize).split_hash() for binarize in (None, "static", "dynamic")}) == 3


def test_dynamic_digits_are_drawn_anew_in_training(tmp_path):
    write_archives(tmp_path / "raw")
    data = binary(tmp_path, "dynamic")
    raw = data.splits["train"].take(torch.arange(4))
    first, second = (data.present(raw, data.rng(raw.indices, "train")).input for _ in range(2))
    assert not torch.equal(first, second)
