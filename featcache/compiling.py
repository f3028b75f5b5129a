"""A trunk compiled by inductor, weights frozen into it: on a CPU, where the job is long enough."""

from __future__ import annotations

import contextlib
import logging
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from featcache.errors import DeviceError
from featcache.forward import TrunkRunner
from featcache.runtime import Choice, NoteCallback

# A compile takes 15 to 30 s and gains up to 1.6 times on a CPU, or nothing (docs/benchmarks.md):
# from five minutes of work on, trying costs a few percent at worst.
_WORTH_TRYING_S = 300
_LEAST_GAIN = 1.1
_N_TRIALS = 3
# Between two orders of summation; two of half precision are each rounded.
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


class CompileError(DeviceError):
    """The trunk could not be compiled; the eager one still runs."""


def compiler_name() -> str | None:
    """Name what would compile a trunk here, with its version; None where nothing can."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        asked = subprocess.run(
            [get_cpp_compiler(), "--version"], capture_output=True, text=True, check=True
        )
    except Exception:  # whatever is missing or broken: there is no compiler
        return None
    return f"inductor, {asked.stdout.partition(chr(10))[0]}"


def compile_trunk(runner: TrunkRunner, image_shape: tuple[int, int, int]) -> None:
    """Compile the runner's module as it is now, and run one batch.

    Whatever changes the module afterwards (adapted BatchNorm) does not reach the compiled one.

    Args:
        runner: On a CPU.
        image_shape: (H, W, 3) of the images that will come.

    Raises:
        CompileError: Whatever torch, the compiler or the system complain of; the trunk is eager.
    """
    import torch._inductor.config as inductor

    runner.forward = torch.compile(_own_function(runner.module), dynamic=False)
    try:
        # Not as torch.compile's options: those come too late for the layout of convolutions, and a
        # third of the gain is lost. One thread: a pool of processes would outlive a killed run.
        with inductor.patch(freezing=True, compile_threads=1), _quiet():
            runner.features(_trial_images(1, image_shape))
    except Exception as err:
        runner.forward = runner.module
        first_line = str(err.__cause__ or err).strip().partition("\n")[0]
        raise CompileError(
            f"The trunk failed to compile: {first_line or type(err).__name__}"
        ) from err


def recompile(
    runner: TrunkRunner, image_shape: tuple[int, int, int], on_note: NoteCallback
) -> str | None:
    """Compile the trunk without a trial, as the first run of a file did.

    Returns:
        What compiled it; None, and the trunk is eager, where that fails.
    """
    on_note("compiling the trunk, as the first run did")
    compiler = compiler_name()
    if compiler is not None:
        try:
            compile_trunk(runner, image_shape)
        except CompileError as err:
            on_note(str(err))
            return None
    return compiler


def _own_function(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give the module a code object of its own.

    torch keeps compiled graphs by code object, and a frozen one has the weights inside: those of
    another trunk of the class, or of this one before it was adapted, must not be taken for it.
    """

    def run(inputs: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = module(inputs)
        return features

    run.__code__ = run.__code__.replace()
    return run


def settle_compiled(
    runner: TrunkRunner,
    *,
    image_shape: tuple[int, int, int],
    n_rows: int,
    asked: str,
    on_note: NoteCallback,
) -> Choice[str | None]:
    """Compile the trunk if that is asked for, or if a trial says that it pays.

    Args:
        runner: A probed trunk; it is compiled afterwards if the answer says so.
        image_shape: (H, W, 3) of the images that will come.
        n_rows: Images that will come.
        asked: "auto", "always" or "never".
        on_note: Told before the compile, which takes a while.

    Returns:
        What compiled it, or None, and why.
    """
    if asked == "never":
        return Choice(None, "asked for")
    if runner.device != "cpu":
        return Choice(None, "only trunks on a CPU are compiled")
    images = _trial_images(runner.batch_size, image_shape)
    n_batches = n_rows / runner.batch_size
    if asked == "auto":
        eager_s = min(_seconds(runner, images) for _ in range(2)) * n_batches
        if eager_s < _WORTH_TRYING_S:
            return Choice(None, f"{eager_s:.0f} s of work are too few to compile for")
        on_note(f"about {eager_s:.0f} s of work: compiling may pay")
    compiler = compiler_name()
    if compiler is None:
        return Choice(None, "no C++ compiler was found (g++, or what CXX names)")
    on_note("compiling the trunk: half a minute or so")
    return _trial(runner, images, compiler, must_gain=asked == "auto")


def _trial(
    runner: TrunkRunner, images: npt.NDArray[np.uint8], compiler: str, *, must_gain: bool
) -> Choice[str | None]:
    """Compile, compare and time; leave the runner compiled where that is right and faster."""
    expected = runner.features(images)
    started = time.perf_counter()
    try:
        compile_trunk(runner, (images.shape[1], images.shape[2], 3))
    except CompileError as err:
        return Choice(None, str(err))
    compile_s = time.perf_counter() - started
    found = runner.features(images)
    error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not error <= _TOLERANCE[runner.precision]:
        runner.forward = runner.module
        return Choice(None, f"compiled features differ by {error:.1g} of the largest")
    gain = _gain(runner, images)
    told = f"{gain:.2f} times as fast as eager, {compile_s:.0f} s to compile"
    if must_gain and gain < _LEAST_GAIN:
        runner.forward = runner.module
        return Choice(None, told)
    return Choice(compiler, told)


def _gain(runner: TrunkRunner, images: npt.NDArray[np.uint8]) -> float:
    """Time both in turn: the median of the ratios."""
    compiled, ratios = runner.forward, []
    for _ in range(_N_TRIALS):
        runner.forward = runner.module
        eager_s = _seconds(runner, images)
        runner.forward = compiled
        ratios.append(eager_s / _seconds(runner, images))
    return statistics.median(ratios)


def _seconds(runner: TrunkRunner, images: npt.NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    runner.features(images)
    return time.perf_counter() - started


def _trial_images(n: int, image_shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, *image_shape), np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal that torch found no CUDA for compiling, on a machine without it."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
