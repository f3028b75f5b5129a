"""A trunk compiled for the CPU, by Winograd's algorithm or inductor, where a trial says it pays."""

from __future__ import annotations

import statistics
import subprocess
import time

import numpy as np
import numpy.typing as npt

from featcache.errors import DeviceError, clipped
from featcache.forward import TrunkRunner
from featcache.inductor import compiled_by_inductor
from featcache.reporting import Choice, NoteCallback
from featcache.tolerances import feature_tolerance
from featcache.winograd import (
    has_winograd_convolutions,
    source_digest,
    with_winograd_convolutions,
)

# Seconds of work from which engines are tried. They gain 1.4 to 2.6 times, or nothing; Winograd's
# compiles in one or two seconds, inductor in 7 to 30 (docs/benchmarks.md).
_WORTH_TRYING_S = 120
_ENGINES = ("winograd", "inductor")
_LEAST_GAIN = 1.1
_NO_COMPILER = "no C++ compiler answers (g++, or the one program that CXX names)"
_N_TRIALS = 3


class CompileError(DeviceError):
    """The trunk could not be compiled; the eager one still runs."""


def cpp_compiler() -> str:
    """Name the C++ compiler that torch would use: what CXX names, or g++.

    Raises:
        Exception: Of torch's own kind, if there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    name: str = get_cpp_compiler()
    return name


def compiler_name(engine: str) -> str | None:
    """Name what would compile a trunk here, with all versions; None where nothing can.

    It begins with the engine, see `engine_of`.
    """
    try:
        asked = subprocess.run(
            [cpp_compiler(), "--version"], capture_output=True, text=True, check=True
        )
    except Exception:  # whatever is missing or broken: there is no compiler
        return None
    own = f" {source_digest()}" if engine == "winograd" else ""
    return f"{engine}{own}, {asked.stdout.partition(chr(10))[0]}"


def engine_of(compiler: str) -> str:
    """Name the engine of what `compiler_name` named, or an engine itself."""
    return compiler.partition(",")[0].partition(" ")[0]


def compile_trunk(runner: TrunkRunner, image_shape: tuple[int, int, int], engine: str) -> None:
    """Compile the runner's module as it is now.

    Whatever changes the module afterwards (adapted BatchNorm) does not reach the compiled one.

    Args:
        runner: On a CPU.
        image_shape: (H, W, 3) of the images that will come.
        engine: "winograd" or "inductor"; or what `compiler_name` made of one.

    Raises:
        CompileError: Whatever torch, the compiler or the system complain of; the trunk is eager.
    """
    engine = engine_of(engine)
    runner.forward = runner.module
    try:
        with runner.running():
            example = runner.inputs(_trial_images(runner.batch_size, image_shape))
            if engine == "inductor":
                runner.forward = compiled_by_inductor(runner.module, example)
            elif engine != "winograd":
                raise CompileError(f"No engine {engine!r} is known here.")
            elif not _fits_winograd(runner):
                raise CompileError(
                    f"Winograd's algorithm is for 3x3 convolutions in fp32, which bf16 may have "
                    f"too: this trunk has none, or is in another precision ({runner.precision})."
                )
            else:
                runner.forward = with_winograd_convolutions(runner.module, cpp_compiler())
                runner.forward(example)
    except Exception as err:
        runner.forward = runner.module
        if isinstance(err, CompileError):
            raise
        said = getattr(err, "stderr", None) or str(err.__cause__ or err)
        lines = said.strip().splitlines() or [type(err).__name__]
        shown = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"The trunk failed to compile: {shown}") from err


def recompile(
    runner: TrunkRunner, image_shape: tuple[int, int, int], compiler: str, on_note: NoteCallback
) -> str | None:
    """Compile the trunk without a trial, as the first run of a file did.

    Args:
        runner: On a CPU.
        image_shape: (H, W, 3) of the images that will come.
        compiler: What compiled the first run's, from `compiler_name`.
        on_note: Told before the compile, and of its failure.

    Returns:
        What compiled it; None, and the trunk is eager, where that fails.
    """
    engine = engine_of(compiler)
    here = compiler_name(engine)
    if here is None:
        on_note(f"the first run compiled the trunk ({clipped(compiler)}), but {_NO_COMPILER}")
        return None
    on_note(f"compiling the trunk ({clipped(engine)}), as the first run did")
    try:
        compile_trunk(runner, image_shape, engine)
    except CompileError as err:
        on_note(str(err))
        return None
    return here


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
        asked: "auto", "never", or an engine.
        on_note: Told before a compile, which takes a while.

    Returns:
        What compiled it, or None, and why.
    """
    if asked == "never":
        return Choice(None, "asked for")
    if runner.device != "cpu":
        return Choice(None, "only trunks on a CPU are compiled")
    trial = _Trial(runner, _trial_images(runner.batch_size, image_shape), on_note)
    if asked != "auto":
        trial.run(asked, least_gain=0.0)
        return trial.choice()
    n_batches = n_rows / runner.batch_size
    eager_s = trial.eager_s() * n_batches
    for engine in _ENGINES:
        left_s = eager_s / trial.gain
        if engine == "winograd" and not _fits_winograd(runner):
            continue
        if left_s < _WORTH_TRYING_S:
            trial.reasons.append(f"{left_s:.0f} s of work are too few to compile with {engine}")
            break
        on_note(f"about {left_s:.0f} s of work: compiling may pay ({engine})")
        trial.run(engine, least_gain=_LEAST_GAIN)
    return trial.choice()


