"""What the page asks for: an image, what is done to it, and how its latents are changed."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Key = Annotated[str, Field(pattern=r"^\d{1,5}(@\d{1,4}\.\d{1,4})?$")]
Value = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
ImageName = Annotated[str, Field(pattern=r"^(test/\d{1,9}|own/[0-9a-f]{16}|prior/\d{1,9}/\d{1,4})$")]
Cell = tuple[Annotated[int, Field(ge=0, lt=4096)], Annotated[int, Field(ge=0, lt=4096)]]


class Recipe(BaseModel):
    """One state of the page, without what is only about its looks.

    Attributes:
        model: Number of the run.
        image: `test/<position>`, `own/<digest>`, or `prior/<seed>/<number>` for a sample of the prior.
        corruption: `run` for that of the (first) run, which only its test images have, `none`, or a name of
            `saaae.explore.corruptions`. Samples of the prior have none.
        strength: How strong the corruption is, from 0 to 1.
        noise: Seed of the corruption.
        label: Class that is decoded, of a conditional model; None for the image's own, or 0 if it has none.
        edits: Values of latents by `<dimension>`, of a latent map the mean of a channel, or `<channel>@<row>.<column>`.
        cell: Row and column of the chosen cell of a latent map; None for the mean over all.
        other: The image at the end of the path; None for no path.
        share: Position on the path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[int, Field(ge=0, le=1)] = 0
    image: ImageName = "test/0"
    corruption: Annotated[str, Field(max_length=20)] = "run"
    strength: Share = 0.5
    noise: Number = 0
    label: Number | None = None
    edits: Annotated[dict[Key, Value], Field(max_length=4096)] = {}
    cell: Cell | None = None
    other: ImageName | None = None
    share: Share = 0.0


class Plane(Recipe):
    """Two dimensions whose plane is shown."""

    x: Number
    y: Number


class Samples(Recipe):
    """Samples of the prior."""

    seed: Annotated[int, Field(ge=0, lt=10**9)] = 0


class Both(BaseModel):
    """What a downloaded picture shows: a recipe for each run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipes: Annotated[list[Recipe], Field(min_length=1, max_length=2)]
