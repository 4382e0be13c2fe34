"""Disentanglement of latents by known factors: MIG, SAP and DCI. Latents are (N, D), factors (N, K) integers.

Every factor must have two values at least. A constant latent tells nothing of any factor.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
BINS = 20
"""Equal bins between the least and the greatest value of a latent, of which the mutual information is computed."""
RIDGE = 1e-3
"""Penalty on the squared weights of the linear predictors, of the mean squared error of standardised factors."""


class DCI(NamedTuple):
    """Scores of Eastwood and Williams (2018), by linear predictors of the standardised factors from all latents.

    Attributes:
        importance: Squared weight of each standardised latent for each factor (D, K): half of what the squared error
            of that linear predictor grows by when the latent is permuted.
        disentanglement: Whether each latent tells of one factor (D,): one minus the entropy of its importances.
        weight: Share of each latent in all importances (D,): its weight in the mean disentanglement.
        completeness: Whether one latent tells of each factor (K,).
        informativeness: Variance of each factor that is predicted (K,), of the second half of the images by predictors
            of the first; at most 1, and negative where the mean would predict it better.
    """

    importance: Array
    disentanglement: Array
    weight: Array
    completeness: Array
    informativeness: Array


def _entropy(counts: Array) -> float:
    """Entropy in nats of the distribution with these counts."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def mutual_information(latents: Array, factors: NDArray[np.int64]) -> Array:
    """Mutual information (D, K) in nats of each binned latent and each factor.

    Of independent ones it is about (BINS - 1) (values - 1) / 2 N above 0.
    """
    low, width = latents.min(0), np.ptp(latents, axis=0)
    codes = np.minimum(BINS * (latents - low) / np.where(width > 0, width, 1.0), BINS - 1).astype(np.int64)
    found = np.empty((latents.shape[1], factors.shape[1]))
    for d, code in enumerate(codes.T):
        for k, factor in enumerate(factors.T):
            joint = np.bincount(code * (factor.max() + 1) + factor, minlength=BINS * (factor.max() + 1))
            table = joint.reshape(BINS, -1).astype(np.float64)
            found[d, k] = _entropy(table.sum(1)) + _entropy(table.sum(0)) - _entropy(table)
    return found


def _gap(scores: Array) -> Array:
    """How far the highest score of each column (D, K) is above the second."""
    ordered = np.sort(np.vstack([scores, np.zeros_like(scores[:1])]), axis=0)
    return ordered[-1] - ordered[-2]


def mutual_information_gap(latents: Array, factors: NDArray[np.int64]) -> Array:
    """MIG of each factor (K,), 0 to 1 (Chen et al. 2018, eq. 6), of binned latents as by Locatello et al. (2019)."""
    entropies = np.array([_entropy(np.bincount(factor).astype(np.float64)) for factor in factors.T])
    return _gap(mutual_information(latents, factors)) / entropies


def _standardised(values: Array) -> Array:
    spread = values.std(0)
    return np.where(spread > 0, values - values.mean(0), 0.0) / np.where(spread > 0, spread, 1.0)


def separated_predictability(latents: Array, factors: NDArray[np.int64]) -> Array:
    """SAP of each factor (K,), 0 to 1: the gap in R^2 of linear predictors from one latent (Kumar et al. 2018)."""
    correlation = _standardised(latents).T @ _standardised(factors.astype(np.float64)) / len(latents)
    return _gap(correlation**2)


def _concentration(importance: Array) -> Array:
    """One minus the entropy of each row, in units of the greatest possible; 0 of a row of zeros."""
    total = importance.sum(1, keepdims=True)
    share = importance / np.where(total > 0, total, 1.0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1) / math.log(max(2, importance.shape[1]))
    return np.where(total[:, 0] > 0, 1.0 - entropy, 0.0)


def dci(latents: Array, factors: NDArray[np.int64]) -> DCI:
    """Disentanglement, completeness and informativeness; the images must be in random order."""
    z, targets, half = _standardised(latents), _standardised(factors.astype(np.float64)), len(latents) // 2

    def weights(rows: slice) -> Array:
        gram = z[rows].T @ z[rows] / len(z[rows]) + RIDGE * np.eye(z.shape[1])
        return np.linalg.solve(gram, z[rows].T @ targets[rows] / len(z[rows]))

    first, second = slice(0, half), slice(half, None)
    errors = ((z[second] @ weights(first) - targets[second]) ** 2).mean(0)
    variances = targets[second].var(0)
    importance = weights(slice(None)) ** 2
    total = importance.sum()
    return DCI(
        importance,
        _concentration(importance),
        importance.sum(1) / (total if total > 0 else 1.0),
        _concentration(importance.T),
        1.0 - errors / np.where(variances > 0, variances, 1.0),
    )


def disentanglement_scores(latents: Array, factors: NDArray[np.int64]) -> dict[str, Array]:
    """All scores by the metric's name, of each factor (K,), and of all together (1,) for `dci_disentanglement`."""
    found = dci(latents, factors)
    return {
        "mig": mutual_information_gap(latents, factors),
        "sap": separated_predictability(latents, factors),
        "dci_disentanglement": np.array([found.disentanglement @ found.weight]),
        "dci_completeness": found.completeness,
        "dci_informativeness": found.informativeness,
    }
