"""Runs with kills, full disks, locks and signals: real processes, real signals."""

import csv
import json
import os
import pickle
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from saaae.runs.checkpoints import read_checkpoint
from saaae.signals import Interrupted, Interruption
from tests.comparison import assert_continued_exactly, differences
from tests.conftest import TINY
from tests.zygote import wait_until

pytestmark = pytest.mark.processes
SMALL = [
    *TINY,
    "model=vae",
    "optimizer.schedule=constant",
    "data.num_train=80",
    "logger=tensorboard",
    "pictures.count=1",
]
LONG = [*SMALL, "trainer.max_epochs=1000"]
"""Overrides for a run long enough to be killed; 20 steps per epoch."""


def write_scenes(folder, count):
    """Images without random noise."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        coarse = torch.rand(1, 1, 4, 4, generator=generator)
        image = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")[0, 0]
        Image.fromarray((image * 255).byte().numpy()).save(folder / f"{number}.png")


def steps(run):
    """Number of optimizer steps in metrics.csv."""
    try:
        return max((int(row[0]) + 1 for row in csv.reader((run / "metrics.csv").open()) if row[0].isdigit()), default=0)
    except (OSError, IndexError):
        return 0


def state(run):
    return json.loads((run / "status.json").read_text())["state"] if (run / "status.json").is_file() else None


def other_process_of(pid):
    """The second process that a run has started."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return child


@pytest.fixture(scope="module")
def trained(zygote, tmp_path_factory):
    """Trains a command line once, and copies outputs/<name> of the finished run for each test that needs it."""
    homes = {}

    def copied(home, name, *words):
        key = name, *words
        if key not in homes:
            homes[key] = tmp_path_factory.mktemp("trained")
            status, printed = zygote.run(homes[key], f"name={name}", *words)
            assert status == 0, printed
        return shutil.copytree(homes[key] / "outputs" / name, home / "outputs" / name)

    return copied


@pytest.mark.parametrize("more", [["data.num_workers=0", "ema=0.99"], ["data.num_workers=2"]])
def test_a_repeatedly_killed_run_ends_like_an_uninterrupted_run(zygote, tmp_path, more):
    words = [*SMALL, "trainer.max_epochs=3", "checkpoint.every_n_steps=7", *more]
    assert zygote.run(tmp_path, "name=whole", *words)[0] == 0
    run = tmp_path / "outputs" / "broken"
    for step in (5, 18, 33, 41, 60):  # before the first checkpoint, twice inside an epoch, after one, at the end
        child = zygote.start(tmp_path, "name=broken", *words)
        wait_until(lambda step=step: steps(run) >= step)
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert state(run) == "running"
    status, printed = zygote.run(tmp_path, "name=broken", *words)
    assert status == 0, printed
    assert "continued from step" in printed
    assert state(run) == "done"
    assert differences(tmp_path / "outputs" / "whole", run) == []


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves_and_the_next_start_continues(zygote, trained, tmp_path, signum, status):
    words = [*SMALL, "trainer.max_epochs=3"]
    trained(tmp_path, "whole", *words)
    run = tmp_path / "outputs" / "stopped"
    child = zygote.start(tmp_path, "name=stopped", *words)
    wait_until(lambda: steps(run) >= 25)
    child.send(signum)
    assert child.wait() == status
    assert "python train.py resume=outputs/stopped" in child.printed
    assert state(run) == "preempted"
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
    assert saved >= 25
    assert saved == steps(run)  # no trained step was lost
    assert zygote.run(tmp_path, "resume=outputs/stopped")[0] == 0
    assert differences(tmp_path / "outputs" / "whole", run) == []


