import math
from functools import partial

import pytest
import torch

from saaae.models.optimization import Optimization


def make(schedule, warmup_steps):
    return Optimization(
        algorithm=partial(torch.optim.AdamW), lr=1.0, gradient_clip=None, schedule=schedule, warmup_steps=warmup_steps
    )


def test_warmup_rises_linearly_then_constant():
    assert [make("constant", 4).lr_factor(step, 10) for step in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_cosine_decreases_to_zero_at_the_planned_end_and_stays_there():
    factors = [make("cosine", 2).lr_factor(step, 10) for step in (2, 6, 10, 20)]
    assert factors == pytest.approx([1.0, 0.5 * (1 + math.cos(math.pi / 2)), 0.0, 0.0])


def test_a_cosine_shorter_than_its_warmup_keeps_its_last_learning_rate_when_extended():
    cosine = make("cosine", 20)
    assert [cosine.lr_factor(step, 10) for step in (9, 10, 11, 19, 20, 50)] == [10 / 20] + [11 / 20] * 5
    assert cosine.exception_after_end(10) == ""


def test_a_constant_rate_does_not_depend_on_the_length_of_the_run():
    constant = make("constant", 20)
    assert [constant.lr_factor(step, 10) for step in (9, 10, 19, 50)] == [10 / 20, 11 / 20, 1.0, 1.0]
    assert constant.exception_after_end(10) == ", but the learning rate still rises until step 20"
    assert constant.exception_after_end(20) == ""
