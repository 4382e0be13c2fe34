import pytest
import torch

from saaae.errors import UserError
from saaae.objectives.beta import (
    CapacityBeta,
    ConstantBeta,
    CosineBeta,
    CyclicalBeta,
    FreeBitsBeta,
    LinearBeta,
    SigmoidBeta,
    TargetKLBeta,
)
from saaae.posteriors.gaussian import DeltaPosterior, DiagonalGaussian


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
    "make",
    [
        lambda: LinearBeta(value=1.0, warmup=0.5),
        lambda: CosineBeta(value=1.0, warmup=0.5),
        lambda: SigmoidBeta(value=1.0, warmup=0.5, steepness=12.0),
        lambda: CyclicalBeta(value=1.0, num_cycles=4, ramp=0.5),
    ],
)
def test_the_schedule_length_is_fixed_once_and_saved_in_checkpoints(make):
    first = make()
    curve = values(first, 80, range(80))
    first.bind(800)
    assert [first(step) for step in range(80)] == curve
    second = make()
    second.load_state_dict(first.state_dict())
    second.bind(8000)
    assert [second(step) for step in range(80)] == curve


@pytest.mark.parametrize(
    "schedule", [CosineBeta(value=2.0, warmup=100), SigmoidBeta(value=2.0, warmup=100, steepness=12.0)]
)
def test_smooth_warm_ups_rise_from_zero_through_half_to_the_ceiling(schedule):
    curve = values(schedule, 1000, range(0, 121, 10))
    assert curve[0] == 0.0
    assert curve[5] == pytest.approx(1.0)
    assert curve[10] == curve[12] == pytest.approx(2.0)
    assert curve[:10] == sorted(set(curve[:10]))
    assert curve[5] - curve[4] > curve[1] - curve[0]


def test_a_steep_sigmoid_is_a_step():
    assert values(SigmoidBeta(value=1.0, warmup=100, steepness=1000.0), 100, [0, 49, 50, 51]) == pytest.approx(
        [0, 0, 0.5, 1], abs=1e-4
    )


def posterior(*kl):
    """One image whose dimensions have the given KLs: unit variance, mean sqrt(2 KL)."""
    mean = (2 * torch.tensor([kl], dtype=torch.float64)).sqrt().requires_grad_()
    return DiagonalGaussian(mean, torch.zeros_like(mean)), mean


def test_free_bits_penalise_the_maximum_of_floor_and_kl():
    q, mean = posterior(0.1, 0.5, 2.0)
    penalty = FreeBitsBeta(value=2.0, floor=0.3).penalty(q, 0)
    assert float(penalty) == pytest.approx(2 * (0.3 + 0.5 + 2.0))
    penalty.backward()
    assert mean.grad[0, 0] == 0
    assert (mean.grad[0, 1:] > 0).all()


def test_free_bits_need_a_factorized_kl():
    with pytest.raises(UserError, match="beta=free_bits: needs a posterior"):
        FreeBitsBeta(value=1.0, floor=0.1).check(DeltaPosterior(feature_shape=(4, 2, 2), latent_shape=(3,)))


def test_capacity_penalises_deviations_on_both_sides_while_it_increases():
    schedule = CapacityBeta(value=10.0, warmup=100, capacity=4.0)
    schedule.bind(1000)
    for step, capacity in ((0, 0.0), (50, 2.0), (100, 4.0), (500, 4.0)):
        assert float(schedule.penalty(posterior(1.0, 1.0)[0], step)) == pytest.approx(10 * abs(2 - capacity))
    q, mean = posterior(1.0, 1.0)
    schedule.penalty(q, 100).backward()
    assert (mean.grad < 0).all()


def test_the_controller_reaches_the_target_kl_and_resumes():
    """A plant whose KL decreases with beta, like that of a VAE: KL = 40 / (1 + 4 beta)."""

    def run(controller, steps, start=0):
        beta = float(controller(start))
        for step in range(start, start + steps):
            controller.penalty(posterior(40 / (1 + 4 * beta))[0], step)
            beta = float(controller(step))
        return beta, 40 / (1 + 4 * beta)

    def make():
        return TargetKLBeta(value=5.0, target=10.0, proportional=0.01, integral=0.002)

    whole = make()
    beta, kl = run(whole, 2000)
    assert kl == pytest.approx(10.0, rel=0.01)
    first, second = make(), make()
    run(first, 700)
    second.load_state_dict(first.state_dict())
    assert run(second, 1300, 700)[0] == pytest.approx(beta, rel=1e-5)


def test_the_controller_stays_between_zero_and_its_ceiling():
    controller = TargetKLBeta(value=0.5, target=1.0, proportional=0.01, integral=0.1)
    for step in range(50):
        controller.penalty(posterior(100.0)[0], step)
    assert float(controller(50)) == 0.5
    for step in range(3):  # no integral wind-up
        controller.penalty(posterior(0.0)[0], step)
    assert float(controller(53)) < 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: FreeBitsBeta(value=2.0, floor=0.5),
        lambda: CapacityBeta(value=10.0, warmup=0, capacity=2.0),
        lambda: TargetKLBeta(value=5.0, target=1.0, proportional=1.0, integral=0.1),
    ],
    ids=["free_bits", "capacity", "target_kl"],
)
def test_two_processes_together_have_the_same_penalty_as_one(monkeypatch, make):
    # Each part of the batch alone is on a different side of the floor, capacity and target than the whole batch.
    means = torch.tensor([[0.2, 0.3], [2.5, 1.5]], dtype=torch.float64)

    def charged(share):
        schedule, mean = make(), share.clone().requires_grad_()
        schedule.bind(100)
        penalty = schedule.penalty(DiagonalGaussian(mean, torch.zeros_like(mean)), 0)
        penalty.backward()
        return float(penalty), mean.grad

    whole, gradient = charged(means)
    parts = []
    for share, other in ((means[:1], means[1:]), (means[1:], means[:1])):
        kl = DiagonalGaussian(other, torch.zeros_like(other))
        others = [kl.kl_per_dimension.mean(0), kl.kl.mean()]

        def reduce(value, others=others):
            value += next(mean for mean in others if mean.shape == value.shape)

        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
        parts.append(charged(share))
    assert sum(part for part, _ in parts) / 2 == pytest.approx(whole)
    # DDP averages the per-process averages over the processes.
    torch.testing.assert_close(torch.cat([part for _, part in parts]) / 2, gradient)
