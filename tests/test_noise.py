import torch

from saaae.noise import IndexedNoise, TrainingNoise

LIKE = torch.empty(64, 1, 32, 32)
INDICES = torch.arange(64)


def test_indexed_normal_values_have_the_moments_of_a_standard_normal():
    eps = IndexedNoise(0, INDICES).normal(LIKE).double()
    assert abs(eps.mean()) < 4 / eps.numel() ** 0.5
    assert abs(eps.var() - 1) < 0.02
    assert abs((eps**4).mean() - 3) < 0.1


def test_indexed_uniform_values_cover_the_half_open_interval_evenly():
    u = IndexedNoise(3, INDICES).uniform(LIKE)
    assert u.min() > 0
    assert u.max() <= 1
    counts = torch.histc(u, 16, 0, 1) / u.numel()
    assert (counts - 1 / 16).abs().max() < 0.003


def test_indexed_noise_of_an_image_does_not_depend_on_its_batch():
    whole = IndexedNoise(7, INDICES, stream=1).normal(LIKE)
    order = torch.randperm(64)
    permuted = IndexedNoise(7, INDICES[order], stream=1).normal(LIKE)
    single = IndexedNoise(7, INDICES[5:6], stream=1).normal(LIKE[:1])
    assert torch.equal(permuted, whole[order])
    assert torch.equal(single, whole[5:6])


def test_seeds_streams_draws_and_images_are_uncorrelated():
    noise = IndexedNoise(0, INDICES)
    first, second = noise.normal(LIKE), noise.normal(LIKE)
    others = [
        second,
        IndexedNoise(1, INDICES).normal(LIKE),
        IndexedNoise(0, INDICES, stream=1).normal(LIKE),
        first.roll(1, 0),
        first.roll(1, 3),
    ]
    for other in others:
        assert abs((first * other).mean()) < 0.02


def test_training_noise_follows_the_global_generator():
    torch.manual_seed(0)
    first = TrainingNoise().normal(LIKE)
    torch.manual_seed(0)
    assert torch.equal(first, TrainingNoise().normal(LIKE))
    assert TrainingNoise().uniform(LIKE).min() > 0
