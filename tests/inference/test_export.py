import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import torch

import saaae
from saaae.cli import console
from saaae.errors import UserError
from saaae.inference import export
from saaae.inference.source import read_source
from tests.conftest import TINY
from tests.data.test_mnist import write_archives
from tests.inference.test_trained_model import MAPS
from tests.models.test_models import DIGITS

METRICS = {"test": {"ssim": 0.5, "elbo": -100.0, "odd": None}, "run": {"commit": "abc", "seed": 0, "dirty": False}}
needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx is absent")


def run(capsys, *words):
    """Exit status, output and errors of the console script."""
    with pytest.raises(SystemExit) as stop:
        console.main(words)
    return stop.value.code, *capsys.readouterr()


def test_a_folder_holds_the_model_its_metrics_and_a_card(stored_run, tmp_path, capsys):
    folder = stored_run(*TINY, *MAPS, "name=mine", "data_dir=/somewhere")
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    target = tmp_path / "new" / "model"
    status, printed, errors = run(capsys, "export", str(folder), f"to={target}")
    assert (status, errors) == (0, "")
    assert "images of any size" in printed
    assert "largest difference 0 on 6 test images of its run" in printed
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    images = torch.rand(2, 1, 32, 32)
    model = saaae.load(target)
    assert torch.equal(model.reconstruct(images), saaae.load(folder).reconstruct(images))
    assert model.metrics == METRICS["test"]
    content = json.loads((target / "config.json").read_text())
    assert content["saaae_format"] == 1
    assert not {"data_dir", "cache_dir", "name", "resume"} & content["config"].keys()
    card = (target / "README.md").read_text()
    for part in ("| ssim | 0.5 |", "against the target", "| odd | not finite |", "| commit | abc |", "data=speckle"):
        assert part in card
    for text in (card, json.dumps(content)):
        assert str(tmp_path) not in text
        assert "/somewhere" not in text
        assert "name=mine" not in text


def test_the_graph_of_an_exported_folder_is_checked_on_random_images(stored_run, tmp_path, capsys):
    folder, target = tmp_path / "exported", tmp_path / "x.pt2"
    assert run(capsys, "export", str(stored_run(*TINY, *MAPS)), f"to={folder}")[0] == 0
    status, printed, _ = run(capsys, "export", str(folder), str(target))
    assert status == 0
    assert "8 random images, its data cannot be read" in printed
    assert "sides are multiples of 4" in printed
    files = {"saaae.json": ""}
    program = torch.export.load(target, extra_files=files).module()
    images = torch.rand(3, 1, 48, 36)
    assert torch.allclose(program(images), saaae.load(folder).reconstruct(images), atol=1e-5)
    facts = json.loads(files["saaae.json"])
    assert (facts["image_size"], facts["channels"], facts["range"], facts["stride"]) == ("32", "1", "0 1", "4")


@needs_onnx
def test_an_onnx_graph_takes_images_of_any_size_and_says_what_it_takes(stored_run, tmp_path, capsys):
    import onnxruntime

    folder, target = stored_run(*TINY, *MAPS), tmp_path / "x.onnx"
    status, printed, _ = run(capsys, "export", f"run={folder}", f"to={target}")
    assert status == 0
    assert "6 test images of its run" in printed
    session = onnxruntime.InferenceSession(target)
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["images", "reconstruction"]
    images = torch.rand(1, 1, 64, 36)
    (found,) = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(found), saaae.load(folder).reconstruct(images), atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["image_size"], facts["stride"], facts["any_size"], facts["run"]) == ("32", "4", "true", "run")


@needs_onnx
def test_a_conditional_model_takes_classes(stored_run, tmp_path):
    import onnxruntime

    write_archives(tmp_path / "mnist")
    words = ["data=mnist", f"data.root={tmp_path / 'mnist'}", "data.num_val=5", "model=cvae_onehot", *DIGITS]
    folder, target = stored_run(*words, "accelerator=cpu"), tmp_path / "x.onnx"
    written = export.export_graph(read_source(folder), target)
    assert written.takes == "any number of images of 28 x 28 pixels"
    images, label = torch.rand(3, 1, 28, 28), torch.tensor([1, 2, 3])
    (found,) = onnxruntime.InferenceSession(target).run(None, {"images": images.numpy(), "label": label.numpy()})
    assert torch.allclose(torch.from_numpy(found), saaae.load(folder).reconstruct(images, label), atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [["posterior=low_rank"], ["attention=self_local"], ["model=saaae"], ["posterior=anchored_prior"],
     ["posterior=anchored_prior", "posterior.decoder_sees_w=true"]],
    ids=str,
)  # fmt: skip
def test_what_a_posterior_computes_beside_its_mean_is_left_out(stored_run, tmp_path, words):
    source = read_source(stored_run(*TINY, *MAPS, *words))
    written = export.export_graph(source, tmp_path / "x.pt2")
    assert written.difference < 1e-5
    assert not any("linalg" in str(node.target) for node in torch.export.load(written.path).graph.nodes)


