import csv
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from scipy import stats

from saaae.atomic import write_json
from saaae.config.resolvers import job_folder
from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from saaae.sweeps.figures import read_curves, reconstruction_rows
from saaae.sweeps.leaderboard import ranking, warnings_of, write_leaderboard
from saaae.sweeps.runs import common_settings, is_sweep, runs_of, variants_of
from tests.conftest import ROOT

CASES = list(product(("vae", "saaae"), ("constant", "cyclical"), (0, 1, 2)))
SSIM = {case: 0.2 + 0.01 * i + 0.003 * (i * i % 7) for i, case in enumerate(CASES)}
ELBO = {case: 1000.0 - 40.0 * (case[0] == "saaae") + 7.0 * (i * i % 11) for i, case in enumerate(CASES)}


def write_run(path, overrides, test=None, seed=0, train=None, record=None, **settings):
    """Writes a run folder; without test metrics, that of an unfinished run."""
    folder = RunFolder(path)
    cfg = {"seed": seed, "likelihood": {"_target_": "Gaussian"}, "data": {"target": "noisy"}} | settings
    folder.write_record(OmegaConf.create(cfg), overrides, {})
    if test is not None:
        run = {"split_hash": f"split{seed}", "seed": seed, "threads": 2, "commit": "c" * 40, "versions": {"torch": "2"}}
        write_json(folder.metrics, {"test": test, "train": train or {}, "run": run | (record or {})})
    return folder


def write_images(folder, value, index=(0, 5), fed=200, channels=1):
    images = np.full((len(index), channels, 8, 8), 100, np.uint8)
    np.savez(folder.path / "reconstructions.npz", target=images, input=np.full_like(images, fed),
             reconstruction=np.full_like(images, value), index=np.array(index))  # fmt: skip


