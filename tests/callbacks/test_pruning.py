"""Pruned trials, in the process that decides and in those that receive the decision."""

from types import SimpleNamespace

from saaae.callbacks.pruning import Pruning


def trainer(score, epoch, told=None):
    return SimpleNamespace(
        sanity_checking=False, state=SimpleNamespace(fn="fit"), callback_metrics={"val/elbo": score},
        current_epoch=epoch, should_stop=False,
        strategy=SimpleNamespace(broadcast=lambda pruned: pruned if told is None else told),
    )  # fmt: skip


def test_a_trial_reports_each_epoch_from_0_and_stops_when_pruned():
    reports = []

    def is_pruned(score, epoch):
        reports.append((score, epoch))
        return epoch == 1

    pruning = Pruning("val/elbo", is_pruned)
    first, second = trainer(-3.0, 0), trainer(-4.0, 1)
    pruning.on_validation_end(first, None)
    assert not first.should_stop
    pruning.on_validation_end(second, None)
    assert second.should_stop
    assert pruning.why == "after epoch 2: val/elbo -4.0000"
    pruning.on_validation_end(second, None)  # is_pruned is not called again
    assert reports == [(-3.0, 0), (-4.0, 1)]


def test_other_processes_follow_the_pruning_decision_of_the_first():
    pruning = Pruning("val/elbo", None)
    run = trainer(-3.0, 0, told=True)
    pruning.on_validation_end(run, None)
    assert run.should_stop
