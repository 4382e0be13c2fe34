import asyncio
import base64
import io
import socket

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from saaae.cli import explore
from saaae.data.folder import middle_of
from saaae.data.sar import to_amplitude
from saaae.errors import UserError
from saaae.metrics.pixel_detection import smooth
from saaae.visualization.mosaic import Row
from tests.conftest import ROOT, TINY
from tests.inference.test_trained_model import CONVOLUTIONAL
from tests.models.test_models import DIGITS

pytest.importorskip("starlette", reason="needs the extra `explore`")
pytest.importorskip("httpx", reason="needs the extra `dev`")

from starlette.testclient import TestClient

from saaae.explore.gallery import Gallery
from saaae.explore.load import load
from saaae.explore.pictures import address
from saaae.explore.recipe import Recipe
from saaae.explore.server import serve

MAP = ["model=saaae", "model.latent_channels=3"]
VECTOR = ["model=vae", "model.latent_dim=5"]


def client_of(page):
    return TestClient(page.application("secret"), base_url="http://127.0.0.1")


def pixels_of(address):
    """Gray levels (H, W) of a `data:` address."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))[..., 0]


def levels_of(image):
    """Gray levels (H, W) of an image (1, H, W) in [0, 1]."""
    return (np.asarray(image[0]) * 255 + 0.5).astype(np.uint8)


@pytest.fixture
def shown(stored_run):
    """The page of a run with settings, and a function that asks it and expects an answer."""

    def made(*settings, count=4):
        page = load([stored_run(*TINY, *settings)], count=count)
        client = client_of(page)

        def ask(name, **question):
            answer = client.post(f"/secret/{name}", json=question)
            assert answer.status_code == 200, answer.text
            return answer.json()

        return page, client, ask

    return made


def test_the_page_shows_what_the_model_makes_of_an_image_and_of_moved_latents(shown):
    page, client, ask = shown(*VECTOR)
    model = page.models[0].model
    info = client.get("/secret/info").json()
    assert info["count"] == 4
    assert [each["weight"] for each in info["models"][0]["dimensions"]] == sorted(page.models[0].weights, reverse=True)
    batch = page.gallery.image("test/2")
    layers = ask("view", image="test/2")["layers"]
    assert np.array_equal(pixels_of(layers["original"]), levels_of(batch.target[0]))
    assert np.array_equal(pixels_of(layers["reconstruction"]), levels_of(model.reconstruct(batch.input)[0]))
    z = model.encode(batch.input).mode
    still = ask("decode", image="test/2")
    assert still["values"] == pytest.approx(z[0].tolist(), abs=1e-4)
    assert still["decoded"] == layers["reconstruction"]
    z[:, 3] = 2.5
    moved = ask("decode", image="test/2", edits={"3": 2.5})
    assert moved["values"][3] == 2.5
    assert np.array_equal(pixels_of(moved["decoded"]), levels_of(model.network.generate(z)[0].detach()))
    assert moved["decoded"] != still["decoded"]


def test_one_channel_of_one_cell_is_moved_and_its_values_are_shown(shown):
    page, _, ask = shown(*MAP)
    explored = page.models[0]
    before = ask("decode", image="test/1", cell=[2, 1])
    after = ask("decode", image="test/1", cell=[2, 1], edits={"2@2.1": 4.0})
    assert after["values"] == pytest.approx([*before["values"][:2], 4.0])
    code = explored.code(Recipe(image="test/1", edits={"2@2.1": 4.0, "0": -1.0}))
    change = code - explored.code(Recipe(image="test/1"))
    assert change[0, 2].nonzero().tolist() == [[2, 1]]
    assert change[0, 1].abs().max() == 0
    assert code[0, 0].mean() == pytest.approx(-1.0, abs=1e-5)
    assert change[0, 0].std() == pytest.approx(0.0, abs=1e-5)
    assert {"anchor", "importance"} <= set(ask("view", image="test/1")["layers"])


def test_paths_samples_and_the_plane_are_those_of_the_model(shown):
    page, client, ask = shown(*VECTOR)
    model = page.models[0].model
    path = ask("path", image="test/0", other="test/3")["images"]
    for place, step in (("test/0", 0), ("test/3", 8)):
        assert path[step] == ask("view", image=place)["layers"]["reconstruction"]
    assert ask("decode", image="test/0", other="test/3", share=0.5)["decoded"] == path[4]
    samples = ask("samples", seed=7)["images"]
    assert np.array_equal(pixels_of(samples[5]), levels_of(model.sample(16, seed=7)[5]))
    sample = ask("view", image="prior/7/5", corruption="gaussian")
    assert sample["layers"]["original"] == samples[5]
    assert sample["corruption"] is None  # none is applied
    plane = ask("plane", x=4, y=1)
    codes = page.models[0].codes
    assert plane["x"] == pytest.approx(codes[:, 4].tolist(), abs=1e-4)
    assert plane["y"] == pytest.approx(codes[:, 1].tolist(), abs=1e-4)
    sheet = Image.open(io.BytesIO(client.get("/secret/thumbnails.png").content))
    assert sheet.size == (16 * 32, 32)
    picture = client.post("/secret/picture", json={"recipes": [{"image": "test/0", "other": "test/3"}]})
    assert Image.open(io.BytesIO(picture.content)).width > 9 * 72


OWN = {"fabric_unet": "anomaly map, 0 to 1", "cbam_ae": "attention, ", "despeckler": "input"}
"""Pictures that not all models have, and how their names begin."""


@pytest.mark.parametrize("name", OWN)
def test_models_without_a_prior_show_their_own_pictures(shown, name):
    defects = ["corruption=synthetic_defects"] if name == "fabric_unet" else []
    page, _, ask = shown(*CONVOLUTIONAL[name], *defects, count=2)
    layers = ask("view", image="test/1")["layers"]
    assert {"original", "reconstruction", "absolute error, 0 to 0.5"} <= set(layers)
    assert any(layer.startswith(OWN[name]) for layer in layers)
    assert ask("decode", image="test/1")["decoded"] == layers["reconstruction"]
    if defects:
        assert "input" not in layers  # synthetic defects are left out
        model = page.models[0].model
        with torch.no_grad():
            batch = model.network.prepare(page.gallery.image("test/1"))
            heat = smooth(model.network.anomaly_map(batch), model.sigma).sigmoid()
        assert layers["anomaly map, 0 to 1"] == address(Row("", heat, "inferno"))


def test_a_corruption_changes_the_input_alone_and_more_with_its_strength(shown):
    _, _, ask = shown(*VECTOR)
    plain = ask("view", image="test/0", corruption="none")["layers"]
    errors = []
    for strength in (0.1, 1.0):
        answer = ask("view", image="test/0", corruption="gaussian", strength=strength)
        assert answer["layers"]["original"] == plain["original"]
        difference = pixels_of(answer["layers"]["input"]).astype(float) - pixels_of(plain["original"])
        errors.append(abs(difference).mean())
    assert 0 < errors[0] < errors[1]
    assert answer["corruption"] == "standard deviation 0.5"
    others = [ask("view", image="test/0", corruption="gaussian", noise=noise)["layers"]["input"] for noise in (0, 1)]
    assert others[0] != others[1]


def test_a_dropped_image_is_read_as_saaae_predict_reads_it(shown):
    page, client, ask = shown(*VECTOR)
    levels = np.random.default_rng(0).integers(0, 200, (40, 50), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    name = client.post("/secret/own?ending=.PNG", content=file.getvalue()).json()["image"]
    expected = to_amplitude(levels[4:36, 9:41], "amplitude", np.percentile(levels, 99.5))
    assert np.array_equal(page.gallery.image(name).input[0, 0], expected)
    assert np.array_equal(pixels_of(ask("view", image=name)["layers"]["original"]), levels_of(expected[None]))
    for content, ending, message in (
        (b"no image", ".png", "not a readable image"),
        (file.getvalue(), ".exe", "expected one of .bmp"),
        (file.getvalue(), "", "not an image file"),
    ):
        answer = client.post(f"/secret/own?ending={ending}", content=content)
        assert answer.status_code == 400
        assert message in answer.json()["error"]


def tiff(*pages):
    """The bytes of a TIFF file; all pages but the last are marked as smaller copies."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, page in enumerate(pages, 1):
            writer.write(page, subfiletype=int(number < len(pages)), compression="zlib")
    return file.getvalue()


