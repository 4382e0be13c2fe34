"""Tests a trained model and writes its results."""

import logging
import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from saaae.atomic import write_json
from saaae.callbacks.metrics_csv import MetricsCSV
from saaae.callbacks.throughput import Throughput
from saaae.data.datamodule import ImageDataModule
from saaae.errors import RunFailedError, UserError, warn_on_failure
from saaae.evaluation.deletion import deletion_test
from saaae.evaluation.detection import detection, detection_scores
from saaae.evaluation.disentanglement import disentanglement
from saaae.evaluation.exports import save_examples
from saaae.metrics.catalog import definitions, names
from saaae.models.autoencoder import ImageAutoencoder, evaluating
from saaae.models.lightning import AutoencoderModule
from saaae.runs.checkpoints import load_weights
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run
from saaae.visualization.figures import final_pictures, show
from saaae.visualization.mosaic import save_picture

log = logging.getLogger("saaae")


def run_test(
    trainer: L.Trainer, module: AutoencoderModule, data: ImageDataModule, checkpoint: Path
) -> dict[str, float]:
    """Test metrics of a checkpoint, by bare name.

    Raises:
        UserError: If the checkpoint is of another model or damaged.
    """
    load_weights(module.model, checkpoint)
    results = trainer.test(module, datamodule=data, verbose=False)[0]
    module.to(trainer.strategy.root_device)  # Lightning has taken it to the CPU, and there is more to ask
    return {name.removeprefix("test/"): value for name, value in results.items()}


def training_record(trainer: L.Trainer, throughput: Throughput) -> dict[str, float]:
    """Speed, length and memory of the training."""
    return {
        "images_per_second": throughput.images_per_second,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "peak_memory_mb": peak_memory_mb(),
    }


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far; on a GPU the largest allocated there."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def known_kl(module: AutoencoderModule) -> Tensor | None:
    """Mean KL of each latent value (D,) in nats over the test; None where it is not a sum over them."""
    # Computed in the test: asks no other process.
    kl: Tensor | None = module.latent_statistics.compute()["kl"] if module.model.is_variational else None
    return kl if kl is not None and kl.any() else None


def draw(
    module: AutoencoderModule,
    data: ImageDataModule,
    folder: RunFolder,
    title: str,
    count: int,
    trainer: L.Trainer | None = None,
) -> None:
    """Saves the pictures of a tested model as PNG files and, given a trainer, in its TensorBoard.

    Args:
        module: The tested model, with the latent statistics of the test.
        data: Its data.
        folder: Gets them.
        title: The run, for the titles.
        count: Number of test images.
        trainer: Whose loggers show the pictures too.
    """
    with warn_on_failure("further pictures"):
        for name, picture in final_pictures(module.model, data, known_kl(module), title, count):
            save_picture(folder.picture(name), picture)
            if trainer:
                show(trainer, f"final/{name}", picture, trainer.global_step)


def project(model: ImageAutoencoder, class_names: Sequence[str] | None, trainer: L.Trainer) -> None:
    """Adds the class embeddings to TensorBoard's projector, with the image of each class at the prior's mean."""
    vectors = model.class_vectors
    if vectors is None:
        return
    names = list(class_names or map(str, range(len(vectors))))
    with evaluating(model):
        z = model.prior.mean(torch.empty(len(vectors), *model.latent_shape, device=model.device))
        images = model.generate(z, torch.arange(len(vectors), device=model.device)).cpu()
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_embedding(vectors, names, images, trainer.global_step, "classes")


def is_whole(limit: int | float | None) -> bool:
    """Whether a limit of test batches leaves all of them; the integer 1 leaves one."""
    return limit is None or (isinstance(limit, float) and limit == 1.0)


def tested_images(data: ImageDataModule, limit: int | float | None, processes: int) -> int:
    """How many of the test images a limit of test batches leaves.

    Args:
        data: The loaded data.
        limit: Number of batches of each process, or a share of them; None for no limit.
        processes: Number of processes that share the images.

    Raises:
        UserError: If it leaves none.
    """
    size, step = data.num_images("test"), data.batch_size * processes
    batches = math.ceil(size / step)
    used = batches if is_whole(limit) or limit is None else int(limit * batches) if isinstance(limit, float) else limit
    if not used:
        raise UserError(f"limit_batches={limit}: leaves none of {batches} batches; expected more")
    return min(size, used * step)


def extra_evaluations(
    module: AutoencoderModule, data: ImageDataModule, test: dict[str, float], whole: bool
) -> dict[str, Any]:
    """The test metrics, as `test`, and the further evaluations of a trained model, each under its own name.

    Args:
        module: The model.
        data: Its data.
        test: Test metrics, by bare name.
        whole: Whether the test was one of all test images; else nothing that takes all of them is asked.
    """
    results: dict[str, Any] = {"test": test}
    with warn_on_failure("deletion test"):
        model = module.model
        if hidden := deletion_test(model, data, model.anchor):
            results["deletion"] = hidden
        if len(model.latent_shape) == 3 and (hidden := deletion_test(model, data, model.importance)):
            results["deletion_kl"] = hidden
    with warn_on_failure("detection of defects"):
        if whole and (found := detection(module.model, data, module.latents)):
            results |= {"test": test | detection_scores(found), "detection": found}
    with warn_on_failure("disentanglement"):
        if whole and (scores := disentanglement(module.model, data)):
            means = {name: fmean(values) for name, values in scores.items() if name != "factors"}
            results |= {"test": results["test"] | means, "disentanglement": scores}
    return results


def report(
    run: Run,
    trainer: L.Trainer,
    module: AutoencoderModule,
    data: ImageDataModule,
    test: dict[str, float],
    validation: dict[str, float],
    throughput: Throughput,
) -> dict[str, Any]:
    """Writes the results of a run; metrics.json last, which marks it as finished.

    Args:
        run: The run.
        trainer: Its Trainer.
        module: Its tested model.
        data: Its data.
        test: Test metrics of best.ckpt, by bare name.
        validation: Validation metrics of best.ckpt, by logged name.
        throughput: Measured speed of the training.

    Returns:
        The content of metrics.json.

    Raises:
        RunFailedError: If the test is not finite.
    """
    folder, count = run.folder, run.cfg.pictures.count
    if broken := [name for name, value in test.items() if not math.isfinite(value)]:
        raise RunFailedError(f"{folder.label}: test {', '.join(broken)} not finite; a lower optimizer.lr may help")
    results = extra_evaluations(module, data, test, is_whole(trainer.limit_test_batches))
    test = results["test"]
    final = {f"hp/{name}": test[name] for name in names("hparam") if name in test}
    log_hyperparameters(trainer.loggers, run.tags, final, trainer.global_step)
    draw(module, data, folder, str(folder.label), count, trainer)
    with warn_on_failure("examples"):
        save_examples(module.model, data, count, folder.examples)
        project(module.model, data.class_names, trainer)
    tested = tested_images(data, trainer.limit_test_batches, trainer.world_size)
    record = {**module.run_record, "tested_images": tested}
    results |= {"validation": validation, "train": training_record(trainer, throughput), "run": record}
    write_json(folder.metrics, results | {"definitions": definitions(test)})
    return results


def log_hyperparameters(loggers: list[Logger], params: dict[str, Any], final: dict[str, float], step: int) -> None:
    """Writes the settings of a run and its final metrics to every logger."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(params, final, step=step)
        elif not isinstance(logger, MetricsCSV):  # metrics.json and config.yaml hold both
            logger.log_hyperparams(params)
            logger.log_metrics(final, step)
            logger.save()
