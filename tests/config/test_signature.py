from typing import Literal

import pytest

from saaae import ranges
from saaae.config.signature import choices, mismatch, signature


def test_signatures_are_read_through_inheritance_and_imports():
    model = signature("saaae.models.saaae.SAAAE")
    assert "latent_dim" in model.parameters
    assert model.parameters["encoder"].required
    assert not model.open
    optimizer = signature("torch.optim.AdamW")
    assert {"lr", "weight_decay", "betas"} <= set(optimizer.parameters)


@pytest.mark.parametrize("target", ["saaae.models.vae.VAEE", "saaae.nowhere.X", "no_such_package.X", "nodots"])
def test_an_unknown_target_has_no_signature(target):
    assert signature(target) is None


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (ranges.PositiveInt, [1, 7], [0, -1, 1.5, "ten", True, None, [1]]),
        (ranges.NonNegativeFloat, [0, 0.5, 2], [-0.1, "abc", None, False]),
        (ranges.OpenFraction, [0.5], [0, 1, 1.5]),
        (ranges.ImageSize, [8, 28, 256], [30, 7, 4, "64"]),
        (ranges.Widths, [[1], [8, 16]], [[], [0], 8, "8"]),
        (ranges.Span, [10, 0.25, 0], [-1, "long"]),
        (Literal["a", "b"], ["a"], ["c", 1, None]),
        (ranges.PositiveFraction | str | None, [0.5, "outputs/x", None], [2.0, 0, [1]]),
    ],
)
def test_values_are_checked_strictly(annotation, good, bad):
    assert [mismatch(annotation, value) for value in good] == [None] * len(good)
    assert all(mismatch(annotation, value) for value in bad)


def test_literal_choices_are_found_inside_unions():
    assert choices(float | Literal["learned", "optimal"]) == ["learned", "optimal"]
