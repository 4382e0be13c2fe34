"""The SAAAE posterior: noise is suppressed where a map, the anchor, is high."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.posteriors.gaussian import Delta, DiagonalGaussian, GaussianHeads
from saaae.posteriors.importance import NORMALIZATIONS, SCORES, TRANSFORMS, is_flat
from saaae.ranges import MAX_ANCHOR, Anchor, PositiveFraction
from saaae.rng import RandomSource


class AnchoredGaussian(DiagonalGaussian):
    """N(mean, (std * factor)^2), where the factor is 1 - a for an anchor a.

    It *is* the Gaussian it samples from, so `kl_effective`, `log_prob` and `rsample` agree by construction. Only
    `kl` may leave that Gaussian, when the nominal KL of the original is asked for.

    Args:
        mean: (B, D) or (B, C, H, W), float32.
        logvar: Log variance of the heads, before the factor.
        log_factor: Log of the noise factor, same shape.
        anchor: The map before its gain (B, D) or (B, 1, H, W), in [0, cap].
        flat: Images (B,) whose raw map was constant, as 0. or 1.
        use_nominal: Put KL(N(mean, std^2)) into the loss, that of the noise *before* the factor: not a bound.
        gain: The learned factor on the anchor (1,), in (-1, 1); None where it is 1.
    """

    def __init__(
        self,
        mean: Tensor,
        logvar: Tensor,
        log_factor: Tensor,
        anchor: Tensor,
        flat: Tensor,
        use_nominal: bool,
        gain: Tensor | None = None,
    ) -> None:
        super().__init__(mean, logvar + 2.0 * log_factor)
        self.nominal = DiagonalGaussian(mean, logvar)
        self.log_factor, self.anchor, self.flat = log_factor, anchor, flat
        self.use_nominal, self.gain = use_nominal, gain

    @property
    def kl(self) -> Tensor:
        """The KL in the loss (B,), in nats: the effective one, or with `use_nominal` the nominal one."""
        return self.nominal.kl if self.use_nominal else self.kl_effective

    @property
    def kl_per_dimension(self) -> Tensor | None:
        """The KL in the loss of each latent dimension (B, D), in nats."""
        return self.nominal.kl_per_dimension if self.use_nominal else super().kl_per_dimension

    def diagnostics(self) -> Mapping[str, Tensor]:
        """Per-image (B,): the KLs in nats, the map's mean and spread, and what a matched uniform factor needs."""
        anchor, log_factor = self.anchor.flatten(1), self.log_factor.flatten(1)
        gain = {} if self.gain is None else {"anchor_gain": self.gain.expand(len(anchor))}
        return {
            "kl_effective": self.kl_effective,
            "kl_nominal": self.nominal.kl,
            "uncharged_nats": self.kl_effective - self.kl,
            "anchor_mean": anchor.mean(1),
            "anchor_spread": anchor.std(1, unbiased=False),
            "anchor_flat": self.flat,
            "noise_power": torch.exp(2.0 * log_factor).mean(1),
            "noise_log_factor": log_factor.mean(1),
            **gain,
        }