def test_the_size_of_an_image_is_checked_before_it_is_decoded(shown, monkeypatch):
    _, client, _ = shown(*VECTOR)
    monkeypatch.setattr("saaae.explore.gallery.LARGEST", 100 * 100)
    large, file = np.zeros((101, 100), np.uint8), io.BytesIO()
    Image.fromarray(large).save(file, "PNG")
    hidden, unknown = tiff(np.zeros((9, 9), np.uint8), large), tiff(large.astype(np.int64))
    for content, ending in ((file.getvalue(), ".png"), (hidden, ".tif"), (unknown, ".tiff")):
        answer = client.post(f"/secret/own?ending={ending}", content=content)
        assert answer.json() == {"error": "100 x 101 pixels; expected 10000 at most"}
    assert "image" in client.post("/secret/own?ending=.tif", content=tiff(large[1:] + 1)).json()


def test_a_conditional_model_decodes_an_image_as_any_class(stored_run, tmp_path, monkeypatch):
    Image.fromarray(np.full((28, 28), 90, np.uint8)).save(tmp_path / "a.png")
    digits = ["data=mnist", f"data.root={ROOT}", "model=cvae_onehot", *DIGITS, "accelerator=cpu"]
    page = load([stored_run(*digits)], images=str(tmp_path / "a.png"))
    client = client_of(page)
    assert client.get("/secret/info").json()["names"] == ["a.png"]
    answers = [client.post("/secret/decode", json={"label": label}).json()["decoded"] for label in (3, 4)]
    assert answers[0] != answers[1]
    expected = page.models[0].model.reconstruct(page.gallery.image("test/0").input, 3)
    assert np.array_equal(pixels_of(answers[0]), levels_of(expected[0]))
    refused = client.post("/secret/decode", json={"label": 10})
    assert (refused.status_code, refused.json()) == (400, {"error": "class 10: expected 0 to 9"})
    thin = np.random.default_rng(0).integers(0, 256, (8, 20000), dtype=np.uint8)
    name = page.gallery.add(tiff(thin), ".tif")
    square = torch.from_numpy(thin[None, :, 9996:10004] / np.float32(255))
    assert torch.equal(page.gallery.image(name).input[0], middle_of(square, 28).clamp(0, 1))
    monkeypatch.setattr(Gallery, "groups", {"class": [0, 12]})
    with pytest.raises(UserError, match="a model of 10 classes; expected images of classes 0 to 9, not 0 to 12"):
        load([tmp_path / "run"], images=str(tmp_path / "a.png"))