class _Trial:
    """Compiles, compares and times; leaves the runner with what was right and fastest.

    Attributes:
        gain: Times as fast as eager, of the best so far.
        reasons: What was found, by engine.
    """

    def __init__(
        self, runner: TrunkRunner, images: npt.NDArray[np.uint8], on_note: NoteCallback
    ) -> None:
        self.gain = 1.0
        self.reasons: list[str] = []
        self._compiler: str | None = None
        self._runner = runner
        self._images = images
        self._on_note = on_note

    def choice(self) -> Choice[str | None]:
        """What compiled the best, or None, and why."""
        return Choice(self._compiler, "; ".join(self.reasons))

    def eager_s(self) -> float:
        """Seconds of one eager batch."""
        return min(_seconds(self._runner, self._images) for _ in range(2))

    def run(self, engine: str, *, least_gain: float) -> None:
        """Try an engine, and keep it if it is better than what was there by `least_gain`."""
        best = self._runner.forward
        compiler = compiler_name(engine)
        if compiler is None:
            self.reasons = [_NO_COMPILER]
            return
        try:
            gain = self._measured_gain(engine)
        except DeviceError as err:  # memory, too: the eager trunk had enough
            self.reasons.append(str(err))
            gain = 0.0
        if gain > 0 and gain >= least_gain * self.gain:
            self.gain, self._compiler = gain, compiler
        else:
            self._runner.forward = best

    def _measured_gain(self, engine: str) -> float:
        """Leaves the runner compiled.

        Raises:
            CompileError: If it fails to compile, or gives other features.
        """
        runner, images = self._runner, self._images
        self._on_note(f"compiling the trunk with {engine}")
        runner.forward = runner.module
        expected = runner.features(images)
        started = time.perf_counter()
        compile_trunk(runner, (images.shape[1], images.shape[2], 3), engine)
        compile_s = time.perf_counter() - started
        found = runner.features(images)
        error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
        if not error <= feature_tolerance(runner.precision):
            raise CompileError(f"{engine}'s features differ by {error:.1g} of the largest")
        gain = _gain(runner, images)
        self.reasons.append(
            f"{engine}: {gain:.2f} times as fast as eager, {compile_s:.0f} s to compile"
        )
        return gain


def _fits_winograd(runner: TrunkRunner) -> bool:
    # Its arithmetic is fp32 always, so in bf16 it is the more exact one.
    return runner.precision in {"fp32", "bf16"} and has_winograd_convolutions(runner.module)


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
