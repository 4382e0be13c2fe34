"""Types and ranges of the settings that belong to no class of ours.

A setting that came later has here the value that runs had before: configurations of older runs are completed with it.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt
from pydantic import Field

from saaae.metrics.catalog import names
from saaae.ranges import (
    Folder,
    ImageSize,
    Length,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Runtime,
)

BatchLimit = PositiveInt | PositiveFraction | None

Monitor: Any = Literal[tuple(f"val/{name}" for name in names("chooses"))]

Objective: Any = Literal[tuple(f"val/{name}" for name in names("objective"))]

OrUnlimited = Literal[-1] | PositiveInt

Threads = Annotated[int, Ge(1), Le(1024)]
"""More than the CPUs of any machine; tens of thousands end the process without a message."""

Seed = Annotated[int, Ge(0), Lt(2**32)]


Stage = tuple[ImageSize, PositiveInt]
"""Image size and epochs of a stage of a run that grows."""


class Train:
    """Settings at the root of train.yaml."""

    name: Runtime[str | None]
    seed: Seed
    data_dir: Runtime[Folder]
    cache_dir: Runtime[Folder | None]
    resume: Runtime[str | None]
    trust: Runtime[list[str]] = []  # noqa: RUF012
    threads: Threads | None
    importance_samples: NonNegativeInt
    on_nonfinite: Runtime[Literal["stop", "skip"]]
    deterministic: bool
    keep_freed_memory: Runtime[bool]
    objective: Runtime[Objective | list[Objective] | None] = None
    init_from: Folder | None = None
    freeze: list[str] = []  # noqa: RUF012
    ema: OpenFraction | None = None
    stages: list[Stage] = []  # noqa: RUF012


class Evaluate:
    """Settings at the root of evaluate.yaml."""

    run: str | list[str] | None
    baseline: PositiveInt | None
    checkpoint: str
    data_dir: str | None
    cache_dir: str | None
    trust: list[str]
    threads: Threads | None
    importance_samples: NonNegativeInt | None
    samples: Literal["mean", "sample"]
    code_steps: list[Annotated[float, Ge(0.001), Le(1000)]]
    save_arrays: PositiveInt | None
    traversals: PositiveInt | list[NonNegativeInt] | None
    generate: PositiveInt | None
    seed: Seed | None
    limit_batches: BatchLimit


Evaluate.__annotations__["class"] = NonNegativeInt | str | None  # a word of Python's own


class Trainer:
    """The arguments of lightning.Trainer that a user may set."""

    max_epochs: Length[OrUnlimited | None]
    max_steps: Length[OrUnlimited]
    max_time: Length[Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None]  # days:hours:minutes:seconds
    min_epochs: PositiveInt | None
    min_steps: PositiveInt | None
    limit_train_batches: BatchLimit
    limit_val_batches: BatchLimit
    limit_test_batches: BatchLimit
    val_check_interval: PositiveInt | PositiveFraction | None
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: Annotated[int, Ge(-1)]
    log_every_n_steps: PositiveInt
    accumulate_grad_batches: PositiveInt
    enable_progress_bar: Runtime[bool]
    enable_model_summary: Runtime[bool]
    detect_anomaly: bool
    profiler: Literal["simple", "advanced"] | None


class Accelerator:
    """Where and in which precision a run computes."""

    accelerator: Runtime[Literal["auto", "cpu", "gpu", "mps"]]
    devices: Runtime[PositiveInt | Literal["auto"]]
    num_nodes: Runtime[PositiveInt] = 1
    strategy: Runtime[Literal["auto", "ddp", "fsdp"]]
    precision: Runtime[Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"]]
    memory_format: Runtime[Literal["channels_last", "contiguous"]]
    matmul_precision: Runtime[Literal["highest", "high", "medium"]]
    compile: Runtime[bool] = False
    activation_checkpointing: Runtime[bool] = False


class Checkpoint:
    """When checkpoints are written, and which is best."""

    every_n_steps: PositiveInt | None
    every_n_minutes: PositiveFloat | None = None
    monitor: Monitor | None


class Pictures:
    """Pictures in TensorBoard."""

    every: Runtime[PositiveInt | None]
    epochs: Runtime[list[PositiveInt]]
    count: Runtime[PositiveInt]


NODES: dict[str, Any] = {
    "trainer": Trainer,
    "accelerator": Accelerator,
    "checkpoint": Checkpoint,
    "pictures": Pictures,
}

OWNERS = {
    "attention.allow_large": "attention.layer.allow_large",
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
    "trainer.overfit_batches": "trainer.limit_train_batches",
    "trainer.ckpt_path": "resume=",
    "trainer.fast_dev_run": "trainer.max_steps=1",
    "trainer.limit_predict_batches": "trainer.limit_test_batches",
    "trainer.inference_mode": "its default",
    "trainer.use_distributed_sampler": "accelerator=",
    "trainer.benchmark": "accelerator=",
    "trainer.barebones": "trainer.enable_progress_bar, logger=none and callbacks=none",
    "trainer.plugins": "accelerator=",
    "trainer.sync_batchnorm": "accelerator=",
    "trainer.reload_dataloaders_every_n_epochs": "data=",
    "trainer.model_registry": "name",
    "trainer.enable_autolog_hparams": "logger=",
}
"""Words that belong to another key, above all arguments of lightning.Trainer."""
