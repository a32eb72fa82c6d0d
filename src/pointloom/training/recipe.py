"""A training recipe: everything that decides what a run computes, as one frozen value read from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from pointloom.errors import MissingExtraError, OptionError

Moment = Literal["first", "middle", "last"]


@dataclass(frozen=True)
class LayeredRecipe:
    """Layered clips that are made while training: see `pointloom.datasets.synthetic.LayeredConfig`."""

    size: tuple[int, int] = (512, 512)  # (width, height)
    frames: int = 120
    tracks: int = 2048


@dataclass(frozen=True)
class SourceShare:
    """Where clips come from, and how often.

    kind    `pool`; `layered`; or the name of a data set whose clips can be read in any order, such as `kubric`
    folder  of the pool or the data set; of the photos for layered clips, none: their textures are drawn
    """

    kind: str = "pool"
    folder: str | None = None
    weight: float = 1.0
    layered: LayeredRecipe = field(default_factory=LayeredRecipe)


@dataclass(frozen=True)
class Augmentation:
    """How clips are changed, for trackers of full size. The defaults are CoTracker3's; pairs are (lowest, highest)."""

    size: tuple[int, int] = (512, 384)  # (width, height) of what the model sees
    reversed: float = 0.0  # chance that a clip is played backwards

    # covered patches: the chances are those of a frame after the first
    erased: float = 0.5  # of patches that take their mean colour
    replaced: float = 0.0  # of patches that show another frame
    patches: tuple[int, int] = (1, 10)  # in such a frame
    patch_px: tuple[int, int] = (2, 99)  # width and height of each

    # colours and blur: the chances are those of a clip, the values are drawn for every frame
    recoloured: float = 0.25
    brightness: float = 0.2  # largest change of a factor, as are the next two
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.25 / 3.14  # largest turn, in full circles
    blurred: float = 0.25
    blur_px: tuple[float, float] = (0.1, 2.0)  # standard deviation

    # the frame through which a clip is seen
    padding_px: int = 24  # largest black border on each side
    zoom: tuple[float, float] = (0.75, 1.25)
    zoom_drift: float = 0.05  # largest change from frame to frame
    crop_drift_px: int = 15
    flipped: tuple[float, float] = (0.5, 0.5)  # chances of mirroring left and right, above and below


@dataclass(frozen=True)
class DataRecipe:
    """Which clips a step sees, and how they are changed. The defaults suit small trackers and two cores."""

    sources: list[SourceShare] = field(default_factory=list)
    clips: int = 1  # a step and process: pairs when matching, clips when tracking
    workers: int = 0  # processes that prepare clips ahead of each training process; 0: it does so itself

    # what of a clip
    frames: tuple[int, int] = (16, 24)  # shortest and longest clip when tracking
    longest_stride: int = 1  # every 1st .. every n-th frame, as far as the clip is long enough
    long_exposure: float = 0.0  # share of clips of which frames are skipped that show a bit of the skipped ones

    # how it is changed: as CoTracker3 does, or more lightly
    augmentation: Augmentation | None = None
    warped: float = 0.5  # without it: share of pairs whose second frame is turned and zoomed; of clips, with drift
    softened: float = 0.0  # without it: share of clips that look like enlarged ones, by a factor of 1 to 2

    # which points
    points: int = 64  # of each clip
    seen_in: list[Moment] = field(default_factory=list)  # frames of which in one a point must be seen; none: in any
    repeated: bool = True  # a clip with fewer points gives some twice; else it is passed over
    farthest_px: float | None = None  # leaves out tracks that are ever further from the middle, or not known
    anywhere: float = 0.5  # share of the queries that lie in any frame where the point is seen, not in the first one


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW, and how its rate changes: see `pointloom.training.optimization`."""

    rate: float = 1e-3  # the highest
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    warmup: int = 100  # steps
    final_rate: float = 0.01  # factor at the end of the cosine
    encoder_rate: float = 1.0  # factor; 0 freezes the encoder
    decay: float = 1e-3
    decayed: Literal["matrices", "all"] = "matrices"  # parameters
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0  # largest gradient norm
    average: float = 0.0  # decay of the running average of the weights; 0: none


@dataclass(frozen=True)
class TrackingRecipe:
    """How the refiner is trained. The defaults are those of small trackers; CoTracker3's are in its recipes."""

    iterations: int = 3
    jittered: float = 0.0  # share of whole clips that start near the truth instead of at the query
    windowed: float = 0.5  # share of clips on which windows are unrolled
    window: tuple[int, int] = (8, 16)
    masked: bool = True  # in windows, points do not exist before their queries, as `Tracker` does by default
    recomputed: bool = False  # activations are computed again for the backward pass: less memory, more time
    matching_weight: float = 0.0  # of the matching loss, kept on so that the encoder stays discriminative
    matching_pairs: int = 1  # random pairs of frames for that loss; TAPIR's takes single frames
    visible: float = 0.3
    occluded: float = 0.01
    confidence: float = 1.0
    visibility: float = 1.0
    gamma: float = 0.8
    penalty: Literal["charbonnier", "huber", "logarithmic"] = "charbonnier"
    charbonnier_px: float = 0.5  # width of its rounded tip, and of the logarithmic penalty's
    reach_px: float = 4.0  # beyond it the logarithmic penalty flattens
    confidence_px: float = 6.0
    known_only: bool = False  # the two probabilities are learned where the truth is known, not in every frame


@dataclass(frozen=True)
class Recipe:
    """One run."""

    model: str
    objective: Literal["matching", "tracking"]
    steps: int
    seed: int = 0
    start_from: str | None = None  # weights to start from
    processes: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    tracking: TrackingRecipe = field(default_factory=TrackingRecipe)
    validation: str | None = None  # a pool of held-back clips
    validation_clips: int = 24
    validate_every: int = 500  # steps
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.steps < 1 or self.processes < 1:
            raise OptionError(f"steps and processes must be at least 1, got {self.steps} and {self.processes}.")
        if not self.data.sources:
            raise OptionError("the recipe names no clips: set data.sources.")
        if self.objective == "matching" and self.data.augmentation:
            raise OptionError("data.augmentation is for clips; pairs are turned and zoomed by data.warped.")
        shortest, longest = self.data.frames
        if not 2 <= shortest <= longest:
            raise OptionError(f"data.frames is the shortest and the longest clip, from 2; got {shortest, longest}.")
        shortest, longest = self.tracking.window
        if not 2 <= shortest <= longest:
            raise OptionError(
                f"tracking.window is the shortest and the longest window, from 2; got {shortest, longest}."
            )
        if self.validate_every < 1 or self.seed < 0:
            raise OptionError(
                f"validate_every must be at least 1 and seed at least 0, got {self.validate_every} and {self.seed}."
            )


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; `overrides` are like `optimizer.rate=1e-4`."""
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError
    except ImportError as error:
        raise MissingExtraError("omegaconf", "train") from error
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Recipe), OmegaConf.load(path), OmegaConf.from_dotlist(overrides or [])
        )
        return cast(Recipe, OmegaConf.to_object(merged))
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}. Recipes are YAML files, see recipes/.") from error
    except (OmegaConfBaseException, YAMLError) as error:
        raise OptionError(f"{path}: {str(error).splitlines()[0]}") from error