def test_the_precision_of_a_run_does_not_matter(stored_run, tmp_path):
    source = read_source(stored_run(*TINY, *MAPS, "accelerator.precision=bf16-true"))
    assert export.export_graph(source, tmp_path / "x.pt2").difference < 1e-5
    assert export.export_folder(source, tmp_path / "folder").difference == 0


def test_an_export_that_differs_leaves_nothing(stored_run, tmp_path, monkeypatch):
    source, target = read_source(stored_run(*TINY, *MAPS)), tmp_path / "new" / "x.pt2"

    def wrong(program, file, facts):
        export._write_program(program, file, facts)
        return lambda images: images

    monkeypatch.setitem(export.GRAPHS, ".pt2", wrong)
    with pytest.raises(UserError, match=r"differs from the torch model by 0\.\d+ on 6 test images"):
        export.export_graph(source, target)
    assert list(target.parent.iterdir()) == []


def test_a_layer_that_cannot_be_traced_is_one_line(stored_run, tmp_path, monkeypatch):
    source, target = read_source(stored_run(*TINY, *MAPS)), tmp_path / "x.pt2"

    def fails(model, any_size):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(export, "_program", fails)
    with pytest.raises(UserError, match=r"a VAE with these settings cannot be exported \(no such operator\)$"):
        export.export_graph(source, target)


def test_usage_errors_are_one_line(stored_run, tmp_path, capsys, monkeypatch):
    folder = stored_run(*TINY, *MAPS)
    (tmp_path / "there").mkdir()
    monkeypatch.setattr("saaae.cli.export.find_spec", lambda name: None)
    cases = [
        ([f"run={folder}"], "to: missing; expected to=<a new folder"),
        ([f"run={tmp_path / 'no'}", "to=x"], "no: no such run folder"),
        ([f"run={folder}", f"to={tmp_path / 'there'}"], "there: exists already; choose another, or remove it"),
        ([f"run={folder}", "to=x.pth"], "to=x.pth: expected a folder, or a file that ends in .onnx or .pt2"),
        ([f"run={folder}", "to=x.onnx"], "to=x.onnx: needs onnx, onnxscript, onnxruntime; pip install -e '.[onnx]'"),
        ([f"run={folder}", "to=x", "push=me/it"], "push=me/it: needs huggingface_hub; pip install -e '.[hub]'"),
        ([f"run={folder}", "to=x", "push=it"], "push=it: expected a repository of the Hugging Face hub, owner/name"),
        ([f"run={folder}", "to=x.pt2", "push=me/it"], "push=me/it: for a folder; expected to=<a new folder>"),
        ([f"run={folder}", "to=x", "checkpoint=last"], "last.ckpt: no such checkpoint; expected checkpoint=best"),
    ]
    for words, message in cases:
        status, printed, errors = run(capsys, "export", *words)
        assert (status, printed, errors.count("\n")) == (2, "", 1), errors
        assert message in errors


class Hub:
    """What is used of `huggingface_hub.HfApi`, on a list instead of the network."""

    def __init__(self, calls, failure=None):
        self.calls, self.failure = calls, failure

    def create_repo(self, repo_id, private, exist_ok):
        if self.failure:
            raise self.failure
        self.calls.append((repo_id, private, exist_ok))

    def upload_folder(self, repo_id, folder_path):
        self.calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
        return f"address of {repo_id}"


def test_an_exported_folder_is_pushed_to_a_private_repository(stored_run, tmp_path, capsys, monkeypatch):
    folder, calls = stored_run(*TINY, *MAPS), []
    monkeypatch.setattr("saaae.cli.export.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: Hub(calls)))
    status, printed, _ = run(capsys, "export", str(folder), str(tmp_path / "a"), "push=me/it")
    assert (status, printed.splitlines()[-1]) == (0, "pushed       address of me/it")
    assert calls == [("me/it", True, True), ("me/it", ["README.md", "config.json", "model.safetensors"])]
    failure = ConnectionError("no route\nto the hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: Hub(calls, failure)))
    status, _, errors = run(capsys, "export", str(folder), str(tmp_path / "b"), "push=me/it")
    assert (status, errors.count("\n")) == (1, 1)
    assert f"push=me/it: not uploaded (no route); to try again: hf upload me/it {tmp_path / 'b'}" in errors
    assert len(list((tmp_path / "b").iterdir())) == 3