def test_two_processes_resume_exactly_and_test_like_one(zygote, tmp_path):
    words = [*SMALL, "accelerator=ddp_cpu", "trainer.max_epochs=2", "checkpoint.every_n_steps=4", "data.num_test=11"]
    words += [
        "likelihood.sigma=learned",
        "data.num_train=41",
        "corruption=gaussian",
    ]
    assert zygote.run(tmp_path, "name=whole", *words, two_ranks=True)[0] == 0
    run = tmp_path / "outputs" / "broken"
    child = zygote.start(tmp_path, "name=broken", *words, two_ranks=True)
    wait_until(lambda: steps(run) >= 5)
    other = other_process_of(child.pid)
    child.send(signal.SIGKILL)
    child.wait()
    wait_until(lambda: not Path(f"/proc/{other}").exists())
    assert state(run) == "running"
    assert_continued_exactly(zygote, tmp_path, two_ranks=True)
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 10
    states = [random["torch"] for random in checkpoint["random_state"]]
    assert len(states) == 2
    assert not torch.equal(*states)

    status, printed = zygote.run(tmp_path, "run=outputs/whole", "accelerator=cpu", script="evaluate.py")
    assert status == 0, printed
    two = json.loads((tmp_path / "outputs/whole/metrics.json").read_text())["test"]
    one = json.loads((tmp_path / "outputs/whole/evaluation/own-best/metrics.json").read_text())["test"]
    assert one == pytest.approx(two, rel=1e-6, abs=1e-6)


def test_fine_tuned_and_averaged_weights_of_two_processes_are_equal_and_resumed_exactly(zygote, tmp_path):
    assert zygote.run(tmp_path, "name=source", *SMALL, "trainer.max_epochs=1")[0] == 0
    words = [*SMALL, "accelerator=ddp_cpu", "trainer.max_epochs=2", "checkpoint.every_n_steps=2", "ema=0.9"]
    words += ["init_from=outputs/source", "freeze=[encoder]", "trainer.accumulate_grad_batches=2"]
    assert zygote.run(tmp_path, "name=whole", *words, two_ranks=True)[0] == 0
    run = tmp_path / "outputs" / "broken"
    child = zygote.start(tmp_path, "name=broken", *words, two_ranks=True)
    wait_until(lambda: steps(run) >= 3)
    other = other_process_of(child.pid)
    child.send(signal.SIGKILL)
    child.wait()
    wait_until(lambda: not Path(f"/proc/{other}").exists())
    shutil.rmtree(tmp_path / "outputs" / "source")
    assert_continued_exactly(zygote, tmp_path, two_ranks=True)
    source = json.loads((run / "metrics.json").read_text())["run"]["init_from"]
    assert source["tensors_taken"] == source["tensors"]
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["averaged_steps"] == 10


def test_a_run_that_grows_is_resumed_exactly_in_every_stage(zygote, tmp_path):
    words = [*SMALL, "model.latent_dim=null", "model.latent_channels=2", "stages=[[8,1],[16,1]]"]
    words += ["data.num_train=40", "checkpoint.every_n_steps=3"]
    assert zygote.run(tmp_path, "name=whole", *words)[0] == 0
    outputs = tmp_path / "outputs"
    stages = ["stage-16/stage-8", "stage-16", "."]
    for number, stage in enumerate(stages, 1):
        child = zygote.start(tmp_path, "name=broken", *words)
        wait_until(lambda stage=stage: steps(outputs / "broken" / stage) >= 5)
        child.send(signal.SIGKILL)
        child.wait()
        assert f"stage {number} of 3: " in child.printed
        assert state(outputs / "broken") == "running"
    assert_continued_exactly(zygote, tmp_path)
    for stage in stages[:2]:
        assert differences(outputs / "whole" / stage, outputs / "broken" / stage) == []
        assert state(outputs / "broken" / stage) == "done"
    status, printed = zygote.run(tmp_path, "name=broken", *words)
    assert (status, printed) == (0, "outputs/broken: finished already, nothing to do\n")
    status, printed = zygote.run(tmp_path, "name=broken", *words, "stages=[[8,2],[16,1]]")
    assert "stages: [[8, 1], [16, 1]] there, [[8, 2], [16, 1]] asked" in printed


