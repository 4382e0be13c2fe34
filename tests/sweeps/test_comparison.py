"""Which runs are ranked together, and what the terminal prints about them."""

import csv
from itertools import product

import pytest

from saaae.atomic import write_json
from saaae.cli.multirun import compare
from saaae.sweeps.leaderboard import ranking_lines, warnings_of
from saaae.sweeps.runs import runs_of, variants_of
from tests.sweeps.test_leaderboard import table, write_run

KINDS = {
    "mnist": {"_target_": "saaae.data.mnist.MNISTData", "root": "mnist"},
    "sar": {"_target_": "saaae.data.sar.SARData", "target": "noisy"},
    "aitex": {"_target_": "saaae.data.aitex.AITEXData"},
}


@pytest.fixture
def outputs(tmp_path):
    """Runs on three data sets in one folder; the test images of one data set depend on the seed."""
    for kind, data in KINDS.items():
        for place, (model, seed) in enumerate(product(("vae", "saaae"), (0, 1))):
            split = f"{kind}{seed}" if kind == "sar" else kind
            test = {"ssim": 0.3 + 0.1 * place, "elbo": 100.0 * place}
            write_run(
                tmp_path / f"{kind}-{model}-{seed}", [f"data={kind}", f"model={model}"], test, seed, data=data,
                record={"split_hash": split, "images": {"test": 60}},
            )  # fmt: skip
    return tmp_path


def test_runs_on_different_data_are_ranked_separately_on_the_terminal_and_the_page(outputs, capsys):
    compare(outputs)
    printed = capsys.readouterr().out.splitlines()
    expected = ["warning: Test data or targets differ: 3 rankings, whose numbers do not compare."]
    for kind in ("aitex", "mnist", "sar"):
        expected += [
            "", f"data={kind}, 60 test images",
            "Ranked by mean test elbo, in nats per image: one likelihood, the same data.",
            f"  1  model=saaae  elbo 250.0 ±\u00a070.7  ssim 0.5500 ±\u00a00.0707  2 runs, best in {kind}-saaae-1",
            f"  2  model=vae  elbo 50.0 ±\u00a070.7  ssim 0.3500 ±\u00a00.0707  2 runs, best in {kind}-vae-1",
        ]  # fmt: skip
    assert printed[: len(expected)] == expected
    page = (outputs / "leaderboard.md").read_text()
    assert "3 rankings, whose numbers do not compare" in page
    for kind in KINDS:
        rows = table(page, f"Variants: data={kind}, 60 test images")
        assert [(row["rank"], row["variant"]) for row in rows] == [("1", "model=saaae"), ("2", "model=vae")]
        assert len(table(page, f"Differences from the baseline: data={kind}, 60 test images")) == 1


@pytest.mark.parametrize(
    ("settings", "record", "heading"),
    [
        ({"data": {"_target_": "x.SpeckleData", "target": "clean"}}, {}, "data=speckle, data.target=clean"),
        ({"data": {"_target_": "x.SpeckleData", "target": "noisy", "looks": 1}}, {}, "data=speckle, data.looks=1"),
        ({"trainer": {"limit_test_batches": 2}}, {"tested_images": 8}, "data=speckle, 8 test images"),
        ({"trainer": {"limit_test_batches": 0.5}}, {}, "data=speckle, 0.5 batches of None test images"),
        ({}, {"split_hash": "other"}, "data=speckle, digest "),
    ],
)
def test_different_targets_limits_and_files_are_ranked_separately(tmp_path, settings, record, heading):
    usual = {"data": {"_target_": "x.SpeckleData", "target": "noisy"}}
    write_run(tmp_path / "a", ["model=a"], {"ssim": 0.5}, **usual)
    write_run(tmp_path / "b", ["model=b"], {"ssim": 0.6}, **(usual | settings), record=record)
    headings = [variant.tested_on for variant in variants_of(runs_of(tmp_path))]
    assert len(set(headings)) == 2
    assert headings[1].startswith(heading)


def test_runs_with_the_same_test_images_are_ranked_together_regardless_of_training_data(tmp_path):
    for count in (100, 1000):
        data = {"_target_": "x.SpeckleData", "target": "noisy", "num_train": count}
        name = f"split{count}"
        folder = write_run(
            tmp_path / name, [f"data.num_train={count}"], {"ssim": 0.5}, data=data, record={"split_hash": name}
        )
        splits = {"train": {"train scenes": count}, "test": {"test scenes": 6}}
        sources = {"train scenes": name, "test scenes": "same"}
        write_json(folder.splits, {"hash": name, "splits": splits, "sources": sources, "settings": {}})
    assert len({variant.tested_on for variant in variants_of(runs_of(tmp_path))}) == 1


def test_a_copied_run_counts_once_and_is_reported(tmp_path, capsys):
    for name, seed in (("a", 0), ("a-copy", 0), ("b", 1)):
        record = {"config_hash": "1234"}
        write_run(tmp_path / name, [f"name={name}"], {"ssim": 0.5 + 0.1 * seed, "elbo": -77.7}, seed, record=record)
    compare(tmp_path)
    printed = capsys.readouterr().out
    assert "warning: Equal settings, seed and numbers, counted once: a-copy (as a)." in printed
    assert "2 runs, best in " in printed
    page = (tmp_path / "leaderboard.md").read_text()
    assert "a-copy (as a)" in page
    assert [row["runs"] for row in table(page, "Variants")] == ["2"]
    assert "several runs of seed" not in page
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").open(newline="")))
    assert [row["status"] for row in rows] == ["done", "copy of a", "done"]


def test_seeds_of_only_one_variant_are_reported_in_one_line(tmp_path):
    for seed in range(4):
        write_run(tmp_path / f"a{seed}", ["model=a"], {"ssim": 0.5 + seed}, seed)
    for number in range(28):
        write_run(tmp_path / f"b{number}", [f"model=b{number}"], {"ssim": 0.5})
    lines = [line for line in warnings_of(variants_of(runs_of(tmp_path))) if "lacks seed" in line]
    assert lines == [
        "model=b0 lacks seed 1, 2, 3, model=b1 lacks seed 1, 2, 3, model=b10 lacks seed 1, 2, 3 and 25 more: "
        "means over other seeds do not compare."
    ]


def test_a_line_names_the_run_folder_and_shortens_a_long_label(tmp_path):
    long = [f"model.a_very_long_setting_{number}=1" for number in range(4)]
    write_run(tmp_path / "first", ["model=a", *long], {"ssim": 0.5})
    write_run(tmp_path / "second", ["model=b"], {"ssim": 0.6})
    assert list(ranking_lines(variants_of(runs_of(tmp_path))))[1:] == [
        "  1  model=b  ssim 0.6000  in second",
        "  2  model=a model.a_very_long_setting_0=1 ...  ssim 0.5000  in first",
    ]
