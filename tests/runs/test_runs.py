"""Runs in this process: contents of the run folder, exact resume, evaluation from the folder alone."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saaae.cli import evaluate
from saaae.errors import RunFailedError, UserError
from saaae.evaluation import test as results
from saaae.runs import checkpoints
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import devices, fit
from tests.conftest import CONF, TINY
from tests.data.test_mnist import write_archives
from tests.models.test_models import MODELS, SMALL

NARROW = [
    "model=vae",
    "data.num_train=20",
    "optimizer.schedule=constant",
    "checkpoint.every_n_steps=1",
    "callbacks=none",
    "logger=none",
]
CORRUPTIONS = sorted((CONF / "corruption").glob("*.yaml"))


@pytest.fixture
def launch(compose_config, tmp_path):
    """Trains in tmp_path/<name>; a second launch with the same name continues the run."""

    def launched(name, *overrides):
        cfg = resolve_config(compose_config(*TINY, *overrides))
        folder = RunFolder(tmp_path / name)
        fit.fit(Run(cfg, folder, list(overrides), {"seed": 0}), Interruption())
        return folder

    launched.folder = lambda name: RunFolder(tmp_path / name)
    return launched


def weights(folder):
    return torch.load(folder.last, weights_only=True)["state_dict"]


def rows(folder):
    """metrics.csv without the speed, which differs between runs."""
    with (folder.path / "metrics.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file) if "images_per_second" not in row[2]]


def test_a_finished_run_contains_all_files(launch):
    folder = launch("a")
    expected = {
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "config.yaml",
        "train.log",
        "metrics.csv",
        "metrics.json",
    }
    expected |= {"checkpoints/last.ckpt", "checkpoints/best.ckpt", "reconstructions.png", "splits.json"}
    assert expected <= {str(p.relative_to(folder.path)) for p in folder.path.rglob("*")}
    assert "${" not in folder.resolved.read_text()
    results = json.loads(folder.metrics.read_text())
    assert {"ssim", "psnr", "mse", "nll", "kl", "elbo", "bits_per_dim", "ssim_clean"} <= set(results["test"])
    assert {"images_per_second", "epochs", "steps", "peak_memory_mb"} == set(results["train"])
    assert results["train"]["steps"] == 3
    assert {"config_hash", "split_hash", "seed", "threads", "commit", "versions", "data_range"} <= set(results["run"])
    splits = json.loads(folder.splits.read_text())
    assert splits["hash"] == results["run"]["split_hash"]
    assert splits["splits"] == {"train": {"train scenes": 12}, "val": {"val scenes": 6}, "test": {"test scenes": 6}}
    checkpoint = torch.load(folder.last, weights_only=True)
    assert checkpoint["config"]["seed"] == 0
    assert "optimizer_states" in checkpoint
    assert "optimizer_states" not in torch.load(folder.best, weights_only=True)


def test_tensorboard_shows_scalars_and_pictures(launch):
    folder = launch("a")
    board = EventAccumulator(str(folder.path)).Reload()
    assert {"train/loss", "train/nll", "train/kl", "train/beta", "val/ssim", "val/psnr", "val/elbo"} <= set(
        board.Tags()["scalars"]
    )
    assert sorted(board.Tags()["images"]) == [
        "data", "epochs", "final/interpolations", "final/prior", "final/reconstructions", "final/traversals",
        "reconstructions",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.pictures.iterdir()) == [
        "data.png", "epochs.npz", "epochs.png", "interpolations.png", "prior.png", "traversals.png",
    ]  # fmt: skip
    assert {"latent_dimensions/kl", "latent_dimensions/posterior_std"} <= set(board.Tags()["histograms"])
    logged = {row[2] for row in rows(folder)}
    assert {"train/loss", "val/elbo", "test/ssim"} <= logged


def test_the_logged_loss_is_per_image_for_any_number_of_batches_per_step(launch):
    folder = launch("a", "model=vae", "trainer.accumulate_grad_batches=2", "callbacks=none", "logger=none")
    logged = {row[2]: float(row[3]) for row in rows(folder) if row[2].startswith("train/") and row[0] == "0"}
    assert logged["train/loss"] == pytest.approx(logged["train/nll"] + logged["train/beta"] * logged["train/kl"])


def test_a_run_without_a_logger_still_writes_its_csv(launch):
    folder = launch("a", "logger=none", "callbacks=none", "pictures.count=1")
    assert not list(folder.path.glob("events*"))
    assert len(rows(folder)) > 10


@pytest.mark.parametrize(
    ("first", "whole"),
    [
        (["trainer.max_epochs=1"], ["trainer.max_epochs=3"]),
        (["trainer.max_steps=4", "checkpoint.every_n_steps=1"], ["trainer.max_epochs=3", "checkpoint.every_n_steps=1"]),
    ],
    ids=["epoch boundary", "mid-epoch"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(launch, first, whole, workers):
    fixed = ["optimizer.schedule=constant", "trainer.max_epochs=3", f"data.num_workers={workers}"]
    straight = launch("straight", *fixed, *whole)
    launch("broken", *fixed, *first)
    resumed = launch("broken", *fixed, *whole)
    a, b = weights(straight), weights(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)
    kept = [row for row in rows(resumed) if not row[2].startswith("test/")]
    assert kept == [row for row in rows(straight) if not row[2].startswith("test/")]
    same = [json.loads(f.metrics.read_text())["test"] for f in (straight, resumed)]
    assert same[0] == same[1]


def resumes_exactly(launch, *fixed):
    """A run stopped inside the second epoch and resumed has the weights and curves of an uninterrupted run."""
    fixed = [*fixed, "optimizer.schedule=constant", "trainer.max_epochs=2", "logger=none", "callbacks=none"]
    straight = launch("straight", *fixed)
    launch("broken", *fixed, "trainer.max_steps=4")
    resumed = launch("broken", *fixed)
    a, b = weights(straight), weights(resumed)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    kept = [[row for row in rows(run) if not row[2].startswith("test/")] for run in (straight, resumed)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "part",
    [
        "beta=target_kl",
        "beta=total_correlation",
        "likelihood=laplace",
        "posterior=full_covariance",
        "posterior=low_rank",
        "attention=self",
    ],
)
def test_every_kind_of_state_is_resumed_from_inside_an_epoch(launch, part):
    resumes_exactly(launch, "model=vae", part, "model.latent_dim=6")


@pytest.mark.parametrize("options", [["couple_noise=true", "decoder_sees_w=true"], ["prior=learned"]])
def test_an_anchored_prior_is_resumed_from_inside_an_epoch(launch, options):
    options = ["model.latent_channels=3", "beta.warmup=5", *(f"posterior.{each}" for each in options)]
    resumes_exactly(launch, "model=saaae_prior", *options)


@pytest.mark.parametrize("model", [model for model in MODELS if not model.startswith("cvae")])
def test_every_model_is_resumed_from_inside_an_epoch(launch, model):
    # A share of a run would be one of the four steps that it is first planned for.
    warmup = ["beta.warmup=5"] if model in ("saaae_prior", "vae_deep") else []
    resumes_exactly(launch, f"model={model}", *SMALL.get(model, []), *warmup)


@pytest.mark.parametrize(
    "part",
    [
        ["likelihood.sigma=learned", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=2"],
        ["accelerator.precision=bf16-true"],
    ],
)
def test_averaged_weights_are_resumed_from_inside_an_epoch(launch, part):
    resumes_exactly(launch, "model=vae", "ema=0.9", *part, "data.num_train=24")
    straight, resumed = (torch.load(launch.folder(name).last, weights_only=True) for name in ("straight", "broken"))
    a, b = (checkpoint["training_weights"] for checkpoint in (straight, resumed))
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert straight["averaged_steps"] == resumed["averaged_steps"] == straight["global_step"]
    assert not all(torch.equal(a[key], straight["state_dict"][key]) for key in a)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_corruption_is_resumed_from_inside_an_epoch(launch, workers):
    """One after another on half of the images: a corruption that is not resumed changes the input of the model."""
    parts = [f"+corruption.parts.{path.stem}_option={flow(path)}" for path in CORRUPTIONS]
    resumes_exactly(launch, "model=vae", "corruption=mixed", *parts, "data.target=clean", f"data.num_workers={workers}")
    parts = launch.folder("broken").config().corruption.parts
    assert {f"{path.stem}_option" for path in CORRUPTIONS} <= set(parts)


def flow(path):
    """The content of a YAML file in one line."""
    return yaml.safe_dump(yaml.safe_load(path.read_text()), default_flow_style=True, width=1000).strip()


def test_a_conditional_model_is_resumed_from_inside_an_epoch(compose_config, tmp_path):
    write_archives(tmp_path / "mnist")
    tiny = [o for o in TINY if not o.startswith("data")]
    data = ["data=mnist", f"data.root={tmp_path / 'mnist'}", "data.num_val=5", "data.batch_size=4"]

    def launch(name, *overrides):
        cfg = resolve_config(compose_config(*tiny, *data, *SMALL["cvae_onehot"], *overrides))
        folder = RunFolder(tmp_path / name)
        fit.fit(Run(cfg, folder, [], {"seed": 0}), Interruption())
        return folder

    resumes_exactly(launch, "model=cvae_embedding", "model.label_drop=0.3")


def test_schedules_keep_their_absolute_steps_when_a_run_is_extended(launch):
    fixed = ["beta=linear", "beta.warmup=1.0"]
    folder = launch("a", *fixed, "trainer.max_epochs=2")
    launch("a", *fixed, "trainer.max_epochs=3")
    betas = [float(row[3]) for row in rows(folder) if row[2] == "train/beta"]
    assert betas == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])


def test_best_is_chosen_by_the_elbo_and_tested(launch):
    folder = launch("a", "trainer.max_epochs=2")
    elbos = {float(row[3]): row[0] for row in rows(folder) if row[2] == "val/elbo"}
    best = torch.load(folder.best, weights_only=True)
    assert best["global_step"] == int(elbos[max(elbos)]) + 1


@pytest.fixture
def evaluated(compose_config):
    def tested(*overrides):
        cfg = compose_config(*overrides, name="evaluate")
        path = evaluate.checkpoint_path(cfg)
        stored = RunFolder(cfg.run).config() if cfg.run else checkpoints.config_in(path)
        full = evaluate.configuration(cfg, stored, list(overrides))
        fit.configure_process(full)
        model, data = fit.build(full)
        trainer, module = (
            devices.make_trainer(full, RunFolder(path.parent), logger=False),
            fit.lightning_module(model, data, full),
        )
        return results.run_test(trainer, module, data, path)

    return tested


def test_evaluation_from_the_folder_alone_repeats_the_numbers(launch, evaluated):
    folder = launch("a", "trainer.max_epochs=2")
    stored = json.loads(folder.metrics.read_text())["test"]
    assert evaluated(f"run={folder.path}") == stored
    assert evaluated(f"checkpoint={folder.best}") == stored


def test_evaluation_on_other_data_keeps_the_model(launch, evaluated):
    folder = launch("a")
    other = evaluated(
        f"run={folder.path}", "data=speckle", "data.looks=1", "data.num_train=6", "data.num_val=6", "data.num_test=6"
    )
    assert other["psnr"] < json.loads(folder.metrics.read_text())["test"]["psnr"]


def test_data_that_do_not_fit_the_model_are_refused(launch, compose_config):
    folder = launch("a")
    cfg = compose_config(f"run={folder.path}", "data=mnist", "data_dir=x", name="evaluate")
    with pytest.raises(UserError, match=r"data.image_size=32: expected 28"):
        evaluate.configuration(cfg, folder.config(), [])


def test_invalid_and_foreign_checkpoints_are_reported(launch, tmp_path):
    folder = launch("a", "model=vae")
    model, _ = fit.build(resolve_config(folder.config()))
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    with pytest.raises(UserError, match=r"text.ckpt: not a readable checkpoint"):
        checkpoints.load_weights(model, text)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(UserError, match="not a checkpoint of this project, it lacks config, global_step, validation"):
        checkpoints.config_in(foreign)
    other = launch("b", "model=saaae")
    with pytest.raises(UserError, match="a checkpoint of another model"):
        checkpoints.load_weights(model, other.best)


def test_a_malicious_checkpoint_executes_nothing(launch, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil(), "config": Evil()}, path)
    with pytest.raises(UserError):
        checkpoints.config_in(path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_gpu_is_reported(compose_config):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="accelerator.accelerator=gpu: torch sees no GPU here"):
        fit.configure_process(compose_config("accelerator=gpu"))


def test_a_nominal_run_that_exploits_the_map_is_reported(launch):
    folder = launch("a", "posterior.kl=nominal", "beta.value=0.1")
    test = json.loads(folder.metrics.read_text())["test"]
    assert test["uncharged_nats"] > test["kl"]
    assert "warning: " in folder.log.read_text()
    assert "warning: " not in launch("b").log.read_text()


def test_a_failed_checkpoint_write_keeps_the_old_checkpoint(tmp_path):
    from saaae.callbacks.checkpoint import AtomicCheckpointIO

    class Unwritable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"a": torch.ones(3)}, path)
    with pytest.raises(RunFailedError, match=r"last.ckpt: not written \(No space left.*before it is intact"):
        io.save_checkpoint({"a": Unwritable()}, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_monitor_of_a_deterministic_model_is_the_ssim(launch):
    folder = launch("a", "posterior.map=full")
    assert "elbo" not in json.loads(folder.metrics.read_text())["test"]
    with pytest.raises(UserError, match=r"checkpoint.monitor=val/elbo: this model has no KL"):
        launch("b", "posterior.map=full", "checkpoint.monitor=val/elbo")


def test_a_run_that_ends_before_its_first_validation_is_tested(launch):
    folder = launch("a", "trainer.max_steps=2")
    assert json.loads(folder.metrics.read_text())["train"]["steps"] == 2
    assert "before any validation" in folder.log.read_text()


def test_the_nominal_objective_is_labelled(launch):
    assert "NOT an ELBO" in launch("a", "posterior.kl=nominal").log.read_text()
    assert "NOT an ELBO" not in launch("b").log.read_text()


def test_pictures_are_drawn_at_the_chosen_epochs():
    from saaae.callbacks.pictures import ReconstructionPictures

    def epochs(**options):
        pictures = ReconstructionPictures(count=1, **options)
        return [epoch for epoch in range(1, 8) if pictures.wants(epoch)]

    assert epochs(every=3, epochs=[]) == [1, 4, 7]
    assert epochs(every=1, epochs=[1, 6]) == [1, 6]


def test_a_rejected_command_does_not_change_a_finished_run(launch):
    folder = launch("a")
    before = {path: path.read_bytes() for path in (folder.metrics, folder.record, folder.resolved, folder.log)}
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="sees no GPU"):
            launch("a", "trainer.max_epochs=2", "accelerator=gpu")
    with pytest.raises(UserError, match="an epoch has 3 batches"):
        launch("a", "trainer.val_check_interval=1000")
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    "options",
    [["trainer.val_check_interval=2"], ["trainer.accumulate_grad_batches=2"]],
    ids=["validation inside the epoch", "accumulated gradients"],
)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_resume_is_exact_with_less_common_settings(launch, options, steps):
    fixed = [*NARROW, *options]
    straight = launch("straight", *fixed, "trainer.max_epochs=3")
    launch("broken", *fixed, f"trainer.max_steps={steps}")
    resumed = launch("broken", *fixed, "trainer.max_epochs=3")
    for name in ("last", "best"):
        a, b = (torch.load(getattr(f, name), weights_only=True) for f in (straight, resumed))
        assert a["global_step"] == b["global_step"]
        assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])


def test_a_run_with_broken_numbers_fails(launch):
    with pytest.raises(RunFailedError, match="not finite"):
        launch("a", "optimizer.lr=1e30", "optimizer.gradient_clip=null")


def test_speed_is_also_measured_for_a_run_resumed_inside_an_epoch(launch):
    launch("a", "trainer.max_steps=1")
    folder = launch("a")
    assert 0 < json.loads(folder.metrics.read_text())["train"]["images_per_second"] < 20_000


def test_resume_changes_only_the_given_part_of_the_accelerator(launch, compose_config):
    from saaae.runs.run import resumed

    folder = launch("a", "accelerator.memory_format=contiguous")
    cfg = compose_config("accelerator.matmul_precision=high")
    assert resumed(folder, cfg, ["accelerator.matmul_precision=high"]).accelerator.memory_format == "contiguous"
    assert resumed(folder, cfg, ["accelerator=auto"]).accelerator.memory_format == "channels_last"


def test_a_run_older_than_a_setting_is_tested_and_continued(launch, compose_config, evaluated):
    folder = launch("a", "model=vae", "logger=none")
    stored = OmegaConf.load(folder.record)
    del stored.accelerator.compile, stored.checkpoint.every_n_minutes
    OmegaConf.save(stored, folder.record)
    assert evaluated(f"run={folder.path}") == json.loads(folder.metrics.read_text())["test"]
    folder.check_same_config(resolve_config(compose_config(*TINY, "model=vae", "logger=none")))


def test_a_run_of_another_version_is_reported(launch, compose_config):
    folder = launch("a")
    stored = folder.config()
    del stored.data.corruption
    stored.posterior.old_setting = 1
    with pytest.raises(UserError, match=r"data.corruption: missing|posterior.old_setting: no such key"):
        evaluate.configuration(compose_config(f"run={folder.path}", name="evaluate"), stored, [])


def write_images(root, count, level=0):
    import numpy as np
    from PIL import Image

    root.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((32, 32), level + i, np.uint8)).save(root / f"{i}.png")


@pytest.fixture
def on_a_folder(tmp_path):
    """Overrides for a run on a folder of eight images."""
    write_images(tmp_path / "images", 8)
    return ["data=folder", f"data.root={tmp_path / 'images'}", "data.image_size=32", f"cache_dir={tmp_path / 'cache'}"]


def folder_run(compose_config, tmp_path, overrides, *more):
    tiny = [o for o in TINY if not o.startswith("data")]
    cfg = resolve_config(compose_config(*tiny, *overrides, *more))
    folder = RunFolder(tmp_path / "run")
    fit.fit(Run(cfg, folder, [], {"seed": 0}), Interruption())
    return folder


def test_a_run_is_not_continued_on_other_data(compose_config, tmp_path, on_a_folder):
    folder_run(compose_config, tmp_path, on_a_folder)
    write_images(tmp_path / "images", 8, level=1)
    with pytest.raises(UserError, match=r"its data have changed since it began \(0.png is another\); put them back"):
        folder_run(compose_config, tmp_path, on_a_folder, "trainer.max_epochs=2")
    write_images(tmp_path / "images", 8)
    folder_run(compose_config, tmp_path, on_a_folder, "trainer.max_epochs=2")
    write_images(tmp_path / "images", 9)
    with pytest.raises(UserError, match="8.png is new"):
        folder_run(compose_config, tmp_path, on_a_folder, "trainer.max_epochs=3")


def test_a_skipped_file_is_counted_and_reported(compose_config, tmp_path, on_a_folder):
    (tmp_path / "images" / "bad.png").write_text("no image")
    folder = folder_run(compose_config, tmp_path, on_a_folder, "data.on_error=skip")
    assert json.loads(folder.metrics.read_text())["run"]["skipped_files"] == 1
    assert "skipped      bad.png (bad.png: not a readable image" in folder.log.read_text()


def test_the_picture_of_model_inputs_shows_target_and_masks():
    from saaae.types import Batch
    from saaae.visualization.panels import input_rows

    class Source:
        def num_images(self, split):
            return 10

        def batch(self, split, indices, device="cpu"):
            x = torch.zeros(len(indices), 1, 8, 8)
            mask = None if split == "train" else (indices % 3 == 0).to(torch.uint8)[:, None, None, None].expand_as(x)
            return Batch(x, x + 1, indices, None, clean=x + 2, mask=mask)

    rows = {row.label: row.images for row in input_rows(Source(), 2)}
    assert list(rows) == ["input", "target", "clean reference", "test input", "test mask"]
    assert rows["test mask"].min() == 1
    assert len(rows["input"]) == len(rows["test mask"]) == 2


def test_a_conditional_model_shows_its_classes_latent_plane_and_class_vectors(compose_config, tmp_path):
    write_archives(tmp_path / "mnist")
    tiny = [o for o in TINY if not o.startswith("data")]
    cfg = resolve_config(
        compose_config(*tiny, "model=cvae_embedding", "data=mnist", f"data.root={tmp_path / 'mnist'}", "data.num_val=5")
    )
    folder = RunFolder(tmp_path / "run")
    fit.fit(Run(cfg, folder, [], {"seed": 0}), Interruption())
    assert {"classes.png", "plane.png", "prior.png"} <= {path.name for path in folder.pictures.iterdir()}
    vectors = next(folder.path.glob("*/classes/tensors.tsv")).read_text().splitlines()
    assert [len(line.split("\t")) for line in vectors] == [cfg.model.label_encoder.size] * 10


def poison(monkeypatch, steps, what="target"):
    """Inserts a NaN into the training batches of the given steps."""
    from saaae.data.speckle import SpeckleData

    real, seen = SpeckleData.present, []

    def present(self, raw, rng):
        batch = real(self, raw, rng)
        if self.trainer is not None and self.trainer.training:
            seen.append(len(seen))
            if seen[-1] in steps:
                broken = getattr(batch, what).clone()
                broken[1] = float("nan")
                batch = batch._replace(**{what: broken})
        return batch

    monkeypatch.setattr(SpeckleData, "present", present)


@pytest.mark.parametrize(
    ("what", "terms"), [("target", "loss, nll, gradient norm"), ("input", "loss, nll, kl, gradient norm")]
)
def test_non_finite_numbers_stop_the_run_and_are_reported(launch, monkeypatch, what, terms):
    good = launch("good", *NARROW, "trainer.max_steps=3")
    poison(monkeypatch, {3}, what)
    with pytest.raises(RunFailedError, match=rf"step 4: {terms} not finite; training images \d+, \d+, \d+, \d+; no"):
        launch("x", *NARROW)
    kept = RunFolder(good.path.parent / "x")
    assert torch.load(kept.last, weights_only=True)["global_step"] == 3
    assert all(torch.equal(weights(good)[key], value) for key, value in weights(kept).items())


@pytest.mark.parametrize("part", ["likelihood=gaussian", "beta=target_kl", "likelihood.sigma=learned"])
def test_a_non_finite_step_is_skipped_if_configured(launch, monkeypatch, part):
    before = launch("before", *NARROW, part, "trainer.max_steps=3")
    poison(monkeypatch, {3}, "input")
    after = launch("after", *NARROW, part, "trainer.max_steps=4", "on_nonfinite=skip")
    assert "warning: step 4: loss, nll, kl, gradient norm not finite" in after.log.read_text()
    a, b = weights(before), weights(after)
    assert [key for key in a if "num_batches" not in key and not torch.equal(a[key], b[key])] == []
    monkeypatch.undo()
    poison(monkeypatch, {1}, "input")
    whole = launch("whole", *NARROW, part, "on_nonfinite=skip")
    assert json.loads(whole.metrics.read_text())["test"]["psnr"] > 5


def test_a_non_finite_step_of_accumulated_batches_is_reported_and_skipped_once(launch, monkeypatch):
    poison(monkeypatch, {1}, "input")
    words = ["trainer.accumulate_grad_batches=2", "data.num_train=24", "on_nonfinite=skip"]
    folder = launch("x", *NARROW, *words)
    warnings = [line for line in folder.log.read_text().splitlines() if "not finite" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: step 1: loss, nll, kl, gradient norm not finite; training images ")
    assert warnings[0].count(", ") == 3 + 7  # terms, and the eight images of both batches
    assert warnings[0].endswith("; the step is left out")


def test_a_non_finite_validation_ends_the_run(launch):
    with pytest.raises(RunFailedError, match=r"epoch 1: val/.* not finite"):
        launch("x", "model=vae", "data.batch_size=12", "optimizer.lr=1e30", "optimizer.gradient_clip=null")


def test_a_run_of_only_non_finite_steps_ends(launch, monkeypatch):
    poison(monkeypatch, range(1000))
    with pytest.raises(RunFailedError, match="not finite.*like the 50 steps before it"):
        launch("x", *NARROW, "trainer.max_epochs=20", "on_nonfinite=skip")


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(launch):
    straight = launch("straight", *NARROW, "trainer.max_epochs=2")
    folder = launch("x", *NARROW, "trainer.max_epochs=2", "trainer.max_steps=7")
    content = bytearray(folder.last.read_bytes())
    content[len(content) // 2] ^= 0xFF  # one byte of a weight: the file still opens
    folder.last.write_bytes(content)
    launch("x", *NARROW, "trainer.max_epochs=2")
    told = folder.log.read_text()
    assert "last.ckpt: damaged (" in told
    assert "continued from step 6" in told
    assert all(torch.equal(weights(straight)[key], value) for key, value in weights(folder).items())

    for path in (folder.last, folder.previous):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"last.ckpt: not a readable checkpoint.*no older one is intact; remove"):
        launch("x", *NARROW, "trainer.max_epochs=3")


def test_a_step_that_is_left_out_leaves_averaged_runs_exact_too(launch, monkeypatch):
    words = [*NARROW, "ema=0.9", "on_nonfinite=skip", "trainer.max_epochs=2"]
    poison(monkeypatch, {3}, "input")
    straight = launch("straight", *words)
    assert "step 4: loss, nll, kl, gradient norm not finite" in straight.log.read_text()
    monkeypatch.undo()
    poison(monkeypatch, {3}, "input")
    launch("broken", *words, "trainer.max_steps=6")
    monkeypatch.undo()
    resumed = launch("broken", *words)
    a, b = weights(straight), weights(resumed)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert all(value.isfinite().all() for value in a.values())


def test_averaged_weights_are_what_is_validated_and_tested(launch, evaluated):
    folder = launch("a", "model=vae", "ema=0.99", "trainer.max_epochs=2", "logger=none")
    best, last = (torch.load(path, weights_only=True) for path in (folder.best, folder.last))
    assert best["global_step"] == last["global_step"]
    assert all(torch.equal(best["state_dict"][key], last["state_dict"][key]) for key in best["state_dict"])
    assert "training_weights" not in best
    stored = json.loads(folder.metrics.read_text())
    assert evaluated(f"run={folder.path}") == stored["test"]
    assert evaluated(f"run={folder.path}", "checkpoint=last") == stored["test"]
    told = folder.log.read_text()
    assert "ema          averaged weights, decay 0.99: validated, tested, and saved in best.ckpt" in told
    assert ", averaged weights, ema=0.99)" in told
    plain = launch("b", "model=vae", "trainer.max_epochs=2", "logger=none")
    ends = last["training_weights"], weights(plain)
    assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items())  # training is left alone
    assert stored["validation"] != json.loads(plain.metrics.read_text())["validation"]


def test_a_run_that_ends_before_its_first_validation_tests_its_average(launch):
    folder = launch("a", *NARROW, "ema=0.9", "trainer.max_steps=2", "trainer.limit_val_batches=1", "data.num_train=40")
    best, last = (torch.load(path, weights_only=True)["state_dict"] for path in (folder.best, folder.last))
    assert all(torch.equal(best[key], last[key]) for key in best)


def test_a_damaged_best_checkpoint_is_skipped(launch):
    folder = launch("x", *NARROW)
    folder.best.write_text("broken")
    launch("x", *NARROW, "trainer.max_epochs=2")
    assert "best.ckpt: not a readable checkpoint" in folder.log.read_text()
    assert torch.load(folder.best, weights_only=True)["global_step"] == 10


def test_checkpoints_can_be_saved_by_time(launch, monkeypatch):
    from saaae.callbacks import checkpoint

    saved, clock = [], iter(range(0, 10_000, 30))
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    real = checkpoint.AtomicCheckpointIO.save_checkpoint

    def save(self, content, path, storage_options=None):
        saved.append((path.name, content["global_step"]))
        real(self, content, path, storage_options)

    monkeypatch.setattr(checkpoint.AtomicCheckpointIO, "save_checkpoint", save)
    launch("x", "model=vae", "data.num_train=40", "checkpoint.every_n_minutes=1.5")
    assert [step for name, step in saved if name == "last.ckpt"] == [3, 6, 9, 10]


def test_a_checkpoint_contains_the_configuration_of_its_run(launch):
    folder = launch("x")
    told = torch.load(folder.best, weights_only=True)["run"]
    assert told | {"tested_images": 6} == json.loads(folder.metrics.read_text())["run"]
    assert {"config_hash", "split_hash", "seed", "threads", "commit", "dirty", "versions", "device"} <= set(told)


def test_deterministic_runs_are_reproducible_and_report_what_prevents_them(launch, monkeypatch):
    words = ["deterministic=true", "model=vae"]
    a, b = launch("a", *words), launch("b", *words)
    assert all(torch.equal(weights(a)[key], value) for key, value in weights(b).items())
    from saaae.models.lightning import AutoencoderModule

    def step(self, batch, batch_idx):
        raise RuntimeError("histc_cuda does not have a deterministic implementation, but you set ...")

    monkeypatch.setattr(AutoencoderModule, "training_step", step)
    with pytest.raises(UserError, match="deterministic=true: histc_cuda does not have a deterministic"):
        launch("c", *words)
    torch.use_deterministic_algorithms(False)


def test_radar_images_have_radar_metrics(launch):
    stored = json.loads(launch("a", "model=vae", "logger=none").metrics.read_text())
    assert {"ratio_mean", "ratio_variance", "enl", "enl_observed", "moi", "epi"} <= set(stored["test"])
    assert set(stored["definitions"]) == set(stored["test"])
    assert stored["definitions"]["enl"]["unit"] == "looks"


def test_fabric_has_detection_metrics(compose_config, tmp_path):
    from tests.data.test_aitex import write_fabric

    root = write_fabric(tmp_path / "aitex")
    words = ["model=aitex_vae", *SMALL["aitex_vae"], "data=aitex", f"data.root={root}", "data.image_size=32"]
    tiny = [o for o in TINY if not o.startswith(("data", "model"))]
    cfg = resolve_config(
        compose_config(*tiny, *words, "data.batch_size=8", f"cache_dir={tmp_path / 'cache'}", "logger=none")
    )
    folder = RunFolder(tmp_path / "run")
    fit.fit(Run(cfg, folder, [], {"seed": 0}), Interruption())
    stored = json.loads(folder.metrics.read_text())
    assert stored["test"]["tile_auroc"] == stored["detection"]["tile"]["auroc"]
    assert 0 <= stored["test"]["pixel_ap"] <= 1
    assert (folder.pictures / "defects.png").is_file()
    assert "defects      tile AUROC" in folder.log.read_text()


def test_a_failed_picture_does_not_affect_the_metrics(launch, monkeypatch):
    from saaae.callbacks import pictures
    from saaae.visualization import figures

    def broken(*arguments):
        raise ValueError("no such colour")

    monkeypatch.setattr(pictures, "input_rows", broken)
    for module in (pictures, figures):
        monkeypatch.setattr(module, "epoch_picture", broken)
    folder = launch("a", "model=vae", "logger=none")
    assert json.loads(folder.metrics.read_text())["test"]["ssim"]
    told = folder.log.read_text()
    assert "warning: no picture of epoch 1, because of an error of this program:" in told
    assert "no such colour" in told
    assert not (folder.path / "reconstructions.png").exists()


def test_another_number_of_pictures_starts_a_new_epoch_strip(launch):
    two = ["model=vae", "logger=none", "trainer.max_epochs=2"]
    launch("a", *two, "pictures.count=3", "trainer.max_steps=3")
    folder = launch("a", *two, "pictures.count=2")
    assert "warning" not in folder.log.read_text().replace("warning: collapsed", "")
    assert (folder.pictures / "epochs.png").is_file()
