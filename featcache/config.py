"""What a run is made of, as frozen dataclasses: every default, once; canonical JSON; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.core.arguments import (
    coerce_fields,
    device_name,
    is_several,
    one_of,
    option_name,
    require_above_zero,
    require_at_least,
    require_at_most,
    typed,
)
from featcache.core.dataset_names import dataset_name
from featcache.core.preprocess import MOST_PIXELS
from featcache.errors import UsageError

IMPORTED = "imported"

BN_MODES = ("frozen", "adapted")
PREPROCESS_KINDS = ("notebook", "weights")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
STORE_DTYPES = ("float32", "float16")
MAX_PIXELS = 178_956_970  # of an image; PIL's own: 0.5 GiB of RGB
# What provenance counts of image files: values clipped to 0..255, and pixels that are not upright.
TOLD_OF_HEADERS = ("clipped_images", "exif_turned_images")
EXIF_ORIENTATIONS = ("ignore", "apply")
COMPILE_MODES = ("auto", "never", "winograd", "inductor", "fused")
REGULARISATIONS = ("none", "l1", "l2", "l1l2", "dropout")
SELECTIONS = ("last", "best")
RECIPES = ("auto", "notebook", "general")
MOST_LAYERS = 64
MOST_ROWS = 1 << 30  # in one step or pass; more than any split has
MOST_SEEDS = 10_000  # heads that differ in nothing else, a folder each
VAL_FRACTION = 0.2  # of the training rows, where neither a share nor a split "val" is given

# What each regularisation has, and the notebook's constants.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "l1": ("l1",),
    "l2": ("weight_decay",),
    "l1l2": ("l1", "weight_decay"),
    "dropout": ("dropout",),
}
CONSTANTS: Mapping[str, Any] = {"l1": 1e-5, "weight_decay": 1e-4, "dropout": (0.5, 0.3)}


@dataclass(frozen=True, kw_only=True)
class ExtractSpec:
    """Everything that `extract` can be asked for.

    Attributes:
        dataset: "cifar10", "cifar100", "digits", "folder:PATH" or "torchvision:NAME".
        backbone: A torchvision classification model, or "pixels".
        weights: "DEFAULT", a torchvision weights name, a path to a state dict, or "random".
        bn: "frozen" (the weights' running statistics) or "adapted" (re-estimated on the training
            images, then frozen).
        preprocess: "notebook" (resize to a square, mean and std 0.5) or "weights" (the transform
            that belongs to the weights).
        image_size: Side of the square that enters the backbone, in pixels.
        precision: Arithmetic of the backbone; "auto" is fp32 on a CPU and tf32 on CUDA, where there
            are tensor cores for it.
        store_dtype: Type of the stored features.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: Images in one forward pass; None or "auto" means by free memory.
        n_workers: Decoding processes for image files; None or "auto" means one a core (8 at most
            for a CPU).
        limit: Take this many images of each split, evenly spaced; None means all.
        seed: Seeds `weights="random"`.
        cache_dir: Folder of all caches.
        data_dir: Folder of downloaded datasets.
        compile: Whether to compile the backbone: "auto" tries it where the job is long enough
            to pay; "never"; or an engine, "winograd" or "inductor" on a CPU, "fused" on CUDA.
        mix_numerics: Go on with a partial file whose rows were made by another numeric class.
        max_pixels: An image file whose header says more pixels is not decoded.
        exif_orientation: "ignore", as torchvision does, or "apply", for photos of phones.
        skip_undecodable: Go on where this machine cannot decode an image, for lack of memory or
            because it takes more than 60 CPU seconds; its row is marked, and repair computes it.
    """

    dataset: str = "cifar10"
    backbone: str = "vgg16"
    weights: str = "DEFAULT"
    bn: str = "frozen"
    preprocess: str = "notebook"
    image_size: int = 224
    precision: str = "auto"
    store_dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    n_workers: int | None = None
    limit: int | None = None
    seed: int = 0
    cache_dir: str = "cache"
    data_dir: str = "data"
    compile: str = "auto"
    mix_numerics: bool = False
    max_pixels: int = MAX_PIXELS
    exif_orientation: str = "ignore"
    skip_undecodable: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_workers"):
            if isinstance(getattr(self, name), str) and getattr(self, name) == "auto":
                object.__setattr__(self, name, None)
        object.__setattr__(self, "dataset", dataset_name(self.dataset))
        coerce_fields(self)
        _choose(
            self,
            bn=BN_MODES,
            preprocess=PREPROCESS_KINDS,
            precision=PRECISIONS,
            store_dtype=STORE_DTYPES,
            compile=COMPILE_MODES,
            exif_orientation=EXIF_ORIENTATIONS,
        )
        object.__setattr__(self, "device", device_name(self.device))
        object.__setattr__(self, "backbone", self.backbone.lower())  # as all of them are written
        require_at_least("--image-size", self.image_size, 1)
        require_at_most("--image-size", self.image_size, MOST_PIXELS)
        require_at_least("--batch-size", self.batch_size, 1)
        require_at_most("--batch-size", self.batch_size, MOST_ROWS)
        require_at_least("--n-workers", self.n_workers, 0)
        require_at_least("--limit", self.limit, 1)
        require_at_least("--seed", self.seed, 0)
        require_at_least("--max-pixels", self.max_pixels, 1)

    def refuse_backbone_options(self) -> None:
        """Refuse the options that "pixels" has no use for, since it runs no network.

        Raises:
            UsageError: Naming the option.
        """
        for option in ("bn", "preprocess", "precision", "store_dtype", "compile"):
            value = getattr(self, option)
            if value != getattr(ExtractSpec, option):
                raise UsageError(
                    f"{option_name(option)} {value} needs a backbone, but the backbone "
                    f"'pixels' stores the images as they are. Nothing was started. Leave the "
                    f"option out."
                )


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The shape of a head and its regularisation; None stands for the notebook's constant.

    Attributes:
        hidden: Widths of the hidden layers, with ReLU after each; empty is a linear probe.
        reg: "none", "l1", "l2", "l1l2" or "dropout".
        l1: Factor of the sum of all |parameters|, biases among them, in the loss; 1e-5 where `reg`
            has l1, else 0.
        weight_decay: Adam's (coupled) L2 factor; 1e-4 where `reg` has l2, else 0.
        dropout: Probability after each hidden layer's ReLU; one number is for all of them;
            (0.5, 0.3) where `reg` is "dropout", else none.
    """

    hidden: tuple[int, ...] = (50, 20)
    reg: str = "none"
    l1: float | None = None
    weight_decay: float | None = None
    dropout: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        is_one = self.dropout is not None and not is_several(self.dropout)
        coerce_fields(self)
        _choose(self, reg=REGULARISATIONS)
        if len(self.hidden) > MOST_LAYERS:
            raise UsageError(
                f"--hidden has {len(self.hidden)} layers, but must have at most {MOST_LAYERS}."
            )
        if is_one and self.dropout and self.reg == "dropout":
            object.__setattr__(self, "dropout", self.dropout * len(self.hidden))
        for width in self.hidden:
            require_at_least("--hidden", width, 1)
        self._settle("l1", off=0.0)
        self._settle("weight_decay", off=0.0)
        self._settle("dropout", off=())
        require_above_zero("--l1", self.l1, or_zero="l1" not in USED_BY[self.reg])
        require_above_zero(
            "--weight-decay", self.weight_decay, or_zero="weight_decay" not in USED_BY[self.reg]
        )
        self._check_dropout()

    def _settle(self, name: str, *, off: Any) -> None:
        """Put the constant where nothing was given; refuse a value that `reg` leaves no use for."""
        value = getattr(self, name)
        if name in USED_BY[self.reg]:
            object.__setattr__(self, name, CONSTANTS[name] if value is None else value)
        elif value is None or value == off:
            object.__setattr__(self, name, off)
        else:
            regs = [reg for reg, names in USED_BY.items() if name in names]
            raise UsageError(
                f"{option_name(name)} {typed(value)} does nothing with --reg {self.reg}. "
                f"Nothing was started. Use --reg {' or '.join(regs)}, or leave it out."
            )

    def _check_dropout(self) -> None:
        if self.reg != "dropout":
            return
        assert self.dropout is not None, "settled before"
        if not self.hidden:
            raise UsageError(
                "--reg dropout zeroes hidden units, but a linear probe (--hidden '') has none. "
                "Nothing was started. Use another --reg, or --hidden."
            )
        if len(self.dropout) != len(self.hidden):
            raise UsageError(
                f"--dropout has {len(self.dropout)} probabilities ({typed(self.dropout)}), but "
                f"--hidden has {len(self.hidden)} layers ({typed(self.hidden)}); expected one "
                f"for each hidden layer."
            )
        for p in self.dropout:
            if not 0 <= p < 1:
                raise UsageError(f"--dropout has {p:g}, but must be at least 0 and below 1.")


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a head is trained; the defaults are the notebook's VGG16 systems.

    Attributes:
        lr: Learning rate of Adam.
        batch_size: Rows in one step; the last batch of an epoch may be smaller.
        max_epochs: Epochs at most.
        patience: Stop after this many epochs without a better val_loss; 0 never stops early. None
            leaves it to a recipe.
        min_delta: By how much val_loss must fall to count as better.
        val_fraction: Share of the training rows kept for validation; None is 0.2, or the cache's
            own split "val" where there is one.
        split_seed: Seeds the choice of those rows.
        select: Keep the weights of the "last" epoch, or of the "best" by val_loss.
        seed: Seeds initial weights, order of batches and dropout.
        order_seed: Seeds the order of batches apart, as a sweep does whose heads share them.
        window_rows: Keep only so many training rows in memory, and shuffle within them.
    """

    lr: float = 1e-5
    batch_size: int = 64
    max_epochs: int = 5
    patience: int | None = None
    min_delta: float = 0.001
    val_fraction: float | None = None
    split_seed: int = 42
    select: str = "last"
    seed: int = 0
    order_seed: int | None = None
    window_rows: int | None = None

    def __post_init__(self) -> None:
        coerce_fields(self)
        if self.order_seed == self.seed:
            object.__setattr__(self, "order_seed", None)  # says nothing
        require_at_least("--order-seed", self.order_seed, 0)
        require_above_zero("--lr", self.lr)
        require_at_least("--batch-size", self.batch_size, 1)
        require_at_most("--batch-size", self.batch_size, MOST_ROWS)
        require_at_least("--max-epochs", self.max_epochs, 1)
        require_at_least("--patience", self.patience, 0)
        require_above_zero("--min-delta", self.min_delta, or_zero=True)
        require_at_least("--split-seed", self.split_seed, 0)
        _choose(self, select=SELECTIONS)
        require_at_least("--seed", self.seed, 0)
        require_at_least("window_rows", self.window_rows, 1)
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UsageError(
                f"--val-fraction is {self.val_fraction:g}, but must be above 0 and below 1."
            )

    @property
    def seed_of_order(self) -> int:
        """What seeds the order of batches."""
        return self.seed if self.order_seed is None else self.order_seed


def _choose(spec: Any, **allowed: tuple[str, ...]) -> None:
    """Put words of lists into a frozen dataclass as they stand in the lists."""
    for name, words in allowed.items():
        word = one_of(option_name(name), getattr(spec, name), words)
        object.__setattr__(spec, name, word)