def write_curves(folder, *rows, end="\r\n"):
    (folder.path / "metrics.csv").write_bytes(("\r\n".join(["step,epoch,metric,value", *rows]) + end).encode())


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two models, two betas and three seeds; in the last variant one job failed and one is still running."""
    path = tmp_path / "betas"
    for model, beta, seed in CASES:
        job = [f"model={model}", f"beta={beta}", f"seed={seed}", "data=speckle", "name=betas"]
        test = {"ssim": SSIM[model, beta, seed], "elbo": ELBO[model, beta, seed], "kl": 200.0 + seed, "nll": -1200.0}
        missing = (model, beta) == ("saaae", "cyclical") and seed
        folder = write_run(path / job_folder(f"beta={beta},model={model},seed={seed}", job), job,
                           None if missing else test, seed, {"images_per_second": 90.0})  # fmt: skip
        if missing:
            why = "the loss is not finite" if seed == 1 else ""
            write_json(folder.status, {"state": "failed" if why else "running", "why": why, "since": "2026-01-01"})
            continue
        write_curves(folder, "9,0,val/ssim,0.1", "9,0,val/elbo,500", "19,1,val/ssim,0.2", "19,1,val/elbo,900")
        write_images(folder, 90)
    task = ["model=vae,saaae", "beta=constant,cyclical", "seed=0,1,2", "data=speckle", "name=betas"]
    (path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": task}}}))
    return path


class Page(HTMLParser):
    """Collects the tables, links and tags of a page; raises an error for mismatched tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.tables = [], set(), [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def section(text, title):
    """The lines of a section of Markdown."""
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def table(text, title):
    """The rows of the table in a section of Markdown, as dictionaries."""
    rows = [line[2:-2].split(" | ") for line in section(text, title).splitlines() if line.startswith("| ")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_variants_are_the_overrides_without_the_seed_and_runtime_settings(sweep):
    runs = runs_of(sweep)
    labels = [(v.number, v.label, [run.seed for run in v.runs]) for v in variants_of(runs)]
    assert labels == [
        (1, "model=vae beta=constant", [0, 1, 2]),
        (2, "model=vae beta=cyclical", [0, 1, 2]),
        (3, "model=saaae beta=constant", [0, 1, 2]),
        (4, "model=saaae beta=cyclical", [0]),
    ]
    assert common_settings(runs) == ["data=speckle"]


def test_means_and_deviations_are_exact(sweep):
    write_leaderboard(sweep)
    rows = table((sweep / "leaderboard.md").read_text(), "Variants")
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    row = next(row for row in rows if row["variant"] == "model=vae beta=cyclical")
    values = [SSIM["vae", "cyclical", seed] for seed in range(3)]
    assert row["ssim"] == f"{fmean(values):.4f} ±\u00a0{stdev(values):.4f}"
    assert row["kl_effective, nats per image"] == "201.0 ±\u00a01.0"  # the value of kl: the run has no kl_effective
    assert (row["runs"], row["images_per_second"]) == ("3", "90.00 ±\u00a00.00")
    assert next(row for row in rows if row["runs"] == "1")["ssim"] == f"{SSIM['saaae', 'cyclical', 0]:.4f}"


def test_differences_are_paired_by_seed(sweep):
    write_leaderboard(sweep, baseline=2)
    rows = {
        row["variant"]: row for row in table((sweep / "leaderboard.md").read_text(), "Differences from the baseline")
    }
    assert list(rows) == ["model=vae beta=constant", "model=saaae beta=constant", "model=saaae beta=cyclical"]
    for label, (model, beta) in {"model=vae beta=constant": ("vae", "constant"),
                                 "model=saaae beta=constant": ("saaae", "constant")}.items():  # fmt: skip
        for metric, known, digits in (("ssim", SSIM, 4), ("elbo, nats per image", ELBO, 1)):
            differences = [known[model, beta, seed] - known["vae", "cyclical", seed] for seed in range(3)]
            interval = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
            expected = f"{fmean(differences):+.{digits}f} ±\u00a0{(interval.high - interval.low) / 2:.{digits}f}"
            assert rows[label][metric] == (f"**{expected}**" if interval.low > 0 or interval.high < 0 else expected)
        assert rows[label]["pairs"] == "3"
    single = rows["model=saaae beta=cyclical"]
    assert single["pairs"] == "one pair: no interval"
    assert single["ssim"] == f"{SSIM['saaae', 'cyclical', 0] - SSIM['vae', 'cyclical', 0]:+.4f}"


def test_an_interval_that_excludes_0_is_marked(tmp_path):
    for model, seed in product("ab", range(3)):
        write_run(
            tmp_path / f"{model}{seed}", [f"model={model}"], {"ssim": 0.5 + 0.1 * seed + 0.2 * (model == "b")}, seed
        )
    write_leaderboard(tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert [row["ssim"] for row in table(text, "Differences from the baseline")] == ["**+0.2000 ±\u00a00.0000**"]
    assert "<b>+0.2000 ±\u00a00.0000</b>" in (tmp_path / "leaderboard.html").read_text()


def test_runs_are_ranked_by_elbo_only_for_one_likelihood_on_the_same_data(tmp_path):
    best_elbo = write_run(tmp_path / "a", ["model=a"], {"ssim": 0.1, "elbo": 9.0})
    write_run(tmp_path / "b", ["model=b"], {"ssim": 0.2, "elbo": 5.0})
    assert ranking(runs_of(tmp_path))[0] == "elbo"
    write_leaderboard(tmp_path)
    assert "Ranked by mean test elbo" in (tmp_path / "leaderboard.md").read_text()
    assert table((tmp_path / "leaderboard.md").read_text(), "Variants")[0]["variant"] == "model=a"
    test = {"ssim": 0.1, "elbo": 9.0}
    for reason, changed in {
        "the likelihoods differ": {"likelihood": {"_target_": "Laplace"}},
        "not every run has one": {"test": {"ssim": 0.1}},
    }.items():
        write_run(best_elbo.path, ["model=a"], **({"test": test} | changed))
        metric, line = ranking(runs_of(tmp_path))
        assert (metric, reason in line) == ("ssim", True), reason
        write_leaderboard(tmp_path)
        assert table((tmp_path / "leaderboard.md").read_text(), "Variants")[0]["variant"] == "model=b"


def test_only_missing_seeds_give_a_warning(sweep):
    found = warnings_of(variants_of(runs_of(sweep)))
    assert found == ["model=saaae beta=cyclical lacks seed 1, 2: means over other seeds do not compare."]


@pytest.mark.parametrize(
    ("record", "warning"),
    [
        ({"threads": 4}, "threads differs between runs: 2, 4."),
        ({"commit": "d" * 40}, "commit differs between runs: cccccccccccc, dddddddddddd."),
        ({"dirty": True}, "1 of 4 runs were made with uncommitted changes."),
        ({"versions": {"torch": "3"}}, "torch differs between runs: 2, 3."),
        ({"split_hash": "other"}, "Test data or targets differ: 3 rankings, whose numbers do not compare."),
        (
            {"seed": 1, "split_hash": "split1", "commit": "e" * 40},
            "model=a has several runs of seed 1: they are taken as independent.",
        ),
        ({"seed": 2}, "model=a lacks seed 0, model=b lacks seed 2: means over other seeds do not compare."),
        ({}, None),
    ],
)
def test_problems_of_a_comparison_give_warnings(tmp_path, record, warning):
    for model, seed in product("ab", range(2)):
        odd = record if (model, seed) == ("a", 0) else {}
        write_run(tmp_path / f"{model}{seed}", [f"model={model}"], {"ssim": 0.5}, seed, record=odd)
    found = warnings_of(variants_of(runs_of(tmp_path)))
    assert warning in found if warning else found == []


def test_warnings_are_on_the_page(sweep):
    write_leaderboard(sweep)
    for page in ("leaderboard.md", "leaderboard.html"):
        assert "model=saaae beta=cyclical lacks seed 1, 2" in (sweep / page).read_text()


def test_splits_that_depend_on_the_seed_are_the_same_data(sweep):
    assert len({run.task for run in runs_of(sweep)}) > 1
    assert not any("data" in line for line in warnings_of(variants_of(runs_of(sweep))))


def test_runs_on_other_data_are_neither_paired_nor_ranked_together(tmp_path):
    for name, split in (("a", "mnist"), ("b", "speckle")):
        for seed in range(2):
            write_run(tmp_path / f"{name}{seed}", [f"data={split}"], {"ssim": 0.5}, seed, record={"split_hash": split})
    write_leaderboard(tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.count("## Variants: ") == 2
    assert "Differences from the baseline" not in text


def test_a_single_seed_has_no_standard_deviation(tmp_path):
    write_run(tmp_path / "a", ["model=a"], {"ssim": 0.5})
    write_run(tmp_path / "b", [], {"ssim": 0.25})
    write_leaderboard(tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "One run a variant" in text
    assert [(row["variant"], row["ssim"]) for row in table(text, "Variants")] == [
        ("model=a", "0.5000"),
        ("defaults", "0.2500"),
    ]
    assert table(text, "Differences from the baseline")[0]["pairs"] == "one pair: no interval"


def test_models_without_a_kl_are_left_out_where_a_kl_is_needed(tmp_path):
    for seed in range(2):
        folder = write_run(tmp_path / f"a{seed}", ["model=cbam_ae"], {"ssim": 0.5, "kl": 0.0, "nll": 3.0}, seed)
        write_curves(folder, "9,0,val/ssim,0.1")
    assert tmp_path / "leaderboard.png" in write_leaderboard(tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert set(table(text, "Variants")[0]) == {"rank", "number", "variant", "runs", "ssim", "nll, nats per image"}
    assert table(text, "Variants")[0]["variant"] == "all runs"
    assert "Differences" not in text


def test_non_finite_numbers_are_shown_as_missing(tmp_path):
    for seed, ssim in enumerate([0.25, float("nan"), 0.75]):
        write_run(tmp_path / f"a{seed}", [], {"ssim": ssim, "psnr": None, "elbo": 1.0 if seed else None}, seed)
    write_leaderboard(tmp_path)
    row = table((tmp_path / "leaderboard.md").read_text(), "Variants")[0]
    assert row["ssim"] == f"0.5000 ±\u00a0{stdev([0.25, 0.75]):.4f} (n\u00a0=\u00a02)"
    assert "psnr, dB" not in row
    assert ranking(runs_of(tmp_path))[0] == "ssim"


def test_the_csv_has_one_row_per_run(sweep):
    write_leaderboard(sweep)
    with (sweep / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(CASES)
    assert [row["status"] for row in rows].count("done") == len(CASES) - 2
    for row in rows:
        case = tuple(re.search(r"beta=(\w+),model=(\w+),seed=(\d)", row["folder"]).groups())
        assert row["variant"] == f"model={case[1]} beta={case[0]}"
        if row["status"] == "done":
            assert float(row["ssim"]) == SSIM[case[1], case[0], int(row["seed"])]
            assert float(row["images_per_second"]) == 90.0


def test_failed_and_unfinished_jobs_are_listed_with_the_reason(sweep):
    write_json(sweep / "never-began" / "status.json", {"state": "failed", "why": "no such data | folder"})
    write_leaderboard(sweep)
    rows = table((sweep / "leaderboard.md").read_text().replace(r"\|", "/"), "Unfinished and failed")
    assert [(row["state"], row["why"]) for row in rows] == [
        ("failed", "the loss is not finite"),
        ("running", ""),
        ("failed", "no such data / folder"),
    ]
    assert len(variants_of(runs_of(sweep))) == 4


def test_the_html_is_one_self_contained_page(sweep):
    written = write_leaderboard(sweep)
    names = [
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.html",
        "leaderboard.png",
        "leaderboard_reconstructions.png",
    ]
    assert [path.name for path in written] == names
    assert all(path.parent == sweep and path.stat().st_size for path in written)
    text = (sweep / "leaderboard.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe"} & page.tags
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert [len(rows) for rows in page.tables] == [5, 4, 3, 11]
    assert sum(link.startswith("data:image/png;base64,") for link in page.links) == 2
    folders = [link for link in page.links if link.endswith("/")]
    assert len(folders) == len(CASES)
    assert all(":" not in link and (sweep / link.replace("%3D", "=").replace("%2C", ",")).is_dir() for link in folders)


def test_overrides_are_escaped_in_the_html(tmp_path):
    evil = "<script>alert('x')</script>"
    for number, value in enumerate((evil, "a|b", "plain")):
        folder = write_run(tmp_path / f"{number}<b>", [f"name={evil}", f"+tag={value}", f"+all={evil}"], {"ssim": 0.5})
        write_images(folder, 7)
        write_json(folder.status, {"state": "done", "why": evil})
    write_run(tmp_path / "failed", [f"+tag={evil}", f"+all={evil}"])
    write_json(tmp_path / "failed" / "status.json", {"state": evil, "why": evil})
    write_leaderboard(tmp_path)
    page = Page((tmp_path / "leaderboard.html").read_text())
    assert not {"script", "b"} & page.tags
    assert f"tag={evil}" in [cell for rows in page.tables for row in rows for cell in row]
    text = (tmp_path / "leaderboard.md").read_text()
    assert not re.search(r"(?<!\\)<", text)
    assert {row["variant"] for row in table(text.replace(r"a\|b", "a/b"), "Variants")} >= {"tag=a/b", "tag=plain"}


def test_an_incomplete_line_is_not_a_point_of_a_curve(tmp_path):
    folder = write_run(tmp_path / "a", [], {"ssim": 0.5})
    write_curves(folder, "9,0,train/loss,3", "9,0,val/ssim,0.5", "9,0,val/elbo,nan", "19,1,val/ssim,0.", end="")
    assert read_curves(folder.path / "metrics.csv") == {"val/ssim": {10: 0.5}, "val/elbo": {}}
    assert read_curves(tmp_path / "none.csv") == {"val/ssim": {}, "val/elbo": {}}
    assert tmp_path / "leaderboard.png" in write_leaderboard(tmp_path)


def test_reconstructions_show_the_same_images(tmp_path):
    for name, value, images in (("a", 1, {}), ("b", 2, {}), ("c", 3, {"index": (0, 6)}), ("d", 4, {"fed": 77})):
        write_images(write_run(tmp_path / name, [f"model={name}"], {"ssim": 0.5}), value, **images)
    write_images(write_run(tmp_path / "e", ["model=e"], {"ssim": 0.5}, record={"split_hash": "other"}), 5)
    write_run(tmp_path / "f", ["model=f"], {"ssim": 0.5})
    rows = reconstruction_rows(variants_of(runs_of(tmp_path)))
    assert [(title, images.shape, images[0, 0, 0, 0]) for title, images in rows] == [
        ("original", (2, 1, 8, 8), 100),
        ("input", (2, 1, 8, 8), 200),
        ("1: model=a", (2, 1, 8, 8), 1),
        ("2: model=b", (2, 1, 8, 8), 2),
        ("input", (2, 1, 8, 8), 77),
        ("4: model=d", (2, 1, 8, 8), 4),
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_colour_reconstructions_are_drawn(tmp_path, channels):
    write_images(write_run(tmp_path / "a", [], {"ssim": 0.5}), 1, fed=100, channels=channels)
    assert [path.suffix for path in write_leaderboard(tmp_path)] == [".csv", ".md", ".html", ".png"]


def test_an_extended_job_is_a_separate_variant(sweep):
    folder = next(sweep.glob("*constant,model=vae,seed=1*"))
    overrides = folder / ".hydra" / "overrides.yaml"
    overrides.write_text(overrides.read_text() + "- trainer.max_epochs=40\n")
    assert "model=vae beta=constant trainer.max_epochs=40" in [v.label for v in variants_of(runs_of(sweep))]


def test_a_sweep_over_precision_has_variants(tmp_path):
    for precision in ("32-true", "bf16-mixed"):
        overrides = ["accelerator=cpu", f"accelerator.precision={precision}", "data_dir=/x"]
        write_run(tmp_path / precision, overrides, {"ssim": 0.5})
    assert [v.label for v in variants_of(runs_of(tmp_path))] == [
        "accelerator.precision=32-true",
        "accelerator.precision=bf16-mixed",
    ]


def test_manually_named_runs_are_sorted_by_end_time(tmp_path):
    for name, since in (("a", "2026-01-03"), ("b", "2026-01-01"), ("c", "2026-01-02")):
        folder = write_run(tmp_path / name, [f"name={name}", f"model={name}"], {"ssim": 0.5})
        write_json(folder.status, {"state": "done", "why": "", "since": since})
    (tmp_path / "notes").mkdir()
    assert is_sweep(tmp_path)
    assert [v.label for v in variants_of(runs_of(tmp_path))] == ["model=b", "model=c", "model=a"]


def test_a_run_is_not_a_sweep(sweep):
    assert is_sweep(sweep)
    assert not is_sweep(next(path for path in sweep.iterdir() if path.is_dir()))
    assert not is_sweep(sweep.parent)
    assert not is_sweep(sweep / "absent")


def test_usage_errors_are_reported_in_one_line(sweep, tmp_path):
    with pytest.raises(UserError, match="absent: no such folder"):
        write_leaderboard(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no run"):
        write_leaderboard(tmp_path / "empty")
    write_run(tmp_path / "begun" / "a", [])
    with pytest.raises(UserError, match=r"begun: no run in it has finished \(1 unknown\)"):
        write_leaderboard(tmp_path / "begun")
    for baseline in (0, 5, -1):
        with pytest.raises(
            UserError, match=rf"baseline={baseline}: expected .* 1 model=vae beta=constant, 2 model=vae beta=cyc"
        ):
            write_leaderboard(sweep, baseline)
    assert not (sweep / "leaderboard.html").exists()


def test_making_a_leaderboard_imports_no_torch():
    heavy = "[m for m in ('torch', 'lightning', 'matplotlib.pyplot') if m in sys.modules]"
    code = f"import sys, saaae.sweeps.leaderboard; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("content", ["{", "[1]", '{"test": {"ssim": "x", "elbo": null}, "run": {}}'])
def test_a_damaged_run_does_not_affect_the_others(sweep, content):
    folder = next(sweep.glob("*constant,model=vae,seed=1*"))
    (folder / "metrics.json").write_text(content)
    (next(sweep.glob("*constant,model=vae,seed=0*")) / "reconstructions.npz").write_bytes(b"PK")
    (next(sweep.glob("*constant,model=vae,seed=2*")) / "metrics.csv").write_bytes(b"\xff\xfe step,1,val/ssim,x\n")
    page = next(path for path in write_leaderboard(sweep) if path.suffix == ".md").read_text()
    assert "model=saaae" in page
    if content != '{"test": {"ssim": "x", "elbo": null}, "run": {}}':
        assert "metrics.json cannot be read" in page


def test_several_runs_of_a_seed_count_as_their_mean_in_a_difference(tmp_path):
    for name, model, ssim in (("a", "vae", 0.6), ("b", "saaae", 0.5), ("c", "saaae", 0.9)):
        write_run(tmp_path / name, [f"model={model}", "data=speckle"], {"ssim": ssim})
    vae, saaae = sorted(variants_of(runs_of(tmp_path)), key=lambda variant: len(variant.runs))
    assert saaae.differences(vae, "ssim") == pytest.approx([0.1])


def test_a_damaged_configuration_costs_the_others_nothing(sweep):
    damaged = next(sweep.glob("*model=vae*/.hydra/config.yaml"))
    damaged.write_text("{")
    write_leaderboard(sweep)
    page = (sweep / "leaderboard.md").read_text()
    assert "damaged" in page
    assert len(variants_of(runs_of(sweep))) == 4