class AnchoredPosterior(nn.Module):
    """q(z|x) of SAAAE: z = mean + std * (1 - g a) * eps, a in [0, cap] from self-attention over the features, g = 1.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,) or (C', H, W); a map gets one anchor value per position, shared by its channels.
        map: `attention`, or a control. `uniform`: the same factor everywhere. `shuffled_positions`: the map permuted
            over positions, per image. `shuffled_batch`: the previous image's map (so it depends on the batch).
            `random`: one fixed random map. `inverted`: cap - a. `unused`: computed, then all noise is let through.
            `none`: no map module, the plain VAE bit for bit. `full`: no noise at all, a deterministic autoencoder.
        kl: `effective` is the KL of the distribution of z: the loss is a bound. `nominal` is
            that of the un-scaled noise, as the original does: **not an ELBO**. `budget` redistributes the noise at a
            constant sum of log factors and takes the KL of the distribution of z.
        score: Where the raw map comes from: `projection`, `log_column_sum` (attention received) or `norm`.
        normalization: `per_image`, `per_batch` (the original), `per_image_quantile` or `zscore_sigmoid`.
        cap: Largest anchor; the log-variance head must be able to undo it.
        gain: `fixed`: g = 1. `learned`: g = tanh of a trained number that begins at 0, so that no noise is removed at
            the start, when the loss is that of the plain VAE; a negative g adds noise where the map is high.
        stop_gradient: Train the map through nothing.
        factor: Noise factor in (0, 1] of `map=uniform`; a run folder on the command line becomes a number in the
            resolved configuration.
        match: How a run folder becomes a factor: equal mean log factor (`rate`) or mean squared factor (`power`).

    Raises:
        UserError: If the cap exceeds what the bound on the log variance can undo, or `uniform` lacks its factor.
    """

    importance: nn.Module
    random_scores: Tensor

    def __init__(
        self,
        *,
        feature_shape: Sequence[int],
        latent_shape: Sequence[int],
        map: Literal[
            "attention",
            "uniform",
            "shuffled_positions",
            "shuffled_batch",
            "random",
            "inverted",
            "unused",
            "none",
            "full",
        ],
        kl: Literal["effective", "nominal", "budget"],
        score: Literal["projection", "log_column_sum", "norm"],
        normalization: Literal["per_image", "per_batch", "per_image_quantile", "zscore_sigmoid"],
        cap: Anchor,
        gain: Literal["fixed", "learned"],
        stop_gradient: bool,
        factor: PositiveFraction | str | None,
        match: Literal["rate", "power"],
    ) -> None:
        super().__init__()
        if cap > MAX_ANCHOR:
            raise UserError(f"posterior.cap={cap}: at most {MAX_ANCHOR:.4f}, the bounded log variance must undo it")
        if map == "uniform" and not isinstance(factor, float | int):
            raise UserError(
                f"posterior.factor={'null' if factor is None else factor}: "
                "posterior.map=uniform needs a number in (0, 1] or a run folder"
            )
        if map == "uniform" and kl == "budget":
            raise UserError("posterior.kl=budget: has nothing to redistribute where posterior.map=uniform")
        self.heads = GaussianHeads(feature_shape, latent_shape)
        self.map_kind, self.objective, self.cap, self.stop_gradient = map, kl, cap, stop_gradient
        self.factor = float(factor) if isinstance(factor, float | int) else 1.0
        self.stochastic = self.factorized = map != "full"
        self.normalize = NORMALIZATIONS[normalization]
        self.anchor_shape = tuple(latent_shape) if len(latent_shape) == 1 else (1, *latent_shape[1:])
        if map == "random":
            generator = torch.Generator().manual_seed(torch.initial_seed())
            self.register_buffer("random_scores", torch.randn(1, math.prod(self.anchor_shape), generator=generator))
        elif map in TRANSFORMS:
            self.importance = SCORES[score](feature_shape, latent_shape)
            self.importance.requires_grad_(not stop_gradient)  # DDP refuses parameters without a gradient
        self.gain = (
            nn.Parameter(torch.zeros(1)) if gain == "learned" and (map == "random" or map in TRANSFORMS) else None
        )
        if map == "full":
            self.heads.logvar.requires_grad_(False)

    def forward(self, features: Tensor, rng: RandomSource) -> DiagonalGaussian | Delta:
        """Features (B, C, H, W) to the posterior of the batch; the map is computed in float32 under any precision."""
        mean, logvar = self.heads(features)
        if self.map_kind == "none":
            return DiagonalGaussian(mean, logvar)
        if self.map_kind == "full":
            return Delta(mean)
        with torch.autocast(features.device.type, enabled=False):
            anchor, flat = self._anchor(features.float(), (*self.anchor_shape[:1], *mean.shape[2:]), rng)
        gain = None if self.gain is None else torch.tanh(self.gain)
        log_factor = torch.log1p(-anchor if gain is None else -gain * anchor).expand_as(mean)
        if self.objective == "budget":
            log_factor = log_factor - log_factor.flatten(1).mean(1).view(-1, *[1] * (mean.dim() - 1))
        return AnchoredGaussian(mean, logvar, log_factor, anchor, flat, self.objective == "nominal", gain)

    def _anchor(self, features: Tensor, shape: tuple[int, ...], rng: RandomSource) -> tuple[Tensor, Tensor]:
        """The anchor (B, *shape) and which maps (B,) were flat; a map may be of another size than in training."""
        batch = features.shape[0]  # not len(), which torch.export takes for a constant
        if self.map_kind == "uniform":
            return features.new_full((batch, *shape), 1.0 - self.factor), features.new_zeros(batch)
        raw = self.random_scores.expand(batch, -1) if self.map_kind == "random" else self.importance(features)
        if self.stop_gradient:
            raw = raw.detach()
        anchor = TRANSFORMS[self.map_kind](self.cap * self.normalize(raw), self.cap, rng)
        return anchor.view(batch, *shape), is_flat(raw)
