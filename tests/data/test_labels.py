"""Classes of the user's own images: the sub-folders that they are in."""

import signal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import saaae
from saaae.cli import console
from saaae.config.settings import config_hash
from saaae.config.validation import complete_stored_config, config_errors
from saaae.data.datamodule import SPLITS
from saaae.data.listing import class_number
from saaae.data.shards import INDEX, Index, write_shards
from saaae.data.stream import StreamData
from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, keep_classes, resolve_config
from saaae.signals import Interruption
from saaae.training import fit
from tests.comparison import assert_continued_exactly
from tests.data.test_folder_data import make  # noqa: F401
from tests.data.test_stream import STREAM, assert_equal, error_of
from tests.runs.test_survival import steps
from tests.zygote import wait_until

LEVELS = {"cats": 60, "dogs": 190}
"""Gray level of each class."""
WORDS = [
    "data=folder", "data.labels=folders", "data.image_size=16", "data.batch_size=4", "cache_dir=cache",
    "model=cvae_embedding", "model.encoder.widths=[4,4]", "model.encoder.hidden=16", "model.decoder.start=4",
    "model.decoder.widths=[4,4]", "accelerator=cpu", "threads=1", "trainer.log_every_n_steps=1", "pictures.count=2",
]  # fmt: skip


def write(path, level, size=16, seed=0):
    """An image of a gray level with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = level + np.random.default_rng(seed).integers(-4, 5, (size, size))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Ten images of 32 pixels of each class, those of dogs in two further folders."""
    root = tmp_path / "pets"
    for i in range(10):
        write(root / "cats" / f"{i}.png", LEVELS["cats"], 32, i)
        write(root / "dogs" / "ab"[i % 2] / f"{i}.png", LEVELS["dogs"], 32, i)
    return root


def labels(data, split):
    return data.batch(split, torch.arange(data.num_images(split))).label


def assert_labels_fit_the_images(data, classes=("cats", "dogs")):
    for split in SPLITS:
        batch = data.batch(split, torch.arange(data.num_images(split)))
        levels = 255 * batch.target.mean((1, 2, 3))
        expected = torch.tensor([LEVELS[classes[number]] for number in batch.label.tolist()])
        assert (levels - expected).abs().max() < 5
        assert batch.label.dtype == torch.int64


# The data module


def test_the_class_of_an_image_is_its_first_sub_folder(make, pets):  # noqa: F811
    data = make(pets, labels="folders")
    assert (data.class_names, data.num_classes) == (["cats", "dogs"], 2)
    assert sum(data.num_images(split) for split in SPLITS) == 80
    assert_labels_fit_the_images(data)
    reverse = ["dogs", "cats"]
    assert_labels_fit_the_images(make(pets, labels=reverse), reverse)
    assert_labels_fit_the_images(make(pets, labels="folders", fit="resize"))
    assert_labels_fit_the_images(make(pets, labels="folders", split_by="region", image_size=8))


def test_labels_change_neither_splits_nor_caches(make, pets, tmp_path):  # noqa: F811
    plain, labelled = make(pets), make(pets, labels="folders")
    assert (plain.class_names, plain.num_classes, labels_of := plain.batch("test", torch.arange(2)).label) == (
        None, None, None,
    ), labels_of  # fmt: skip
    assert plain.manifest()["splits"] == labelled.manifest()["splits"]
    assert len(list((tmp_path / "cache").glob("FolderData-*/"))) == 1
    assert plain.manifest()["settings"] == {"image_size": 16, "channels": 1, "fit": "tiles"}
    hashes = {data.split_hash() for data in (plain, labelled, make(pets, labels=["dogs", "cats"]))}
    assert len(hashes) == 3


def test_the_classes_of_test_images_are_those_of_training(make, pets, tmp_path):  # noqa: F811
    apart = tmp_path / "apart"
    write(apart / "dogs" / "new.png", LEVELS["dogs"], 16, 99)
    data = make(pets, labels="folders", test_root=str(apart))
    assert_labels_fit_the_images(data)
    assert labels(data, "test").tolist() == [1]
    write(apart / "cat" / "new.png", 9, 16, 98)
    line = error_of(make, pets, labels="folders", test_root=str(apart))
    assert (
        line == f"data.labels: {apart}/cat/new.png is of the class cat; expected one of cats, dogs; did you mean cats?"
    )