def test_a_run_that_is_stopped_in_a_stage_says_how_to_go_on(zygote, tmp_path):
    words = [*SMALL, "model.latent_dim=null", "model.latent_channels=2", "stages=[[16,1000]]"]
    child = zygote.start(tmp_path, "name=x", *words)
    wait_until(lambda: steps(tmp_path / "outputs/x/stage-16") >= 5)
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    assert "continue with   python train.py resume=outputs/x\n" in child.printed
    assert state(tmp_path / "outputs/x") == "preempted"
    child = zygote.start(tmp_path, "resume=outputs/x")
    wait_until(lambda: "(continued from step" in child.printed)
    child.send(signal.SIGTERM)
    assert child.wait() == 143


def test_a_sharded_model_resumes_exactly_inside_an_epoch_and_keeps_its_schedule(zygote, tmp_path):
    words = [*SMALL, "accelerator=ddp_cpu", "accelerator.strategy=fsdp", "accelerator.memory_format=contiguous"]
    words += ["trainer.max_epochs=1", "checkpoint.every_n_steps=3", "optimizer.schedule=cosine", "callbacks=none"]
    assert zygote.run(tmp_path, "name=whole", *words, two_ranks=True)[0] == 0
    run = tmp_path / "outputs" / "broken"
    child = zygote.start(tmp_path, "name=broken", *words, two_ranks=True)
    wait_until(lambda: steps(run) >= 4)
    child.send(signal.SIGKILL)
    child.wait()
    assert_continued_exactly(zygote, tmp_path)  # the second process is a new interpreter, as a user's is
    status, printed = zygote.run(tmp_path, "resume=outputs/broken", "trainer.max_epochs=2", two_ranks=True)
    assert status == 0, printed
    assert "schedules    end at step 10, as first planned" in printed


def test_two_processes_train_like_one_with_twice_the_batch_size_also_with_a_sharded_model(zygote, tmp_path):
    write_scenes(tmp_path / "images", 24)
    words = ["data=folder", f"data.root={tmp_path}/images", "data.image_size=32", "model=cbam_ae"]
    words += ["model.encoder.widths=[8,8,8,8]", "model.decoder.widths=[8,8,8]", "threads=1", "callbacks=none"]
    words += ["trainer.max_epochs=3", "trainer.log_every_n_steps=1", "logger=none", "pictures.count=1"]
    words += ["accelerator.precision=64-true"]  # in 32 bits rounding errors grow too fast to compare the results
    curves = []
    sharded = ["accelerator=ddp_cpu", "accelerator.strategy=fsdp", "accelerator.memory_format=contiguous"]
    for name, accelerator, batch in (("one", ["accelerator=cpu"], 8), ("two", sharded[:1], 4), ("parts", sharded, 4)):
        more = [*accelerator, f"name={name}", f"data.batch_size={batch}"]
        status, printed = zygote.run(tmp_path, *words, *more, two_ranks=name != "one")
        assert status == 0, printed
        rows = csv.reader((tmp_path / "outputs" / name / "metrics.csv").open())
        curves.append({tuple(row[:3]): float(row[3]) for row in rows if row[2].startswith(("train/loss", "val/"))})
    assert len([key for key in curves[0] if key[2] == "train/loss"]) >= 6
    assert curves[1] == pytest.approx(curves[0], rel=1e-4, abs=1e-6)
    assert curves[2] == pytest.approx(curves[0], rel=1e-4, abs=1e-6)


def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(zygote, tmp_path):
    run = tmp_path / "outputs" / "x"
    child = zygote.start(tmp_path, "name=x", *LONG, "accelerator=ddp_cpu")
    wait_until(lambda: steps(run) >= 3)
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    assert state(run) == "preempted"
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == steps(run)


