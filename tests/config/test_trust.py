"""A downloaded configuration can instantiate only classes of this package and of packages that the user trusts."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from saaae.config.trust import check_trusted
from saaae.errors import UserError
from tests.conftest import CONF

FILE = Path("config.yaml")
EVIL = [
    "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "lightning.pytorch.loggers.tensorboard.os.system",
    "saaae.training.distributed.sys.exit", "saaae.data.files.os.remove", "saaae.models.vae.ImageAutoencoder.__init__",
    "saaae.atomic.replacing", "saaaex.models.VAE", "mypackage.networks.Net",
]  # fmt: skip


@pytest.mark.parametrize("target", EVIL)
@pytest.mark.parametrize(
    "hidden",
    [
        {"callbacks": {"x": {"_target_": "TARGET"}}},
        {"model": {"parts": [{"deep": [{"_target_": "TARGET"}]}]}},
        {"model": {"_target_": "${name}"}, "name": "TARGET"},
    ],
)
def test_a_target_outside_the_package_is_rejected_anywhere_in_the_configuration(target, hidden):
    cfg = OmegaConf.create(str(hidden).replace("TARGET", target))
    with pytest.raises(UserError, match=f"config.yaml: would call {target}, .* trust=\\[{target.split('.')[0]}\\]"):
        check_trusted(cfg, FILE, [])


def test_a_package_that_the_user_trusts_is_allowed():
    cfg = OmegaConf.create({"model": {"_target_": "mypackage.networks.Net"}})
    check_trusted(cfg, FILE, ["mypackage"])
    with pytest.raises(UserError, match="mypackage.networks.Net"):
        check_trusted(cfg, FILE, ["mypack"])


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_all_options_of_this_repository_are_trusted(path):
    if path.parent.parent.name == "hydra" or path.parent == CONF:
        pytest.skip("not stored in a run folder")
    names = re.findall(r"_target_: *([\w.]+)", path.read_text())
    check_trusted(OmegaConf.create({"x": [{"_target_": name} for name in names]}), FILE, [])


def test_a_malicious_run_folder_is_neither_tested_nor_continued(compose_config, tmp_path):
    from saaae.cli import evaluate, train
    from saaae.runs.folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    stored = compose_config()
    OmegaConf.update(stored, "callbacks.x", {"_target_": "os.system", "command": "true"}, force_add=True)
    folder.write_record(stored, [], {})
    cfg = compose_config(f"run={folder.path}", name="evaluate")
    with pytest.raises(UserError, match=r"run: would call os.system"):
        evaluate.configuration(cfg, folder.config(), [])
    with pytest.raises(UserError, match=r"config.yaml: would call os.system"):
        train.resumed(folder, compose_config(f"resume={folder.path}"), [f"resume={folder.path}"])
