import pytest

from saaae.objectives.beta import ConstantBeta, CyclicalBeta, LinearBeta


def values(schedule, total, steps):
    schedule.bind(total)
    return [schedule(step) for step in steps]


def test_constant_is_constant():
    assert values(ConstantBeta(value=0.5), 100, [0, 50, 1000]) == [0.5, 0.5, 0.5]


def test_linear_rises_over_a_fraction_of_the_run():
    assert values(LinearBeta(value=2.0, warmup=0.5), 100, [0, 25, 50, 99]) == [0.0, 1.0, 2.0, 2.0]


def test_linear_rises_over_a_number_of_steps():
    assert values(LinearBeta(value=1.0, warmup=10), 100, [0, 5, 10, 99]) == [0.0, 0.5, 1.0, 1.0]


def test_linear_without_warmup_is_constant():
    assert values(LinearBeta(value=1.0, warmup=0), 100, [0, 1, 2]) == [1.0, 1.0, 1.0]


def test_cyclical_starts_every_cycle_at_zero_and_ends_at_the_ceiling():
    schedule = CyclicalBeta(value=1.0, num_cycles=4, ramp=0.5)
    assert values(schedule, 80, [0, 5, 10, 19, 20, 25, 60]) == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 0.0]
    assert schedule(80) == schedule(500) == 1.0


@pytest.mark.parametrize(
    "make", [lambda: LinearBeta(value=1.0, warmup=0.5), lambda: CyclicalBeta(value=1.0, num_cycles=4, ramp=0.5)]
)
def test_steps_are_bound_once_and_survive_a_checkpoint(make):
    first = make()
    curve = values(first, 80, range(80))
    first.bind(800)
    assert [first(step) for step in range(80)] == curve
    second = make()
    second.load_state_dict(first.state_dict())
    second.bind(8000)
    assert [second(step) for step in range(80)] == curve