def test_a_test_folder_inside_the_images_is_no_class(make, pets):  # noqa: F811
    write(pets / "test" / "cats" / "new.png", LEVELS["cats"], 16, 99)
    data = make(pets, labels="folders", test_root=str(pets / "test"))
    assert data.class_names == ["cats", "dogs"]
    assert labels(data, "test").tolist() == [0]


def test_folders_that_cannot_be_classes_are_reported(make, pets, tmp_path):  # noqa: F811
    write(pets / "loose.png", 9)
    line = error_of(make, pets, labels="folders")
    expected = "is in no sub-folder; expected each image in the sub-folder of its class"
    assert line == f"data.labels: {pets}/loose.png {expected}"
    assert expected in error_of(make, pets, labels=["cats", "dogs"])
    (pets / "loose.png").unlink()
    (pets / ".hidden").mkdir()
    (tmp_path / "linked").mkdir()
    write(tmp_path / "linked" / "1.png", 9)
    (pets / "birds").symlink_to(tmp_path / "linked")
    assert f"no image in {pets}/birds (links" in error_of(make, pets, labels="folders")
    (pets / "birds").unlink()
    (pets / "birds").mkdir()
    line = error_of(make, pets, labels="folders")
    assert f"no image in {pets}/birds (links to folders are not followed)" in line
    assert line.endswith("or data.labels=[cats,dogs]")
    assert make(pets, labels=["cats", "dogs"]).num_classes == 2
    write(pets / "birds" / "1.png", 9)
    assert "is of the class birds; expected one of cats, dogs" in error_of(make, pets, labels=["cats", "dogs"])
    line = error_of(make, pets / "dogs" / "..", labels=["cats", "cats"])
    assert line == "data.labels: cats is there twice; expected each class once"
    write(tmp_path / "one" / "cats" / "1.png", 9)
    line = error_of(make, tmp_path / "one", labels="folders")
    assert line.endswith("only one sub-folder of images, cats; expected at least two, one for each class")


def test_a_class_that_is_not_trained_is_reported(make, pets):  # noqa: F811
    write(pets / "birds" / "1.png", 120)
    messages = set()
    for seed in range(12):
        try:
            make(pets, labels="folders", seed=seed)
        except UserError as error:
            messages.add(str(error))
    assert messages == {
        "data.labels: no training image of the class birds, 1 in validation and test; expected more images of it, or "
        "another seed"
    }
    line = error_of(make, pets, labels=["birds", "cats", "dogs", "fish"], val_fraction=0.01, test_fraction=0.01)
    assert "no training image of the class fish, 0 in validation and test" in line


def test_broken_files_of_a_class_are_skipped(make, pets):  # noqa: F811
    (pets / "cats" / "broken.png").write_text("no image")
    assert "not a readable image" in error_of(make, pets, labels="folders")
    data = make(pets, labels="folders", on_error="skip")
    assert_labels_fit_the_images(data)
    assert list(data.manifest()["skipped"]) == ["cats/broken.png"]


def test_decoding_many_labelled_files_logs_a_message(make, pets, monkeypatch, capsys):  # noqa: F811
    from saaae.data import cached_files as module

    monkeypatch.setattr(module, "MANY_FILES", 9)
    make(pets, labels="folders")
    assert capsys.readouterr().out == "decoding 20 files\n"


def test_other_data_of_a_model_need_not_have_all_classes(make, pets, tmp_path):  # noqa: F811
    write(tmp_path / "other" / "dogs" / "1.png", LEVELS["dogs"])
    data = make(tmp_path / "other", setup=False, labels=["cats", "dogs"])
    data.test_all = True
    data.setup()
    assert labels(data, "test").tolist() == [1]


def test_a_class_is_given_by_its_number_or_its_name():
    names = ["10", "cats", "dogs"]
    assert [class_number(label, 3, names) for label in (0, 2, "cats", "10")] == [0, 2, 1, 0]
    assert error_of(class_number, "cat", 3, names) == "label=cat: expected 10, cats, dogs or 0 to 2; did you mean cats?"
    assert error_of(class_number, 3, 3, names) == "label=3: expected 10, cats, dogs or 0 to 2"
    assert error_of(class_number, "3", 10, None, "class") == "class=3: expected 0 to 9"
    many = [f"class{number:02d}" for number in range(30)]
    assert "class09, ... or 0 to 29" in error_of(class_number, 30, 30, many)


# Shards


