"""A trunk on a faster engine, where that is asked for or a trial says that it pays."""

from __future__ import annotations

import statistics
import time

import numpy as np
import numpy.typing as npt

from featcache.engines import ENGINES, Engine, engine_of
from featcache.errors import DeviceError, clipped
from featcache.forward import TrunkRunner
from featcache.reporting import Choice, NoteCallback
from featcache.tolerances import feature_tolerance

# Seconds of work from which engines are tried. They gain 1.4 to 2.6 times, or nothing; Winograd's
# compiles in one or two seconds, inductor in 7 to 30 (docs/benchmarks.md).
_WORTH_TRYING_S = 120
_TRIED = ("winograd", "inductor")
_LEAST_GAIN = 1.1
_N_TRIALS = 3
_PLACES = {"cpu": "a CPU", "cuda": "a CUDA device"}


class CompileError(DeviceError):
    """The trunk could not be compiled; the eager one still runs."""


def compile_trunk(runner: TrunkRunner, image_shape: tuple[int, int, int], engine: str) -> None:
    """Compile the runner's module as it is now.

    Whatever changes the module afterwards (adapted BatchNorm) does not reach the compiled one.

    Args:
        runner: On the engine's kind of device.
        image_shape: (H, W, 3) of the images that will come.
        engine: Its name, or what a numeric class says of the compiler.

    Raises:
        CompileError: Whatever torch, the compiler or the system complain of; the trunk is eager.
    """
    runner.forward = runner.eager
    known = _suitable(runner, engine_of(engine))
    try:
        with runner.running():
            example = runner.inputs(_trial_images(runner.batch_size, image_shape))
            runner.forward = known.build(runner.module, runner.precision, example)
    except Exception as err:
        runner.forward = runner.eager
        said = getattr(err, "stderr", None) or str(err.__cause__ or err)
        lines = said.strip().splitlines() or [type(err).__name__]
        shown = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"The trunk failed to compile: {shown}") from err


def _suitable(runner: TrunkRunner, name: str) -> Engine:
    """Find an engine that is for this trunk and its device.

    Raises:
        CompileError: If it is not.
    """
    engine = ENGINES.get(name)
    if engine is None:
        raise CompileError(f"No engine {clipped(name)!r} is known here.")
    if engine.device != runner.device.partition(":")[0]:
        raise CompileError(f"{name} is for trunks on {_PLACES[engine.device]}.")
    refusal = engine.refusal(runner.module, runner.precision)
    if refusal:
        raise CompileError(refusal)
    return engine


def recompile(
    runner: TrunkRunner, image_shape: tuple[int, int, int], compiler: str, on_note: NoteCallback
) -> str | None:
    """Compile the trunk without a trial, as the first run of a file did.

    Args:
        runner: On the device of the first run's kind.
        image_shape: (H, W, 3) of the images that will come.
        compiler: What compiled the first run's, as its numeric class says.
        on_note: Told before the compile, and of its failure.

    Returns:
        What compiled it; None, and the trunk is eager, where that fails.
    """
    name = engine_of(compiler)
    known = ENGINES.get(name)
    here = None if known is None else known.version()
    if known is not None and here is None:
        on_note(f"the first run compiled the trunk ({clipped(compiler)}), but {known.missing}")
        return None
    on_note(f"compiling the trunk ({clipped(name)}), as the first run did")
    try:
        compile_trunk(runner, image_shape, name)
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
    if asked == "auto" and runner.device != "cpu":
        return Choice(None, "on CUDA an engine has to be asked for: --compile fused")
    trial = _Trial(runner, _trial_images(runner.batch_size, image_shape), on_note)
    if asked != "auto":
        trial.run(asked, least_gain=0.0)
        return trial.choice()
    n_batches = n_rows / runner.batch_size
    eager_s = trial.eager_s() * n_batches
    for engine in _TRIED:
        left_s = eager_s / trial.gain
        if ENGINES[engine].refusal(runner.module, runner.precision):
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
        compiler = ENGINES[engine].version()
        if compiler is None:
            self.reasons = [ENGINES[engine].missing]
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
        runner.forward = runner.eager
        expected = runner.features(images)
        started = time.perf_counter()
        compile_trunk(runner, (images.shape[1], images.shape[2], 3), engine)
        compile_s = time.perf_counter() - started
        found, again = (runner.features(images) for _ in range(2))
        if found.tobytes() != again.tobytes():
            raise CompileError(f"{engine} gives other features of the same images each time")
        error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
        if not error <= feature_tolerance(runner.precision):
            raise CompileError(f"{engine}'s features differ by {error:.1g} of the largest")
        gain = _gain(runner, images)
        self.reasons.append(
            f"{engine}: {gain:.2f} times as fast as eager, {compile_s:.0f} s to compile"
        )
        return gain


def _gain(runner: TrunkRunner, images: npt.NDArray[np.uint8]) -> float:
    """Time both in turn: the median of the ratios."""
    compiled, ratios = runner.forward, []
    for _ in range(_N_TRIALS):
        runner.forward = runner.eager
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
