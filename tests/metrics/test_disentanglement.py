import math

import numpy as np
import pytest

from saaae.metrics.disentanglement import (
    dci,
    disentanglement_scores,
    mutual_information,
    mutual_information_gap,
    separated_predictability,
)

COUNT, VALUES = 4000, 8


@pytest.fixture
def factors():
    """Three independent factors of eight values."""
    return np.random.default_rng(0).integers(0, VALUES, (COUNT, 3))


def means(latents, factors):
    return {name: float(values.mean()) for name, values in disentanglement_scores(latents, factors).items()}


def test_latents_that_are_the_factors_have_full_scores(factors):
    for latents in (factors, -3.0 * factors[:, [2, 0, 1]] + 5):
        for name, value in means(latents.astype(float), factors).items():
            assert value == pytest.approx(1.0, abs=0.01), name


def test_rotated_factors_are_informative_and_not_disentangled(factors):
    rotation = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    found = means(factors @ rotation.T, factors)
    assert found["dci_informativeness"] == pytest.approx(1.0, abs=0.01)
    assert found["mig"] < 0.3
    assert found["sap"] < 0.5
    shares = rotation**2  # the importances: each latent has a unit weight over all factors
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum() / 3 / math.log(3)
    assert found["dci_disentanglement"] == pytest.approx(1 - entropy, abs=0.02)


def test_constant_latents_tell_nothing(factors):
    constant = means(np.full((COUNT, 2), 3.0), factors)
    assert constant == pytest.approx({name: 0.0 for name in constant}, abs=1e-3)
    latents = np.column_stack([factors, np.ones(COUNT)])
    assert mutual_information(latents, factors)[3] == pytest.approx(0)
    assert means(latents, factors) == pytest.approx(means(latents[:, :3], factors))


def test_a_factor_in_two_latents_has_no_gap_and_half_the_completeness(factors):
    one = factors[:, :1]
    latents = np.column_stack([one, one]).astype(float)
    assert mutual_information_gap(latents, one) == pytest.approx(0)
    assert separated_predictability(latents, one) == pytest.approx(0)
    assert dci(latents, one).completeness == pytest.approx(0, abs=1e-6)
    latents = np.column_stack([one, factors]).astype(float)
    found = dci(latents, factors)
    assert found.completeness == pytest.approx([1 - math.log(2) / math.log(4), 1, 1], abs=0.01)
    assert found.disentanglement == pytest.approx([1, 1, 1, 1], abs=0.01)
    assert mutual_information_gap(latents, factors) == pytest.approx([0, 1, 1], abs=0.02)


def test_the_mutual_information_is_that_of_the_counts():
    latents = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert mutual_information(latents, np.array([[0], [0], [1], [1]])) == pytest.approx(math.log(2))
    assert mutual_information(latents, np.array([[0], [1], [0], [1]])) == pytest.approx(0)
    assert mutual_information(latents, np.array([[0], [0], [1], [2]])) == pytest.approx(math.log(2))


def test_importances_are_half_of_what_permuting_a_latent_costs(factors):
    generator = np.random.default_rng(1)
    mixing = np.array([[1.0, 0.4, 0.0], [0.0, 1.0, 0.2], [0.3, 0.0, 1.0]])
    latents = factors @ mixing + generator.normal(size=factors.shape)
    z, target = ((each - each.mean(0)) / each.std(0) for each in (latents, factors))
    weights = np.linalg.lstsq(z, target, rcond=None)[0]
    for d, importance in enumerate(dci(latents, factors).importance):
        permuted = z.copy()
        permuted[:, d] = generator.permutation(z[:, d])
        cost = ((permuted @ weights - target) ** 2).mean(0) - ((z @ weights - target) ** 2).mean(0)
        assert importance == pytest.approx(cost / 2, abs=0.03)


def test_informativeness_is_the_share_of_the_variance_that_noise_leaves(factors):
    generator = np.random.default_rng(2)
    noise = generator.normal(size=factors.shape) * factors.std(0)
    assert dci(factors + noise, factors).informativeness == pytest.approx([0.5, 0.5, 0.5], abs=0.05)
    assert dci(noise, factors).informativeness == pytest.approx([0, 0, 0], abs=0.01)