def test_two_runs_answer_for_the_same_image(stored_run, capsys):
    runs = [stored_run(*TINY, *VECTOR, name="a"), stored_run(*TINY, *MAP, "seed=1", name="b")]
    page = load(runs, count=3)
    assert f"warning: run={runs[1]}: other data.seed than {runs[0]}; " in capsys.readouterr().err
    client = client_of(page)
    layers = [client.post("/secret/view", json={"model": k, "image": "test/1"}).json()["layers"] for k in (0, 1)]
    assert layers[0]["original"] == layers[1]["original"]
    assert layers[0]["reconstruction"] != layers[1]["reconstruction"]
    answer = client.post("/secret/picture", json={"recipes": [{"model": 0}, {"model": 1}]})
    assert Image.open(io.BytesIO(answer.content)).height > 6 * 72
    other = stored_run(*TINY, *VECTOR, "data.image_size=16", name="c")
    with pytest.raises(UserError, match="images of image_size 16; expected 32"):
        load([runs[0], other])


def test_only_who_knows_the_token_and_asks_this_machine_is_answered(shown):
    _, client, _ = shown(*VECTOR)
    for path in ("/", "/info", "/wrong/info", "/secre/", "//secret/info", "/wrong/../secret0/info"):
        assert client.get(path).status_code == 403, path
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert client.get("/secret/info", headers={"host": host}).status_code == 403, host
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "OPTIONS", "path": "*", "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(client.app(scope, None, send))
    assert sent[0]["status"] == 403
    page = client.get("/secret/")
    assert page.status_code == 200
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/secret/server.py", "/secret/..%2f..%2f..%2fetc/passwd", "/secret/page.html"):
        assert client.get(path).status_code == 404, path


WRONG = [
    ({"image": "../../etc/passwd"}, "image: "),
    ({"image": "test/99"}, "image 99: expected 0 to 3"),
    ({"image": "own/0123456789abcdef"}, "drop it again"),
    ({"corruption": "gausian"}, "did you mean gaussian?"),
    ({"edits": {"7": 1.0}}, "dimension 7: this latent has 5"),
    ({"edits": {"0@1.1": 1.0}}, "cell 1, 1: the latent has the shape 5"),
    ({"edits": {"0": 1e9}}, "edits.0: "),
    ({"model": 1}, "this page shows one run"),
    ({"unknown": 1}, "unknown: "),
]
"""Questions, and a part of the line that refuses each."""


def test_a_wrong_question_is_answered_with_one_line(shown):
    _, client, _ = shown(*VECTOR)
    for question, message in WRONG:
        answer = client.post("/secret/decode", json=question)
        assert answer.status_code == 400, question
        assert message in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


def test_usage_errors_of_the_command_are_one_line(stored_run, monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: Address already in use; expected a free one"):
            serve(load([run := stored_run(*TINY, *VECTOR)], count=1), port, print)
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for weights in stored["state_dict"].values():
        if weights.is_floating_point():
            weights.fill_(torch.nan)
    torch.save(stored, run / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match="run=run: latents or errors are not finite; expected a run that has not"):
        load([run], count=1)
    with pytest.raises(UserError, match="nothing"):
        explore.explore(explore.Explore(run=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="expected one run, or two"):
        explore.explore(explore.Explore(run=["a", "b", "c"]))
    monkeypatch.setattr("saaae.inference.model.is_exported", lambda path: True)
    with pytest.raises(UserError, match="images: missing; expected image files"):
        load([run])
    monkeypatch.setattr(explore, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs starlette, uvicorn; pip install -e '.\[explore\]'"):
        explore.explore(explore.Explore(run="a"))