def test_labelled_shards_equal_the_images_in_memory(make, pets, tmp_path):  # noqa: F811
    held = make(pets, labels="folders")
    write_shards(make(pets, setup=False, labels="folders"), tmp_path / "shards", 9)
    options = {**STREAM, "root": str(tmp_path / "shards")}
    streamed = StreamData(**options | {"labels": ["cats", "dogs"]})
    streamed.setup()
    assert_equal(streamed, held)
    assert_labels_fit_the_images(streamed)
    assert (streamed.class_names, streamed.num_classes) == (["cats", "dogs"], 2)
    assert StreamData(**options).num_classes is None
    line = error_of(StreamData, **options | {"labels": ["dogs", "cats"]})
    assert line == "data.labels=[dogs,cats]: expected the classes of the shards, data.labels=[cats,dogs]"


def test_shards_without_labels_are_as_before(make, pets, tmp_path):  # noqa: F811
    write_shards(make(pets, setup=False), tmp_path / "shards", 9)
    content = (tmp_path / "shards" / INDEX).read_bytes()
    assert b"class_names" not in content
    assert Index.from_json(content, "index").class_names is None
    line = error_of(StreamData, **STREAM | {"root": str(tmp_path / "shards"), "labels": ["cats", "dogs"]})
    assert line == "data.labels: these shards have no classes; expected null, or shards with data.labels"


# Configurations


def test_the_configuration_of_a_run_has_the_names_of_its_classes(compose_config, pets):
    cfg = compose_config(*WORDS, f"data.root={pets}")
    resolved = resolve_config(cfg)
    assert (resolved.data.labels, resolved.model.num_classes) == (["cats", "dogs"], 2)
    assert resolve_config(resolved) == resolved
    assert resolve_config(compose_config(*WORDS, f"data.root={pets}", "model.num_classes=3")).model.num_classes == 3
    write(pets / "birds" / "1.png", 120)
    assert config_hash(resolve_config(cfg)) != config_hash(resolved)


@pytest.mark.parametrize("words", [["data=folder"], ["data=stream"]])
def test_runs_of_before_keep_their_digest_and_can_be_continued(compose_config, pets, tmp_path, words):
    cfg = resolve_config(compose_config(*words, f"data.root={pets}", "model=vae"))
    assert cfg.data.labels is None
    earlier = cfg.copy()
    del earlier.data["labels"]
    assert config_hash(earlier) == config_hash(cfg)
    folder = RunFolder(tmp_path / "run")
    folder.write_record(earlier, [], {})
    folder.check_same_config(cfg)
    assert folder.config() == cfg
    assert "labels" not in complete_stored_config(compose_config("data=mnist")).data
    cfg.data.labels = ["a", "b"]
    assert config_hash(earlier) != config_hash(cfg)


@pytest.mark.parametrize(
    ("value", "message"),
    [("foldrs", "data.labels=foldrs: expected 'folders' or a list; did you mean folders?"),
     ("[1,2]", "data.labels=[1, 2]: expected 'folders' or in a list each text")],
)  # fmt: skip
def test_other_values_are_refused(compose_config, pets, value, message):
    from saaae.config.schema import Train
    from tests.test_config import GROUPS

    cfg = compose_config("data=folder", f"data.root={pets}", f"data.labels={value}")
    assert [line for line in config_errors(cfg, Train, GROUPS) if "labels" in line] == [message]


# Runs


@pytest.fixture
def trained(compose_config, tmp_path, monkeypatch):
    """A short run on two classes of constant images that a model without classes could not tell apart by its latent."""
    monkeypatch.chdir(tmp_path)
    for name, level in LEVELS.items():
        for i in range(20):
            write(tmp_path / "pets" / name / f"{i}.png", level, seed=i)
    words = [*WORDS, f"data.root={tmp_path / 'pets'}", "trainer.max_epochs=12", "optimizer.lr=3e-2",
             "optimizer.warmup_steps=1"]  # fmt: skip
    run = Run(resolve_config(compose_config(*words)), RunFolder(tmp_path / "run"), words, {"seed": 0})
    fit.fit(run, Interruption())
    return run.folder.path


