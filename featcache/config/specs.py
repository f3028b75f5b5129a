"""The options of an extraction, each with default and limits."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.core.arguments import device_name, is_several, option_name
from featcache.core.backbone_kinds import written_name
from featcache.core.dataset_names import dataset_name, with_columns
from featcache.core.options import AUTO, check_fields, option, options_in
from featcache.core.preprocess import MOST_PIXELS
from featcache.core.views import AUGMENTATIONS, VIEWS_OF, Views
from featcache.errors import UsageError

IMPORTED = "imported"
NOTEBOOK_SIZE = 224  # side of what enters the notebook's backbones, in pixels

POOLS = ("default", "flatten", "avg", "max", "cls", "mean", "cls+mean")
BN_MODES = ("frozen", "adapted")
STORE_DTYPES = ("float32", "float16")
MAX_PIXELS = 178_956_970  # of an image; PIL's own: 0.5 GiB of RGB
_MOST_OF_ANY_IMAGE = 10**16
# Counts that provenance keeps: images with values clipped to 0..255, and images not upright.
TOLD_OF_HEADERS = ("clipped_images", "exif_turned_images")
EXIF_ORIENTATIONS = ("ignore", "apply")
RECIPES = ("auto", "notebook", "general")
SPLITS = ("test", "val", "train")
MOST_ROWS = 1 << 30  # in one step or pass; more than any split has
MOST_SEEDS = 10_000  # seeds of one training; each makes a folder
MOST_VIEWS = 64  # of an image; a batch of rows has them all in memory


@options_in("Backbone")
@dataclass(frozen=True, kw_only=True)
class ExtractSpec:
    """Everything that `extract` can be asked for."""

    dataset: str = option(
        "cifar10",
        "The images: cifar10, cifar100, digits, torchvision:NAME, folder:PATH, images:PATH, "
        "list:FILE, parquet:FILES, tar:SHARDS or zip:FILE.",
        group="Images",
    )
    backbone: str = option(
        "vgg16",
        "The frozen network: a torchvision classification model, timm:NAME, "
        "PACKAGE.MODULE:FUNCTION, or pixels.",
    )
    weights: str = option(
        "DEFAULT", "DEFAULT, the name of torchvision weights, a file, FILE#PART, or random."
    )
    layer: str | None = option(
        None,
        "Take the output of this part of the backbone; `backbones NAME --layers` lists them.",
        unset="what enters the classifier",
    )
    pool: str = option(
        "default",
        "How that output becomes a row; default is avg for maps, mean for tokens, and without "
        "--layer the backbone's own.",
        choices=POOLS,
    )
    bn: str = option(
        "frozen",
        "BatchNorm statistics: those of the weights, or estimated again on the training images.",
        choices=BN_MODES,
    )
    preprocess: str = option(
        AUTO,
        "Preparation of the images: notebook (a square, mean and std 0.5), or that of the weights. "
        "auto is weights for timm, else notebook.",
        choices=(AUTO, "notebook", "weights"),
    )
    image_size: int | None = option(
        None,
        "Side of the square that enters the backbone, in pixels; auto: that of timm's weights, "
        f"else {NOTEBOOK_SIZE}.",
        least=1,
        most=MOST_PIXELS,
        unset=AUTO,
    )
    precision: str = option(
        "auto",
        "Arithmetic of the backbone. auto is fp32 on a CPU, and tf32 on a GPU with tensor cores.",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
        group="Machine",
    )
    store_dtype: str = option(
        "float32", "Type of the stored features.", choices=STORE_DTYPES, group="Cache"
    )
    device: str = option("auto", "Where to compute: auto, cpu, cuda or cuda:N.", group="Machine")
    batch_size: int | None = option(
        None,
        "Images in one forward pass; auto: by free memory.",
        least=1,
        most=MOST_ROWS,
        unset=AUTO,
        group="Machine",
    )
    n_workers: int | None = option(
        None,
        "Processes that decode image files; auto: one for each core, 8 at most for a CPU.",
        least=0,
        unset=AUTO,
        group="Machine",
    )
    limit: int | None = option(
        None,
        "Take only this many images of each split, evenly spaced.",
        least=1,
        unset="all",
        group="Images",
    )
    path_column: str | None = option(
        None,
        "Column of a list or table with the images or their paths.",
        unset="path, file_name",
        group="Images",
    )
    label_column: str | None = option(
        None,
        "Column of a list or table, or key of KEY.json in an archive, with the labels.",
        unset="label",
        group="Images",
    )
    views: int = option(
        1,
        "Views of each training image to keep: the plain one, and others that are drawn. A head "
        "is given one of them in each epoch.",
        least=1,
        most=MOST_VIEWS,
        group="Views",
    )
    augment: tuple[str, ...] = option(
        AUGMENTATIONS,
        "What makes the other views, with commas between: flip mirrors every second one, crop "
        "takes a part of 60% to 100% of the area.",
        choices=AUGMENTATIONS,
        group="Views",
    )
    views_of: str = option(
        "train",
        "Which splits have several views: train, or all, for eval --tta.",
        choices=VIEWS_OF,
        group="Views",
    )
    seed: int = option(0, "Seed of random weights and of the views.", least=0)
    cache_dir: str = option("cache", "Folder of all caches.", group="Cache")
    data_dir: str = option("data", "Folder of downloaded datasets.", group="Images")
    compile: str = option(
        "auto",
        "Compile the backbone. auto tries it where the job is long enough to pay; winograd and "
        "inductor are for a CPU, fused is for CUDA.",
        choices=("auto", "never", "winograd", "inductor", "fused"),
        group="Machine",
    )
    mix_numerics: bool = option(
        False, "Continue a partial file of different hardware or library versions.", group="Cache"
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "Do not decode an image file that has more pixels.",
        least=1,
        most=_MOST_OF_ANY_IMAGE,
        group="Images",
    )
    exif_orientation: str = option(
        "ignore",
        "Rotation that EXIF asks for: ignore it as torchvision does, or apply it (phone photos).",
        choices=EXIF_ORIENTATIONS,
        group="Images",
    )
    skip_undecodable: bool = option(
        False,
        "Continue where this machine cannot decode an image, for lack of memory or time; `cache "
        "repair` can compute it later.",
        group="Images",
    )
    rehash: bool = option(
        False,
        "Read every file of the images and weights again, also where size and times say that it "
        "did not change.",
        group="Images",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", dataset_name(self.dataset))
        self._divide_augment()
        check_fields(self)
        self._settle_views()
        self._put_columns_into_the_name()
        object.__setattr__(self, "device", device_name(self.device))
        object.__setattr__(self, "backbone", written_name(self.backbone))

    @property
    def drawn_views(self) -> Views:
        """The views that are asked for."""
        return Views(n=self.views, augment=self.augment, of=self.views_of, seed=self.seed)

    def _divide_augment(self) -> None:
        """Take "flip,crop" as it is typed, alone or among others."""
        given = self.augment if is_several(self.augment) else (self.augment,)
        parts = (one.split(",") if isinstance(one, str) else [one] for one in given)
        words = (one.strip() if isinstance(one, str) else one for part in parts for one in part)
        object.__setattr__(self, "augment", tuple(word for word in words if word != ""))

    def _settle_views(self) -> None:
        """Put augmentations into one order, and refuse what would change nothing."""
        in_order = tuple(name for name in AUGMENTATIONS if name in self.augment)
        object.__setattr__(self, "augment", in_order)
        for name, usual in (("augment", AUGMENTATIONS), ("views_of", "train")):
            if self.views == 1 and getattr(self, name) != usual:
                raise UsageError(
                    f"{option_name(name)} does nothing with --views 1, which keeps the plain view "
                    f"alone. Nothing was started. Ask for more --views, or leave it out."
                )
        if not self.augment:
            raise UsageError(
                f"--augment is empty, so that all {self.views} views would be the same. Nothing "
                f"was started. Give flip, crop or both."
            )

    def _put_columns_into_the_name(self) -> None:
        """Say the columns in the name, by which a repair and others find the images again."""
        asked = {"path": self.path_column, "label": self.label_column}
        said = {kind: column for kind, column in asked.items() if column is not None}
        object.__setattr__(self, "dataset", with_columns(self.dataset, said))
        for kind in said:
            object.__setattr__(self, f"{kind}_column", None)
