"""The run folder: where it is, what it holds, whether it may be continued."""

import hashlib
import json
import math
import random
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from saaae.atomic import replacing
from saaae.errors import UserError, nearest, reading
from saaae.runs.validate import complete

OUTPUTS = Path("outputs")
FREE = ("name", "objective", "resume", "trust",
        "data_dir", "cache_dir", "data.num_workers", "data.resident", "data.cache_gb", "data.allow_duplicates",
        "accelerator", "on_nonfinite", "pictures", "keep_freed_memory",
        "trainer.enable_progress_bar", "trainer.enable_model_summary")  # fmt: skip
"""Settings that say where a run computes and what it displays, not what it computes."""
LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")


@cache
def stamp() -> str:
    """Time and chance, the same all through this process: unique even for launches in the same second."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{random.SystemRandom().randrange(16**6):06x}"


def run_folder(name: str | None, resume: str | None, default: str) -> str:
    """Folder of a single run."""
    return str(Path(resume) if resume else OUTPUTS / name if name else OUTPUTS / default / stamp())


def sweep_folder(name: str | None) -> str:
    """Folder of a multirun."""
    return str(OUTPUTS / (name or f"sweep-{stamp()}"))


def job_folder(swept: str, overrides: ListConfig | list[str]) -> str:
    """Folder of a job: what is swept in it, shortened, and a hash of everything it was told.

    Args:
        swept: Overrides that differ between the jobs, `key=value,key=value`.
        overrides: All overrides of the job.
    """
    told = sorted(str(o) for o in overrides if not is_free(key_of(str(o))))
    pairs = (part.partition("=") for part in swept.split(","))
    short = ",".join(key.split(".")[-1] + equals + value for key, equals, value in pairs)
    short = re.sub(r"[^\w.=,+-]", "", short)[:80]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
    return f"{short}-{digest}".lstrip("-")


def gpus_of(accelerator: str, devices: int | str) -> int | None:
    """GPUs that a cluster is asked for on each machine of a run; None for none.

    Raises:
        UserError: If nobody has said how many.
    """
    if accelerator in ("cpu", "mps"):
        return None
    if not isinstance(devices, int):
        raise UserError(f"accelerator.devices={devices}: a cluster must be told how many; expected a number")
    return devices


def register_resolvers() -> None:
    """Makes the functions that the configuration calls known to OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("last", lambda values: values[-1] if values else None, replace=True)
    OmegaConf.register_new_resolver("gpus_of", gpus_of, replace=True)
    OmegaConf.register_new_resolver(
        "if_small", lambda size, small, large: small if isinstance(size, int) and size <= 32 else large, replace=True
    )


def key_of(override: str) -> str:
    """The group or key that a typed override is about."""
    return override.lstrip("+~").partition("=")[0]


