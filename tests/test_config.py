"""The configuration contract: every value is set in one place; all pairs of options work or are rejected."""

import itertools
import typing

import pytest
import yaml

from saaae.cli.dry_run import Search
from saaae.cli.evaluate import EVALUATE
from saaae.config.schema import OWNERS, Evaluate, Train
from saaae.config.signature import signature
from saaae.config.validation import SPECIAL, config_errors, keys_of
from saaae.runs.run import resolve_config
from saaae.training.build import build_errors
from tests.conftest import CONF

GROUPS = Search(CONF).groups()


def pairwise(groups):
    """A small set of complete choices that covers every pair of options (greedy)."""
    names = sorted(groups)
    open_pairs = {
        ((a, x), (b, y)): None
        for a, b in itertools.combinations(names, 2)
        for x, y in itertools.product(groups[a], groups[b])
    }
    while open_pairs:
        choice = dict(next(iter(open_pairs)))
        for name in names:
            if name not in choice:
                fixed = list(choice.items())
                choice[name] = max(
                    groups[name],
                    key=lambda o: sum(tuple(sorted([(name, o), f])) in open_pairs for f in fixed),
                )
        for pair in itertools.combinations(sorted(choice.items()), 2):
            open_pairs.pop(pair, None)
        yield dict(sorted(choice.items()))


CHOICES = list(pairwise({name: options for name, options in GROUPS.items() if name != "experiment"}))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_all_pairs_of_options_compose_or_are_rejected_as_expected(compose_config, choice, tmp_path):
    root = [] if choice["data"] in ("speckle", "factors") else [f"data.root={tmp_path}"]
    cfg = resolve_config(compose_config(*(f"{group}={option}" for group, option in choice.items()), *root))
    assert config_errors(cfg, Train, GROUPS) == []
    if choice["data"] != "stream":  # building it reads the index of the shards
        errors = {line.partition(":")[0] for line in build_errors([cfg])}
        expected = clashes(**choice)
        assert errors <= expected
        assert bool(errors) == bool(expected)  # construction stops at the first error


def clashes(model, data, likelihood, beta, posterior, attention, **others):
    """Settings named in the errors of incompatible options; every other choice can be built."""
    has_map = model == "cbam_ae" or (
        data != "mnist" and model in ("vae", "vae_deep", "saaae", "saaae_prior", "despeckler", "fabric_unet")
    )
    halved_often = ("aitex_vae", "cbam_ae", "despeckler", "fabric_unet")
    scale = "none" if likelihood == "spectral" else "sigmoid"
    rules = {
        "model.num_classes=null": model.startswith("cvae") and data != "mnist",
        f"likelihood.activation={scale}": model == "despeckler" and likelihood != "log_gaussian",
        "attention=self": data == "aitex" and attention == "self" and model == "denoising_vae",  # too many positions
        "posterior=full_covariance": posterior == "full_covariance" and has_map,
        "posterior.rank=4": posterior == "low_rank" and model.startswith("cvae"),  # too few latent dimensions
        "data.image_size=28": data == "mnist" and model in halved_often,
        f"beta={beta}": beta in ("free_bits", "total_correlation") and posterior not in ("diagonal", "anchored"),
    }
    return {key for key, is_clash in rules.items() if is_clash}


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_every_experiment_composes_without_errors(compose_config, experiment, tmp_path):
    cfg = resolve_config(compose_config(f"experiment={experiment}"))
    if "root" in cfg.data:
        cfg.data.root = str(tmp_path)
    assert config_errors(cfg, Train, GROUPS) == []


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_the_settings_of_an_experiment_are_those_composed(compose_config, experiment):
    from omegaconf import OmegaConf

    said = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")
    said.pop("defaults")
    cfg = compose_config(f"experiment={experiment}")
    for key in keys_of(OmegaConf.to_container(said)):
        if not OmegaConf.is_dict(OmegaConf.select(said, key)):
            assert OmegaConf.select(cfg, key) == OmegaConf.select(said, key), key
    assert (
        OmegaConf.select(compose_config(f"experiment={experiment}", "trainer.max_epochs=3"), "trainer.max_epochs") == 3
    )


def test_the_evaluation_config_composes_without_errors(compose_config):
    later = EVALUATE.checked_later
    assert config_errors(compose_config("data=mnist", name="evaluate"), Evaluate, GROUPS, later) == []


def nodes(value):
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for child in value.values():
            yield from nodes(child)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_every_argument_of_our_classes_is_set_in_yaml_only(path):
    import inspect

    from hydra.utils import get_object

    for node in nodes(yaml.safe_load(path.read_text())):
        target = node["_target_"]
        if not target.startswith("saaae."):
            continue
        found = signature(target)
        assert found is not None, target
        for key in set(node) - SPECIAL:
            assert found.parameters[key].required, f"{target}.{key} has a second home in the code"
        if not node.get("_partial_"):
            assert {k for k, p in found.parameters.items() if p.required} <= set(node), target
        real = inspect.signature(
            get_object(target).__init__ if isinstance(get_object(target), type) else get_object(target)
        )
        arguments = [
            name
            for argument in real.parameters.values()
            for name in (
                typing.get_args(argument.annotation)[0].__annotations__
                if typing.get_origin(argument.annotation) is typing.Unpack
                else [argument.name]
            )
            if name not in ("self", "args", "kwargs")
        ]
        assert arguments == list(found.parameters), "the signature read from source"


def test_group_files_have_only_overrides_as_defaults():
    for path in CONF.rglob("*.yaml"):
        if path.parent != CONF:
            content = yaml.safe_load(path.read_text()) or {}
            if content.get("defaults") in (["base"], ["base", "_self_"]):  # the shared base of the group
                continue
            assert path.parent.name in ("model", "experiment", "study") or "defaults" not in content, path
            for entry in content.get("defaults", []):
                assert next(iter(entry)).startswith("override /"), path


def test_every_trainer_argument_is_listed_or_set_by_another_option():
    import inspect

    import lightning as L

    listed = set(yaml.safe_load((CONF / "train.yaml").read_text())["trainer"])
    owned = {key.removeprefix("trainer.") for key in OWNERS if key.startswith("trainer.")} - {"ckpt_path"}
    arguments = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert listed | owned == arguments
    assert not listed & owned


def test_configuration_stays_small():
    """Models, data sets and experiments are one file each; the shared configuration stays small."""
    files = list(CONF.rglob("*.yaml"))
    assert max(len(path.read_text().splitlines()) for path in files) <= 90
    shared = [path for path in files if path.parent.name not in ("model", "data", "experiment")]
    assert sum(len(path.read_text().splitlines()) for path in shared) <= 480
    assert len(shared) <= 70


def test_setting_one_kind_of_latent_turns_off_the_other(compose_config):
    for overrides, dim, channels in [
        (["data=mnist"], 32, None),
        (["data=speckle"], None, 16),
        (["data=mnist", "model.latent_channels=4"], None, 4),
        (["data=speckle", "model.latent_dim=16"], 16, None),
    ]:
        model = resolve_config(compose_config(*overrides)).model
        assert (model.latent_dim, model.latent_channels) == (dim, channels)


def test_parts_can_be_replaced_on_the_command_line(compose_config):
    cfg = compose_config("model=saaae", "posterior=diagonal", "likelihood=bernoulli", "beta=cyclical")
    assert cfg.model.posterior._target_.endswith("DiagonalPosterior")
    assert cfg.model.likelihood._target_.endswith("Bernoulli")
    assert cfg.model.beta._target_.endswith("CyclicalBeta")
