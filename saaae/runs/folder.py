"""The run folder: its files, and whether a configuration may continue it."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saaae.atomic import check_entries, read_json, write_text
from saaae.config.resolvers import OUTPUTS
from saaae.config.settings import marked, settings_of
from saaae.config.validation import complete_stored_config
from saaae.errors import UserError, nearest, reading
from saaae.ranges import LENGTH

TAGS = "told.yaml"
"""File of a run's tags; the name is that of version 0.1."""


def known_runs() -> list[str]:
    """Run folders below outputs, as a message suggests them."""
    return [str(path.parent.parent) for path in OUTPUTS.glob("**/.hydra/config.yaml")]


class RunFolder:
    """A run folder and the paths of its files.

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
        self.owner = self.path / ".owner"  # the process that writes here; absent if there is none
        self.splits = self.path / "splits.json"
        self.log = self.path / "train.log"
        self.pictures = self.path / "pictures"
        self.curves = self.path / "metrics.csv"
        self.examples = self.path / "reconstructions.npz"

    @property
    def label(self) -> Path:
        """The folder as messages show it: relative to the working directory if it is below it."""
        here = Path.cwd()
        return self.path.relative_to(here) if self.path.is_relative_to(here) else self.path

    def picture(self, name: str) -> Path:
        """Where a picture of the trained model is."""
        return (self.path if name == "reconstructions" else self.pictures) / f"{name}.png"

    def config(self) -> DictConfig:
        """The configuration that the run was started with.

        Raises:
            UserError: If the folder is missing or not a run folder, or the file is damaged.
        """
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such run folder{nearest(str(self.path), known_runs())}")
        if not self.record.is_file() and self.owner.is_file():
            raise UserError(
                f"{self.path}: no checkpoint yet, the run is starting (or was killed while it started); "
                "try again after its first epoch"
            )
        if not self.record.is_file():
            raise UserError(f"{self.path}: not a run folder, it has no .hydra/config.yaml")
        with reading(self.record):
            cfg = OmegaConf.load(self.record)
            check_entries(cfg, [])
        assert isinstance(cfg, DictConfig)
        return complete_stored_config(cfg)

    def full_config(self) -> DictConfig:
        """Likewise, with every group that is needed to build the model and its data.

        Raises:
            UserError: If the folder is missing or not a run folder, or the file is damaged or incomplete.
        """
        cfg = self.config()
        with reading(self.record):
            check_entries(cfg, ("model", "data", "trainer"))
        return cfg

    def write_record(self, cfg: DictConfig, overrides: list[str], tags: dict[str, Any]) -> None:
        """Stores the configuration as written and resolved, the overrides, and what they chose."""
        write_text(self.record, OmegaConf.to_yaml(cfg))
        write_text(self.record.with_name("overrides.yaml"), OmegaConf.to_yaml(OmegaConf.create(overrides)))
        write_text(self.record.with_name(TAGS), OmegaConf.to_yaml(OmegaConf.create(tags)))
        write_text(self.resolved, OmegaConf.to_yaml(cfg, resolve=True))

    def overrides(self) -> list[str]:
        return self._stored("overrides.yaml", [])

    def tags(self) -> dict[str, Any]:
        """Settings that distinguish the run; empty if unknown."""
        return self._stored(TAGS, {})

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

    def check_same_config(self, cfg: DictConfig) -> None:
        """Keeps a folder from being continued with other settings.

        Raises:
            UserError: Listing the keys that differ from the stored configuration.
        """
        old, new = settings_of(self.full_config()), settings_of(cfg)
        differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if differing:
            lines = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} asked" for key in differing)
            longer = set(differing) <= set(marked(LENGTH))
            hint = f"extend it with resume={self.path}" if longer else "choose another name"
            raise UserError(f"{self.path} holds a run with other settings ({lines}); {hint}")
