import torch

from saaae.rng import GlobalRandom, IndexedRandom

LIKE = torch.empty(64, 1, 32, 32)
INDICES = torch.arange(64)


def test_indexed_normal_values_have_the_moments_of_a_standard_normal():
    eps = IndexedRandom(0, INDICES).normal(LIKE).double()
    assert abs(eps.mean()) < 4 / eps.numel() ** 0.5
    assert abs(eps.var() - 1) < 0.02
    assert abs((eps**4).mean() - 3) < 0.1


def test_indexed_uniform_values_cover_the_half_open_interval_evenly():
    u = IndexedRandom(3, INDICES).uniform(LIKE)
    assert u.min() > 0
    assert u.max() <= 1
    counts = torch.histc(u, 16, 0, 1) / u.numel()
    assert (counts - 1 / 16).abs().max() < 0.003


def test_indexed_noise_of_an_image_does_not_depend_on_its_batch():
    whole = IndexedRandom(7, INDICES, stream=1).normal(LIKE)
    order = torch.randperm(64)
    permuted = IndexedRandom(7, INDICES[order], stream=1).normal(LIKE)
    single = IndexedRandom(7, INDICES[5:6], stream=1).normal(LIKE[:1])
    assert torch.equal(permuted, whole[order])
    assert torch.equal(single, whole[5:6])


def test_seeds_streams_draws_and_images_are_uncorrelated():
    rng = IndexedRandom(0, INDICES)
    first, second = rng.normal(LIKE), rng.normal(LIKE)
    others = [
        second,
        IndexedRandom(1, INDICES).normal(LIKE),
        IndexedRandom(0, INDICES, stream=1).normal(LIKE),
        first.roll(1, 0),
        first.roll(1, 3),
    ]
    for other in others:
        assert abs((first * other).mean()) < 0.02


def test_training_noise_follows_the_global_generator():
    torch.manual_seed(0)
    first = GlobalRandom().normal(LIKE)
    torch.manual_seed(0)
    assert torch.equal(first, GlobalRandom().normal(LIKE))
    assert GlobalRandom().uniform(LIKE).min() > 0