def test_a_sweep_over_one_and_two_processes_runs_every_job_once_and_survives_a_failed_job(zygote, tmp_path):
    words = [word for word in SMALL if word != "accelerator=cpu"]
    sweep = ["-m", "name=s", "accelerator=ddp_cpu,cpu", "optimizer.lr=1e30,1e-3", "optimizer.gradient_clip=null"]
    status, printed = zygote.run(tmp_path, *sweep, *words, "trainer.max_epochs=20", "logger=none", "callbacks=none")
    assert status == 1, printed
    assert printed.count("test of best.ckpt") == 2
    assert "4 jobs in outputs/s" in printed
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["s"]
    states = {job.name.rsplit("-", 1)[0]: state(job) for job in (tmp_path / "outputs" / "s").glob("accelerator=*")}
    assert states == {
        f"accelerator={accelerator},lr={lr}": state
        for accelerator in ("cpu", "ddp_cpu")
        for lr, state in (("0.001", "done"), ("1e+30", "failed"))
    }


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_launcher_waiting_for_a_signal_receives_it_after_the_run_has_saved(monkeypatch, signum):
    got, interruption = [], Interruption()
    before = signal.signal(signum, lambda number, frame: got.append(number))

    def run():
        with interruption:
            interruption.in_training = True
            os.kill(os.getpid(), signum)
            assert interruption.signum == signum
            assert got == []  # the step continues, and the checkpoint is not written yet
            interruption.agreed = signum
            interruption.leave()

    with pytest.raises(Interrupted):
        run()
    assert got == [signum]
    signal.signal(signum, before)


def test_the_signal_that_stopped_a_job_is_passed_between_processes():
    stop = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert (stop.status, stop.signal) == (143, "SIGTERM")


def test_slurm_is_asked_to_requeue_a_job_that_it_preempts(zygote, tmp_path):
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    environment = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    run = tmp_path / "outputs" / "x"
    child = zygote.start(tmp_path, "name=x", *LONG, environment=environment)
    wait_until(lambda: steps(run) >= 5)
    child.send(signal.SIGUSR1)
    assert child.wait() == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert state(run) == "preempted"
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] >= 5


def test_a_second_process_on_a_run_is_rejected_and_a_dead_one_holds_no_lock(zygote, tmp_path):
    run = tmp_path / "outputs" / "x"
    first = zygote.start(tmp_path, "name=x", *LONG)
    wait_until(lambda: steps(run) >= 5)
    status, printed = zygote.run(tmp_path, "name=x", *LONG)
    assert (status, printed.count("\n")) == (2, 1), printed
    assert f"error: outputs/x: process {first.pid} of " in printed
    assert f" on {socket.gethostname()} is at work there since " in printed
    first.send(signal.SIGKILL)
    first.wait()
    status, printed = zygote.run(tmp_path, "name=x", *LONG, "trainer.max_time=00:00:00:01")
    assert status == 2, "another length"
    third = zygote.start(tmp_path, "resume=outputs/x")
    wait_until(lambda: "run          outputs/x" in third.printed)
    third.send(signal.SIGKILL)
    third.wait()