def test_a_conditional_model_learns_the_classes_of_folders(trained, tmp_path, capsys):
    model = saaae.load(trained)
    assert model.class_names == ["cats", "dogs"]
    for name, level in LEVELS.items():
        assert (255 * model.sample(8, label=name).mean() - level).abs() < 25
    assert torch.equal(model.sample(3, label="dogs"), model.sample(3, label=1))
    images = torch.full((2, 1, 16, 16), 0.5)
    assert torch.equal(model.reconstruct(images, ["cats", "dogs"]), model.reconstruct(images, [0, 1]))
    assert "did you mean cats?" in error_of(model.sample, 2, label="cat")
    assert "cats, dogs or 0 to 1" in error_of(model.reconstruct, images)
    assert (trained / "pictures" / "classes.png").is_file()
    assert "classes      2: cats, dogs" in (trained / "train.log").read_text()

    def command(*words):
        with pytest.raises(SystemExit) as stop:
            console.main([str(word) for word in words])
        return stop.value.code, "".join(capsys.readouterr())

    image, out = tmp_path / "pets" / "cats" / "0.png", tmp_path / "out"
    for name, level in LEVELS.items():
        assert command("predict", trained, image, out / name, f"label={name}")[0] == 0
        assert abs(np.asarray(Image.open(out / name / "0.png")).mean() - level) < 25
    assert command("predict", trained, image, out, "label=dog") == (
        2, "error: label=dog: expected cats, dogs or 0 to 1; did you mean dogs?\n",
    )  # fmt: skip
    assert command("export", trained, f"to={tmp_path / 'exported'}")[0] == 0
    assert "| classes | 0 cats, 1 dogs: `label=` is required |" in (tmp_path / "exported" / "README.md").read_text()
    assert torch.equal(saaae.load(tmp_path / "exported").sample(2, label="dogs"), model.sample(2, label="dogs"))


def test_pictures_show_the_names_of_classes(trained):
    from saaae.visualization.panels import class_rows

    network = saaae.load(trained).network
    assert [row.label for row in class_rows(network, network.device, ["cats", "dogs"])] == ["cats", "dogs"]
    assert [row.label for row in class_rows(network, network.device)] == ["class 0", "class 1"]


@pytest.mark.processes
def test_a_killed_run_on_labelled_folders_ends_like_an_uninterrupted_run(zygote, tmp_path, pets):
    words = [*WORDS, "data.root=pets", "data.val_fraction=0.2", "data.test_fraction=0.2", "trainer.max_epochs=4",
             "checkpoint.every_n_steps=5", "optimizer.schedule=constant", "model.label_drop=0.3"]  # fmt: skip
    status, printed = zygote.run(tmp_path, "name=whole", *words)
    assert status == 0, printed
    run = tmp_path / "outputs" / "broken"
    child = zygote.start(tmp_path, "name=broken", *words)
    wait_until(lambda: steps(run) >= 7)
    child.send(signal.SIGKILL)
    child.wait()
    assert_continued_exactly(zygote, tmp_path)
    evaluate = {"script": "evaluate.py"}
    status, printed = zygote.run(tmp_path, "run=outputs/whole", "generate=4", "class=dogs", **evaluate)
    assert status == 0, printed
    status, printed = zygote.run(tmp_path, "run=outputs/whole", "generate=4", "class=dog", **evaluate)
    assert (status, printed) == (2, "error: class=dog: expected cats, dogs or 0 to 1; did you mean dogs?\n")
    write(tmp_path / "other" / "dogs" / "1.png", LEVELS["dogs"], 32, 77)
    other = ["run=outputs/whole", "data=folder", "data.root=other", "data.labels=folders"]
    status, printed = zygote.run(tmp_path, *other, **evaluate)
    assert status == 0, printed
    write(tmp_path / "pets" / "birds" / "1.png", 120)
    status, printed = zygote.run(tmp_path, "name=whole", *words)
    assert (status, printed.count("\n")) == (2, 1)
    assert "data.labels: ['cats', 'dogs'] there, ['birds', 'cats', 'dogs'] asked" in printed


def test_other_data_list_the_classes_of_the_model():
    trained = OmegaConf.create({"labels": ["cats", "dogs"]})
    data = OmegaConf.create({"labels": "folders"})
    keep_classes(data, trained)
    assert data.labels == ["cats", "dogs"]
    for labels in (["cats", "dogs"], None):
        keep_classes(OmegaConf.create({"labels": labels}), trained)
    with pytest.raises(UserError, match=r"data.labels=\['dogs', 'cats'\]: the model was trained on the classes"):
        keep_classes(OmegaConf.create({"labels": ["dogs", "cats"]}), trained)


@pytest.mark.parametrize("label", [1.9, True, -1, 2])
def test_a_class_number_is_an_integer_in_range(label):
    with pytest.raises(UserError, match="expected cats, dogs or 0 to 1"):
        class_number(label, 2, ["cats", "dogs"])
