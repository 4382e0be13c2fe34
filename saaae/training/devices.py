"""Devices, processes and network precision of a run, and its Trainer."""

import os
import sys
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from omegaconf import DictConfig

from saaae.callbacks.checkpoint import AtomicCheckpointIO
from saaae.errors import UserError
from saaae.models.autoencoder import ImageAutoencoder
from saaae.networks.execution import compute_in, keep_stage_inputs_only
from saaae.runs.folder import RunFolder
from saaae.training.distributed import rank

NETWORK_PRECISIONS = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Precisions of the networks' weights, which Lightning would also impose on posterior, likelihood and metrics."""


def check_devices(accelerator: DictConfig) -> None:
    """Checks the requested devices against those of this machine.

    Raises:
        UserError: If there are not as many, or they cannot compute in the precision.
    """
    kind, devices, gpus = accelerator.accelerator, accelerator.devices, torch.cuda.device_count()
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("accelerator.accelerator=mps: MPS is not available; expected cpu, gpu or auto")
    if kind == "gpu" and not gpus:
        raise UserError(
            f"accelerator.accelerator={kind}: torch sees no GPU here; expected accelerator=cpu, ddp_cpu or auto"
        )
    if kind == "gpu" and isinstance(devices, int) and devices > gpus:
        raise UserError(
            f"accelerator.devices={devices}: torch sees {gpus} GPUs here; expected at most so many, or auto"
        )
    if accelerator.precision == "16-mixed" and not gpus:
        raise UserError("accelerator.precision=16-mixed: needs a GPU; on a CPU use bf16-mixed or 32-true")
    cores = os.cpu_count() or 1
    if kind == "cpu" and devices > cores and rank() == 0:
        print(f"warning: accelerator.devices={devices}: more processes than the {cores} CPU cores", file=sys.stderr)


def num_processes(accelerator: DictConfig) -> int:
    """Processes of a run, over all machines."""
    devices = accelerator.devices
    if devices == "auto":
        devices = torch.cuda.device_count() or 1
    return devices * accelerator.num_nodes


def prepare_networks(model: ImageAutoencoder, accelerator: DictConfig) -> None:
    """Puts a fresh model's networks into the configured memory format, precision and checkpointing.

    Raises:
        UserError: If the model cannot be sharded, and is to be.
    """
    if accelerator.strategy == "fsdp":
        _check_shardable(model)
    if accelerator.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)
    for network in model.networks:
        if accelerator.precision in NETWORK_PRECISIONS:
            compute_in(network, NETWORK_PRECISIONS[accelerator.precision])
        if accelerator.activation_checkpointing:
            keep_stage_inputs_only(network)
        if accelerator.compile:
            network.compile()  # in place: the names of its weights stay


def _check_shardable(model: ImageAutoencoder) -> None:
    """FSDP2 cannot shard them.

    Raises:
        UserError: If the model learns one.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise UserError(
                f"accelerator.strategy=fsdp: {name} is a single number, which cannot be sharded; expected ddp"
            )


def make_trainer(cfg: DictConfig, folder: RunFolder, whole: bool = False, **arguments: Any) -> L.Trainer:
    """A Trainer on the configured device that writes checkpoints atomically and nothing elsewhere.

    Args:
        cfg: Settled configuration.
        folder: The run folder.
        whole: Whether each process has the whole model, also where training shards it.
        **arguments: Of the Trainer.
    """
    accelerator = cfg.accelerator
    strategy = accelerator.strategy
    if strategy == "fsdp":
        sharded = ModelParallelStrategy(num_processes(accelerator), 1, save_distributed_checkpoint=False)
        strategy = "ddp" if whole else sharded
    return L.Trainer(
        accelerator=accelerator.accelerator,
        devices=accelerator.devices,
        num_nodes=accelerator.num_nodes,
        strategy=strategy,
        precision="32-true" if accelerator.precision in NETWORK_PRECISIONS else accelerator.precision,
        default_root_dir=str(folder.path),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        **arguments,
    )