@pytest.mark.parametrize("limit", [100_000, 3_000_000])
def test_a_full_disk_damages_no_checkpoint(zygote, trained, tmp_path, limit):
    """File size limits act like a full disk: below and above the size of a checkpoint."""
    trained(tmp_path, "x", *SMALL, "logger=none", "model.encoder.widths=[16,16]")
    last = tmp_path / "outputs" / "x" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert 100_000 < len(before) < 3_000_000
    status, printed = zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=2", file_limit=limit)
    if limit > len(before):
        assert status == 0, printed
        return
    assert status == 1
    errors = [line for line in printed.splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert "best.ckpt: not written" in errors[0] or "last.ckpt: not written" in errors[0]
    assert errors[0].endswith("the checkpoint before it is intact")
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*"))
    assert state(tmp_path / "outputs" / "x") == "failed"
    assert zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=2")[0] == 0


def test_a_folder_without_write_permission_is_reported(zygote, trained, tmp_path):
    run = trained(tmp_path, "x", *SMALL)
    checkpoints = run / "checkpoints"
    before = {path: path.read_bytes() for path in checkpoints.iterdir()}
    checkpoints.chmod(0o555)
    try:
        status, printed = zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=2", powerless=True)
    finally:
        checkpoints.chmod(0o755)
    assert status == 1
    assert [line for line in printed.splitlines() if line.startswith("error: ")] == [
        line for line in printed.splitlines() if "Permission denied" in line
    ], printed
    assert "Traceback" not in printed
    assert {path: path.read_bytes() for path in checkpoints.iterdir()} == before


def test_partial_files_of_a_killed_process_are_removed(zygote, trained, tmp_path):
    run = trained(tmp_path, "x", *SMALL)
    for left in (run / "checkpoints" / ".last.ckpt.abc.part", run / ".metrics.json.def.part"):
        left.write_text("half")
    assert zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=2")[0] == 0
    assert not list(run.rglob("*.part"))


def test_a_sweep_killed_in_its_third_job_is_finished_by_repeating_it(zygote, tmp_path):
    sweep = ["-m", "name=s", "seed=0,1,2,3,4,5", *SMALL, "logger=none", "callbacks=none"]
    folder = tmp_path / "outputs" / "s"
    child = zygote.start(tmp_path, *sweep)
    jobs = {seed: f"seed={seed}-" for seed in range(6)}

    def job(seed):
        return next(folder.glob(jobs[seed] + "*"), folder / "none")

    wait_until(lambda: steps(job(2)) >= 3)
    child.send(signal.SIGKILL)
    child.wait()
    assert [state(job(seed)) for seed in range(4)] == ["done", "done", "running", None]
    before = {seed: (job(seed) / "metrics.json").stat().st_mtime_ns for seed in (0, 1)}

    status, printed = zygote.run(tmp_path, *sweep)
    assert status == 0, printed
    assert printed.count("finished already, nothing to do") == 2
    assert printed.count("\nrun          ") == 4  # one restarted or continued, three that had not started
    assert [state(job(seed)) for seed in range(6)] == ["done"] * 6
    assert {seed: (job(seed) / "metrics.json").stat().st_mtime_ns for seed in (0, 1)} == before


def test_a_signal_stops_a_sweep_and_lists_the_remaining_jobs(zygote, tmp_path):
    sweep = ["-m", "name=s", "seed=0,1,2", *LONG, "logger=none", "callbacks=none"]
    child = zygote.start(tmp_path, *sweep)
    folder = tmp_path / "outputs" / "s"
    wait_until(lambda: any(steps(job) >= 3 for job in folder.glob("*")))
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    assert "3 jobs in outputs/s" in child.printed
    assert "preempted  seed=0-" in child.printed
    assert "2 not started; repeat the command to continue" in child.printed


def test_a_failed_job_stores_the_reason_in_its_folder(zygote, tmp_path):
    sweep = ["-m", "name=s", "optimizer.lr=1e-3,1e30", *SMALL, "optimizer.gradient_clip=null", "logger=none"]
    status, printed = zygote.run(tmp_path, *sweep)
    assert status == 1
    folders = sorted((tmp_path / "outputs" / "s").glob("lr=*"))
    assert [state(folder) for folder in folders] == ["done", "failed"]
    why = json.loads((folders[1] / "status.json").read_text())["why"]
    assert "not finite" in why
    assert f"failed     {folders[1].name}  {why}" in printed


def test_launches_in_the_same_second_have_separate_folders(zygote, tmp_path):
    tiny = [*TINY, "model=vae", "trainer.max_steps=1", "logger=none", "callbacks=none"]
    children = [zygote.start(tmp_path, *tiny) for _ in range(8)]
    assert [child.wait() for child in children] == [0] * 8
    assert len(list((tmp_path / "outputs" / "vae-speckle").glob("*/metrics.json"))) == 8


def test_a_malicious_checkpoint_is_skipped_and_not_executed(zygote, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    run = tmp_path / "outputs" / "x"
    assert zygote.run(tmp_path, "name=x", *SMALL, "trainer.max_epochs=2")[0] == 0
    torch.save({"state_dict": Evil(), "config": Evil()}, run / "checkpoints" / "last.ckpt")
    status, printed = zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=3")
    assert status == 0, printed
    assert "last.ckpt: not a readable checkpoint" in printed
    assert "ignored" in printed
    assert "continued from step 20" in printed  # the step of previous.ckpt
    torch.save({"state_dict": Evil()}, run / "checkpoints" / "best.ckpt")
    status, printed = zygote.run(tmp_path, "run=outputs/x", script="evaluate.py")
    assert (status, printed.count("\n")) == (2, 1), printed
    assert "best.ckpt: not a readable checkpoint" in printed
    assert not (tmp_path / "executed").exists()


def test_signals_are_not_handled_outside_the_main_thread():
    """Ray and joblib may run a job in a thread, where Python allows no signal handlers."""
    from saaae.signals import Interruption

    failed = []

    def enter():
        try:
            with Interruption():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failed == []


def test_a_damaged_checkpoint_never_replaces_the_only_intact_one(zygote, tmp_path):
    run = tmp_path / "outputs" / "x"
    words = [*SMALL, "logger=none", "callbacks=none", "model.encoder.widths=[16,16]"]
    assert zygote.run(tmp_path, "name=x", *words, "trainer.max_epochs=2")[0] == 0
    last = run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(content)
    between = ((run / "checkpoints" / "best.ckpt").stat().st_size + len(content)) // 2
    status, printed = zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=4", file_limit=between)
    assert status == 1, printed
    assert "last.ckpt: not written" in printed
    status, printed = zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=4")
    assert status == 0, printed
    assert "continued from step 20" in printed


def test_an_extension_killed_at_its_start_does_not_count_as_finished(zygote, trained, tmp_path):
    run = trained(tmp_path, "x", *SMALL, "logger=none", "callbacks=none")
    child = zygote.start(tmp_path, "resume=outputs/x", "trainer.max_epochs=3")
    wait_until(lambda: state(run) == "running")
    child.send(signal.SIGKILL)
    child.wait()
    status, printed = zygote.run(tmp_path, "resume=outputs/x", "trainer.max_epochs=3")
    assert status == 0, printed
    assert json.loads((run / "metrics.json").read_text())["train"]["steps"] == 60


def test_an_invalid_command_does_not_change_the_state_of_a_run(zygote, tmp_path):
    run = tmp_path / "outputs" / "x"
    child = zygote.start(tmp_path, "name=x", *LONG, "logger=none")
    wait_until(lambda: steps(run) >= 3)
    child.send(signal.SIGKILL)
    child.wait()
    assert zygote.run(tmp_path, "name=x", *LONG, "logger=none", "seed=5")[0] == 2
    assert state(run) == "running"


def test_a_run_folder_without_write_permission_is_reported_in_one_line(zygote, trained, tmp_path):
    run = trained(tmp_path, "x", *SMALL, "logger=none", "callbacks=none")
    for folder, words in [(run, ["resume=outputs/x", "trainer.max_epochs=2"]), (run.parent, ["name=y", *SMALL])]:
        folder.chmod(0o555)
        try:
            status, printed = zygote.run(tmp_path, *words, powerless=True)
        finally:
            folder.chmod(0o755)
        assert status == 1, printed
        assert "Traceback" not in printed
        assert len([line for line in printed.splitlines() if line.startswith("error: ")]) == 1
        assert "Permission denied" in printed
