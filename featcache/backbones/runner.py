"""A backbone on its device: uint8 images in, checked features out."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.backbones.cast_weights import Forward, with_weights_cast
from featcache.backbones.in_flight import InFlight
from featcache.core.arithmetic import HALVES, arithmetic
from featcache.core.failures import device_failures_named, may_be_out_of_memory
from featcache.core.memory import MemoryWatch, forget_failed_batch
from featcache.core.preprocess import Preprocess
from featcache.core.stopping import breakable
from featcache.errors import DeviceError, FeatcacheError
from featcache.images.transform import BatchPreprocessor

_MEMORY_FORMATS = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
_N_AHEAD = 2  # batches: one waits and one computes, while another lands


class BackboneRunner:
    """Runs a frozen module over batches of one fixed shape.

    Attributes:
        module: (B, 3, s, s) -> (B, D), in eval mode, on its device, in float32.
        eager: The same function of the same weights; on a GPU they are cast to half precision
            once, where that is the arithmetic.
        forward: What runs: `eager`, or the module compiled.
        memory_format: "channels_last" or "contiguous", of weights and inputs.
        out_size: (height, width) of what enters the module.
        batch_size: Images in every forward pass.
        seconds: Time spent so far, by "preprocess", "trunk" and "check" (rows looked at, converted
            and put in place); of a GPU, waiting for it counts as "trunk".
        n_ahead: Batches in flight beyond the one that is waited for.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        preprocess: Preprocess,
        device: str,
        precision: str,
        batch_size: int,
    ) -> None:
        """Put `module` on `device`.

        Args:
            module: (B, 3, s, s) -> (B, D), in eval mode.
            preprocess: What makes the module's input of the images that come.
            device: "cpu" or "cuda:N".
            precision: "fp32", "tf32", "bf16" or "fp16".
            batch_size: Images in every forward pass.
        """
        self.device = device
        self.precision = precision
        self.out_size = preprocess.out_size
        self.batch_size = batch_size
        self.seconds: dict[str, float] = defaultdict(float)
        self.n_ahead = 0 if device == "cpu" else _N_AHEAD
        self._preprocess = preprocess
        self._uploads: torch.cuda.Stream | None = None
        self._copies: torch.cuda.Stream | None = None
        self._preprocessors: dict[tuple[int, int], BatchPreprocessor] = {}
        # channels_last: 1.3 times the speed for VGG16 and twice for MobileNetV2 on a CPU, and what
        # tensor cores want on a GPU (docs/benchmarks.md).
        self.module = module
        self.lay_out("channels_last")

    def lay_out(self, memory_format: str) -> None:
        """Put the weights into a memory format, and the inputs from now on; it runs eagerly then.

        Args:
            memory_format: "channels_last" or "contiguous".
        """
        self.memory_format = memory_format
        layout = _MEMORY_FORMATS[memory_format]
        self.module = self.module.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.eager: Forward = self.module
        if self.device != "cpu" and self.precision in HALVES:
            self.eager = with_weights_cast(self.module, HALVES[self.precision])
        self.forward: Forward = self.eager

    def prepare_by(self, preprocess: Preprocess) -> None:
        """Make the module's input otherwise from now on, of images that come in another way."""
        if preprocess != self._preprocess:
            self._preprocess = preprocess
            self._preprocessors.clear()

    def probe(
        self,
        image_shape: tuple[int, int, int],
        *,
        may_halve: bool,
        watch: type[MemoryWatch] = MemoryWatch,
    ) -> int:
        """Run one batch of zeros, and find the batch size that fits into memory.

        It fits with memory to spare: on a full GPU the same batch would be computed by other
        algorithms, with other last digits.

        Args:
            image_shape: (H, W, 3) of the images that will come.
            may_halve: Whether to halve `batch_size` until it fits.
            watch: Tells how near to full the memory was.

        Returns:
            The batch size from now on.

        Raises:
            DeviceError: If it does not fit, or not even one image does.
        """
        while True:
            memory = watch(self.device)
            may_halve = may_halve and self.batch_size > 1
            try:
                self.features(np.zeros((1, *image_shape), np.uint8))
            except DeviceError as err:
                if not (may_halve and may_be_out_of_memory(err.__cause__ or err)):
                    raise
            else:
                if not (may_halve and memory.was_short()):
                    self.seconds.clear()
                    return self.batch_size
            self.batch_size //= 2
            forget_failed_batch(self.device)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the module inside, in its precision, with the device's failures named.

        Raises:
            DeviceError: If the device fails or has no memory left.
        """
        try:
            with breakable(), arithmetic(self.precision, self.device):
                yield
        except (RuntimeError, MemoryError) as err:
            if isinstance(err, FeatcacheError):
                raise
            raise DeviceError(
                f"The backbone failed on {self.device} with a batch of {self.batch_size}: {err}. "
                f"All acknowledged rows are kept. The same command goes on from there; if memory "
                f"is short, a smaller --batch-size needs --mix-numerics for the same file."
            ) from err

    def inputs(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Make the module's input, (B, 3, s, s) float32, from (B, H, W, 3) uint8."""
        size = (images.shape[1], images.shape[2])
        if size not in self._preprocessors:
            self._preprocessors[size] = BatchPreprocessor(
                self._preprocess, in_size=size, device=torch.device(self.device)
            )
        pixels = torch.from_numpy(images)
        if self.device != "cpu":
            pixels = self._uploaded(pixels)
        prepared = self._preprocessors[size](pixels)
        return prepared.contiguous(memory_format=_MEMORY_FORMATS[self.memory_format])

    def _uploaded(self, pixels: Tensor) -> Tensor:
        """Copy to the GPU while it computes the batches before."""
        if self._uploads is None:
            self._uploads = torch.cuda.Stream(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._uploads):
            # Only from pinned memory is the copy one that nobody waits for.
            there = pixels.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(self._uploads)
        there.record_stream(computing)
        return there

    def features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run one batch.

        A short batch is padded to the full shape, since kernels, and with them the last bits,
        depend on it: a row must not depend on where a run was cut.

        Args:
            images: (n, H, W, 3) with n up to the batch size.

        Returns:
            (n, D) float32.

        Raises:
            DeviceError: If the device fails or has no memory left.
        """
        rows: npt.NDArray[np.float32] = self.launch(images).rows().numpy()
        return rows

    def eager_features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run a few images of the module's own size one by one, by the module itself.

        No engine has a part in it, and neither has the batch size: what comes out tells which
        function the module is.

        Args:
            images: (n, H, W, 3) of `out_size`.

        Returns:
            (n, D) float32.

        Raises:
            DeviceError: If the device fails or has no memory left.
        """
        prepare = BatchPreprocessor(
            self._preprocess.after_resize, in_size=self.out_size, device=torch.device(self.device)
        )
        layout = _MEMORY_FORMATS[self.memory_format]
        with self.running():
            inputs = prepare(torch.from_numpy(images).to(self.device))
            rows = [self.eager(one[None].contiguous(memory_format=layout)) for one in inputs]
            features: npt.NDArray[np.float32] = torch.cat(rows).float().cpu().numpy()
        return features

    def host_rows(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Make room for rows on the host, to which the device can copy on its own.

        Raises:
            DeviceError: If there is no more memory that can be pinned.
        """
        with device_failures_named(self.device, "Making room for rows", kept=_rows_are_kept):
            return torch.empty(*shape, dtype=dtype, pin_memory=self.device != "cpu")

    def launch(
        self,
        images: npt.NDArray[np.uint8],
        *,
        out: Tensor | None = None,
        blank: Sequence[int] = (),
        ids: Sequence[str] | None = None,
    ) -> InFlight:
        """Begin one batch: `features` in two halves. A CPU does it all here.

        Args:
            images: As for `features`.
            out: (n, D) from `host_rows`, in which the features will be; they are rounded to its
                type. None makes it, in float32.
            blank: Rows that are to be zeros.
            ids: Names of the images; the rows are then refused that `out` cannot hold.

        Raises:
            DeviceError: If the device fails or has no memory left; `InFlight.rows` raises likewise.
        """
        n_images = len(images)
        started = time.perf_counter()
        with self.running():
            if n_images < self.batch_size:
                images = np.concatenate([images, _blank(images, self.batch_size - n_images)])
            inputs = self.inputs(images)
            prepared = time.perf_counter()
            features = self.forward(inputs)[:n_images].float()
            computed = time.perf_counter()
            if blank:
                features[list(blank)] = 0
            if out is None:
                out = self.host_rows(features.shape, torch.float32)
            flight = self._land(features, out, ids)
        self.seconds["preprocess"] += prepared - started
        self.seconds["trunk"] += computed - prepared
        self.seconds["check"] += time.perf_counter() - computed
        return flight

    def wait_for(self, is_there: torch.cuda.Event) -> None:
        """Wait for a batch in flight; that is the backbone's time."""
        waiting = time.perf_counter()
        with self.running():
            is_there.synchronize()
        self.seconds["trunk"] += time.perf_counter() - waiting

    def _land(self, features: Tensor, out: Tensor, ids: Sequence[str] | None) -> InFlight:
        """Look at features where they are, convert them there, and begin to copy them to `out`."""
        # Both pass NaN on. Together 6 times as fast as the norm on a CPU.
        largest = torch.maximum(features.amax(1), -features.amin(1))
        if not features.is_cuda:
            out.copy_(features)
            return InFlight(out, largest, ids)
        stored = features.to(out.dtype)
        landed = self.host_rows(largest.shape, largest.dtype)
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):  # the next batch computes meanwhile
            out.copy_(stored, non_blocking=True)
            landed.copy_(largest, non_blocking=True)
            is_there = torch.cuda.Event()
            is_there.record()
        for tensor in (stored, largest):
            tensor.record_stream(self._copies)

        return InFlight(out, landed, ids, self, is_there)


def _rows_are_kept() -> str:
    return "All acknowledged rows are kept."


def _blank(images: npt.NDArray[np.uint8], n_images: int) -> npt.NDArray[np.uint8]:
    return np.zeros((n_images, *images.shape[1:]), np.uint8)
