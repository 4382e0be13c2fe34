"""Types and ranges of the settings that belong to no class of ours."""

from typing import Annotated, Any, Literal

from annotated_types import Ge

from saaae.ranges import NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt

BatchLimit = PositiveInt | PositiveFraction | None
OrUnlimited = Annotated[int, Ge(-1)]


class Train:
    """Settings at the root of train.yaml."""

    name: str | None
    seed: NonNegativeInt
    data_dir: str
    resume: str | None
    threads: PositiveInt | None
    deterministic: bool
    keep_freed_memory: bool


class Evaluate:
    """Settings at the root of evaluate.yaml."""

    run: str | None
    checkpoint: str
    seed: NonNegativeInt | None
    data_dir: str | None
    threads: PositiveInt | None
    limit_batches: BatchLimit


class Trainer:
    """The arguments of lightning.Trainer that a user may set."""

    max_epochs: OrUnlimited | None
    max_steps: OrUnlimited
    max_time: str | None
    min_epochs: PositiveInt | None
    min_steps: PositiveInt | None
    limit_train_batches: BatchLimit
    limit_val_batches: BatchLimit
    limit_test_batches: BatchLimit
    overfit_batches: NonNegativeInt | NonNegativeFloat
    val_check_interval: PositiveInt | PositiveFraction | None
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: OrUnlimited
    log_every_n_steps: PositiveInt
    accumulate_grad_batches: PositiveInt
    enable_progress_bar: bool
    enable_model_summary: bool
    detect_anomaly: bool
    profiler: Literal["simple", "advanced"] | None


class Accelerator:
    """Where and in which precision a run computes."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Literal[1]
    strategy: Literal["auto"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    memory_format: Literal["channels_last", "contiguous"]
    matmul_precision: Literal["highest", "high", "medium"]


class Checkpoint:
    """When checkpoints are written, and which is best."""

    every_n_steps: PositiveInt | None
    monitor: Literal["val/elbo", "val/ssim", "val/psnr", "val/mse", "val/ssim_clean", "val/psnr_clean"] | None


class Pictures:
    """Pictures in TensorBoard."""

    every: PositiveInt
    epochs: list[PositiveInt]
    count: PositiveInt


NODES: dict[str, Any] = {
    "trainer": Trainer,
    "accelerator": Accelerator,
    "checkpoint": Checkpoint,
    "pictures": Pictures,
}

OWNERS = {
    "epochs": "trainer.max_epochs",
    "trainer.accelerator": "accelerator=",
    "trainer.devices": "accelerator.devices",
    "trainer.num_nodes": "accelerator=",
    "trainer.strategy": "accelerator.strategy",
    "trainer.precision": "accelerator.precision",
    "trainer.gradient_clip_val": "optimizer.gradient_clip",
    "trainer.gradient_clip_algorithm": "optimizer.gradient_clip",
    "trainer.deterministic": "deterministic",
    "trainer.enable_checkpointing": "checkpoint.every_n_steps",
    "trainer.default_root_dir": "name",
    "trainer.callbacks": "callbacks=",
    "trainer.logger": "logger=",
}
"""Words that belong to another key, above all arguments of lightning.Trainer."""
