"""The anchored prior against the VAE, its warm-up alone, the learned prior and the anchor, paired by seed.

`python benchmarks/anchored_prior.py 5 [arms=vae,anchored-prior] [overrides]` trains each of ARMS, or some of them, with
five seeds and prints the mean of each metric, then its differences from other arms with 95 % t-intervals over seeds,
and the p-value of the difference in ELBO, adjusted for the number of arms in the table (Holm 1979). The overrides are
those of all runs, such as `threads=1 importance_samples=50`, and `data=mnist` for vectors. Runs are in
outputs/anchored-prior, or in OUTPUTS of the environment: other overrides need another folder. A repeated command
continues the runs that were interrupted and reads those that have finished.
"""

import os
import sys
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from progressive import results, trained
from scipy.stats import ttest_rel

from saaae.metrics.intervals import mean_interval

OUTPUTS = Path(os.environ.get("OUTPUTS", "outputs/anchored-prior"))
ARMS = {
    "vae": ["model=vae"],
    "vae-warmup": ["model=vae", "beta=warmup"],
    "learned-prior": ["model=saaae_prior", "posterior.prior=learned"],
    "anchored-prior": ["model=saaae_prior"],
    "anchored-attention": ["model=saaae_prior", "posterior.attention=true"],
    "other-w": ["model=saaae_prior", "posterior.prior=hyper_shuffled"],
    "saaae": ["model=saaae"],
    "saaae-gain": ["model=saaae", "posterior.gain=learned"],
}
"""Overrides of each arm."""
BASES = ("vae", "vae-warmup", "learned-prior")
"""What the other arms are compared with."""
METRICS = ("elbo", "iw_elbo", "kl", "nll", "ssim", "psnr", "ssim_clean", "psnr_clean", "active_units")


def numbers(arm: str, seed: int, words: list[str]) -> dict[str, float]:
    """Test metrics of a finished run, and the difference of its deletion test with 25 % of the cells hidden."""
    content: dict[str, Any] = results(trained(OUTPUTS / f"{arm}-{seed}", [*ARMS[arm], f"seed={seed}", *words]))
    found = {name: content["test"][name] for name in METRICS if name in content["test"]}
    return found | {name: content[name]["difference"][1] for name in ("deletion_kl", "deletion") if name in content}


def table(title: str, rows: dict[str, dict[str, str]]) -> None:
    """Prints texts by arm and metric."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"\n| {title} | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for arm, row in rows.items():
        print(f"| {arm} | {' | '.join(row.get(name, '-') for name in columns)} |", flush=True)


def digits(metric: str) -> int:
    """Decimals that a metric is printed with."""
    return 3 if "ssim" in metric or "deletion" in metric else 2


def differences(found: dict[str, list[dict[str, float]]], base: str) -> dict[str, dict[str, str]]:
    """Each arm minus another one: mean and half width of the 95 % interval of the differences paired by seed."""
    rows: dict[str, dict[str, str]] = {arm: {} for arm in found if arm != base}
    for arm in rows:
        for name in [name for name in found[arm][0] if name in found[base][0]]:
            pairs = zip(found[arm], found[base], strict=True)
            mean, half = mean_interval([ours[name] - theirs[name] for ours, theirs in pairs])
            rows[arm][name] = f"{mean:+.{digits(name)}f} +- {half:.{digits(name)}f}"
    for arm, p in holm({arm: [run["elbo"] for run in runs] for arm, runs in found.items()}, base).items():
        rows[arm]["p of elbo"] = f"{p:.3f}"
    return rows


def holm(values: dict[str, list[float]], base: str) -> dict[str, float]:
    """The p-value of each arm's mean difference from another one, paired t-tests, adjusted for their number."""
    p = {arm: float(ttest_rel(ours, values[base]).pvalue) for arm, ours in values.items() if arm != base}
    known = sorted((arm for arm in p if not isnan(p[arm])), key=lambda arm: p[arm])  # one seed has no p-value
    largest = 0.0
    for rank, arm in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p[arm]))
        p[arm] = largest
    return p


def main(seeds: int, words: list[str]) -> None:
    """Trains seed by seed, so that an interrupted comparison is one of fewer seeds, and prints the tables."""
    chosen = next((word[5:].split(",") for word in words if word.startswith("arms=")), list(ARMS))
    if unknown := [arm for arm in chosen if arm not in ARMS]:
        sys.exit(f"arms={','.join(unknown)}: no such arm; expected some of {', '.join(ARMS)}")
    words = [word for word in words if not word.startswith("arms=")]
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in chosen}
    for seed in range(seeds):
        for arm, runs in found.items():
            runs.append(numbers(arm, seed, words))
    means = {
        arm: {name: f"{fmean(run[name] for run in runs):.{digits(name)}f}" for name in runs[0]}
        for arm, runs in found.items()
    }
    table(f"mean of {seeds} seeds", means)
    for base in [base for base in BASES if base in found]:
        table(f"minus {base}", differences(found, base))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:])
