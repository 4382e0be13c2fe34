import math

import numpy as np
import pytest

from saaae.metrics.rate import CodeModel, quantise


def entropy(symbols, mean, std):
    """Bits for symbols (N, D) under Gaussians integrated over unit bins, in float64."""
    from scipy.stats import norm

    upper, lower = (norm.cdf((symbols + shift - mean) / std) for shift in (0.5, -0.5))
    return -np.log2(upper - lower).sum()


@pytest.mark.parametrize("classes", [1, 10])
def test_decoding_is_lossless_and_the_rate_is_the_entropy(classes):
    rng = np.random.default_rng(0)
    codes = rng.normal([0.0, 2.0, -1.0], [1.0, 0.3, 5.0], (2000, 3))
    fitted = quantise(rng.normal([0.0, 2.0, -1.0], [1.0, 0.3, 5.0], (2000, 3)), 0.25)
    symbols, labels = quantise(codes, 0.25), rng.integers(0, classes, 2000).astype(np.int32)
    model = CodeModel.fit(fitted, classes)
    content = model.encode(symbols, labels)
    again, labels_again = model.decode(content, 2000)
    np.testing.assert_array_equal(again, symbols)
    np.testing.assert_array_equal(labels_again, labels if classes > 1 else 0)
    bits = entropy(symbols, model.mean, model.std) + 2000 * math.log2(classes)
    assert 8 * len(content) == pytest.approx(bits, rel=1e-3)


def test_outliers_and_constant_dimensions_are_encoded():
    fitted = np.zeros((10, 2), np.int32)
    model = CodeModel.fit(fitted, 1)
    symbols = np.array([[0, 500], [0, 0], [-3, 64]], np.int32)
    again = model.decode(model.encode(symbols, np.zeros(3, np.int32)), 3)[0]
    np.testing.assert_array_equal(again, [[0, 64], [0, 0], [-3, 64]])  # clipped to the fitted range
    still = np.zeros((1000, 2), np.int32)
    assert len(model.encode(still, np.zeros(1000, np.int32))) <= 8


def test_quantisation_rounds_to_the_nearest_step():
    assert quantise(np.array([[0.24, 0.26, -0.76]]), 0.5).tolist() == [[0, 1, -2]]