def is_free(key: str) -> bool:
    """Whether a setting leaves the numbers of a run alone."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def tells_apart(key: str) -> bool:
    """Whether runs that differ in a setting are different experiments: a run may go on in another precision, too."""
    return key == "accelerator.precision" or not is_free(key)


def plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Plain nested dictionaries of a configuration."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """Dotted leaves of a configuration that define its numbers, interpolations as written."""
    return {key: value for key, value in _leaves(plain(cfg)) if not is_free(key)}


def _leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a key may have dots of its own, such as a file's name."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def config_hash(cfg: DictConfig) -> str:
    """Digest of all settings but the free ones and the length of the run."""
    leaves = {key: value for key, value in settings_of(cfg).items() if key not in LENGTH}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()[:16]


def quoted(path: Path) -> str:
    """A path as a value on the command line: Hydra reads `=` and `,` as its own unless quoted."""
    return f'"{in_quotes(str(path))}"' if set("=,") & set(str(path)) else str(path)


def in_quotes(text: str) -> str:
    """A text as Hydra's grammar takes it, whatever signs it holds."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old or the new text, never a part."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON atomically; a number that is not finite becomes null."""
    write_atomically(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Content of a JSON file of a run folder.

    Args:
        path: The file.
        *keys: Entries that it must have.

    Raises:
        UserError: If the file is damaged or lacks one of them.
    """
    with reading(path):
        content = json.loads(path.read_text())
        _check_entries(content, keys)
    return content


def _check_entries(content: Any, keys: Iterable[str]) -> None:
    """Raises ValueError if `content` is not a mapping with these keys."""
    if not isinstance(content, dict | DictConfig):
        raise ValueError("expected a mapping")
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"it lacks {', '.join(missing)}")


class RunFolder:
    """A run folder and the names of what it holds.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record = self.path / ".hydra" / "config.yaml"  # interpolations as written
        self.resolved = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.last, self.best = self.checkpoints / "last.ckpt", self.checkpoints / "best.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.metrics = self.path / "metrics.json"
        self.status = self.path / "status.json"
        self.owner = self.path / ".owner"  # the process at work; absent where there is none
        self.splits = self.path / "splits.json"
        self.log = self.path / "train.log"
        self.pictures = self.path / "pictures"
        self.curves = self.path / "metrics.csv"
        self.examples = self.path / "reconstructions.npz"

    def picture(self, name: str) -> Path:
        """Where a picture of the trained model is."""
        return (self.path if name == "reconstructions" else self.pictures) / f"{name}.png"

    def config(self) -> DictConfig:
        """The configuration that the run was started with.

        Raises:
            UserError: If the folder is missing or not a run folder, or the file is damaged.
        """
        if not self.path.is_dir():
            siblings = [str(path.parent.parent) for path in OUTPUTS.glob("**/.hydra/config.yaml")]
            raise UserError(f"{self.path}: no such run folder{nearest(str(self.path), siblings)}")
        if not self.record.is_file() and self.owner.is_file():
            raise UserError(
                f"{self.path}: no checkpoint yet, the run is starting (or was killed while it started); "
                "try again after its first epoch"
            )
        if not self.record.is_file():
            raise UserError(f"{self.path}: not a run folder, it has no .hydra/config.yaml")
        with reading(self.record):
            cfg = OmegaConf.load(self.record)
            _check_entries(cfg, [])
        assert isinstance(cfg, DictConfig)
        return complete(cfg)

    def full_config(self) -> DictConfig:
        """Likewise, with every group that is needed to build the model and its data.

        Raises:
            UserError: If the folder is missing or not a run folder, or the file is damaged or incomplete.
        """
        cfg = self.config()
        with reading(self.record):
            _check_entries(cfg, ("model", "data", "trainer"))
        return cfg

    def write_record(self, cfg: DictConfig, overrides: list[str], told: dict[str, Any]) -> None:
        """Stores the configuration as written and resolved, the overrides, and what they chose."""
        write_atomically(self.record, OmegaConf.to_yaml(cfg))
        write_atomically(self.record.with_name("overrides.yaml"), OmegaConf.to_yaml(OmegaConf.create(overrides)))
        write_atomically(self.record.with_name("told.yaml"), OmegaConf.to_yaml(OmegaConf.create(told)))
        write_atomically(self.resolved, OmegaConf.to_yaml(cfg, resolve=True))

    def overrides(self) -> list[str]:
        """What was typed for the run; empty if nobody knows."""
        return self._stored("overrides.yaml", [])

    def told(self) -> dict[str, Any]:
        """The groups and settings that were chosen for the run; empty if nobody knows."""
        return self._stored("told.yaml", {})

    def _stored(self, name: str, missing: Any) -> Any:
        """Content of a YAML file beside the record, of the type of `missing`, which stands for an absent file."""
        path = self.record.with_name(name)
        if not path.is_file():
            return missing
        with reading(path):
            content = OmegaConf.to_container(OmegaConf.load(path))
            if not isinstance(content, type(missing)):
                raise ValueError(f"expected a {type(missing).__name__}")
        return content

    def results(self) -> dict[str, Any]:
        """Content of metrics.json.

        Raises:
            UserError: If the run has not finished, or the file is damaged.
        """
        self.config()
        if not self.metrics.is_file():
            raise UserError(f"{self.path}: the run has not finished, it has no metrics.json")
        return read_json(self.metrics, "test")

    def other_data(self, splits: dict[str, Any]) -> str:
        """How the data differ from those that the run was started with; empty where they do not, or it is unknown.

        Args:
            splits: What splits.json would hold now.

        Raises:
            UserError: If the stored splits.json is damaged.
        """
        if not self.splits.is_file():
            return ""
        stored = read_json(self.splits, "hash", "sources")
        if stored["hash"] == splits["hash"]:
            return ""
        for key, now in ((key, splits["sources"].get(key)) for key in {**stored["sources"], **splits["sources"]}):
            if stored["sources"].get(key) != now:
                return f"{key} is {'gone' if now is None else 'new' if key not in stored['sources'] else 'another'}"
        return "the splits are others"

    def refuse_other_config(self, cfg: DictConfig) -> None:
        """Keeps a folder from being continued with other settings.

        Raises:
            UserError: Listing the keys that differ from the stored configuration.
        """
        old, new = settings_of(self.full_config()), settings_of(cfg)
        differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if differing:
            lines = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} asked" for key in differing)
            hint = f"extend it with resume={self.path}" if set(differing) <= set(LENGTH) else "choose another name"
            raise UserError(f"{self.path} holds a run with other settings ({lines}); {hint}")
