"""A backbone on a faster engine, where that is asked for or a trial says that it pays."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.backbones.engines.engine import ENGINES, Engine, engine_of
from featcache.backbones.engines.trial_memory import Remembered, recall, remember
from featcache.backbones.runner import BackboneRunner
from featcache.core.device import numeric_class, processor_name
from featcache.core.memory import forget_failed_batch
from featcache.core.reporting import Choice, NoteCallback
from featcache.core.tolerances import feature_tolerance
from featcache.errors import DeviceError, UsageError, clipped

_TRIED = {"cpu": ("winograd", "inductor"), "cuda": ("fused",)}  # of themselves, in this order
_LEAST_GAIN = 1.1
# A trial may cost this part of the work that is left: engines gain a third of it, or nothing.
_MOST_COST = 0.1
_N_ROUNDS = 3
_WAYS_OUT = "Nothing was started. Use --compile auto, which tries what there is, or never."
_PLACES = {"cpu": "a CPU", "cuda": "a CUDA device"}


class CompileError(DeviceError):
    """The backbone could not be compiled; the eager one still runs."""


def compile_backbone(
    runner: BackboneRunner, image_shape: tuple[int, int, int], engine: str
) -> None:
    """Compile the runner's module as it is now.

    Whatever changes the module afterwards (adapted BatchNorm) does not reach the compiled one.

    Args:
        runner: On the engine's kind of device.
        image_shape: (H, W, 3) of the images that will come.
        engine: Its name, or what a numeric class says of the compiler.

    Raises:
        CompileError: Whatever torch, the compiler or the system complain of; the backbone is eager.
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
        raise CompileError(f"The backbone failed to compile: {shown}") from err


def _suitable(runner: BackboneRunner, name: str) -> Engine:
    """Find an engine that is for this backbone and its device.

    Raises:
        CompileError: If it is not.
    """
    engine = ENGINES.get(name)
    if engine is None:
        raise CompileError(f"No engine {clipped(name)!r} is known here.")
    if engine.device != runner.device.partition(":")[0]:
        raise CompileError(f"{name} is for backbones on {_PLACES[engine.device]}.")
    refusal = engine.refusal(runner.module, runner.precision)
    if refusal:
        raise CompileError(refusal)
    return engine


def recompile(
    runner: BackboneRunner, image_shape: tuple[int, int, int], compiler: str, on_note: NoteCallback
) -> str | None:
    """Compile the backbone without a trial, as the first run of a file did.

    Args:
        runner: On the device of the first run's kind.
        image_shape: (H, W, 3) of the images that will come.
        compiler: What compiled the first run's, as its numeric class says.
        on_note: Told before the compile, and of its failure.

    Returns:
        What compiled it; None, and the backbone is eager, where that fails.
    """
    name = engine_of(compiler)
    known = ENGINES.get(name)
    here = None if known is None else known.version()
    if known is not None and here is None:
        on_note(f"the first run compiled the backbone ({clipped(compiler)}), but {known.missing}")
        return None
    on_note(f"compiling the backbone ({clipped(name)}), as the first run did")
    try:
        compile_backbone(runner, image_shape, name)
    except CompileError as err:
        on_note(str(err))
        return None
    return here


def settle_compiled(
    runner: BackboneRunner,
    *,
    image_shape: tuple[int, int, int],
    n_rows: int,
    asked: str,
    backbone: str,
    on_note: NoteCallback,
) -> Choice[str | None]:
    """Compile the backbone if that is asked for, or if a trial says that it pays.

    Args:
        runner: A probed backbone; it is compiled afterwards if the answer says so.
        image_shape: (H, W, 3) of the images that will come.
        n_rows: Images that will come.
        asked: "auto", "never", or an engine.
        backbone: Under which name the outcome of a trial is remembered.
        on_note: Told before a compile, which takes a while.

    Returns:
        What compiled it, or None, and why.

    Raises:
        UsageError: If the engine that is asked for is not for this backbone or its device.
        CompileError: If it cannot be had here.
    """
    if asked == "never":
        return Choice(None, "asked for")
    trial = _Trial(runner, _trial_images(runner.batch_size, image_shape), backbone, on_note)
    if asked != "auto":
        return _asked_for(trial, runner, asked)
    engines = [ENGINES[name] for name in _TRIED[runner.device.partition(":")[0]]]
    suitable = [e for e in engines if not e.refusal(runner.module, runner.precision)]
    if not suitable:
        return Choice(None, f"no engine is tried of itself for this backbone on {runner.device}")
    batch_s = trial.eager_s()
    for engine in suitable:
        trial.run_if_it_may_pay(engine, batch_s=batch_s, n_batches=n_rows / runner.batch_size)
    return trial.choice()


def _asked_for(trial: _Trial, runner: BackboneRunner, name: str) -> Choice[str | None]:
    """Compile with the engine that was asked for; another, or none, is not what was meant.

    Raises:
        UsageError: If it is not for this backbone or its device.
        CompileError: If it cannot be had here, fails to compile, or gives other features.
    """
    try:
        _suitable(runner, name)
    except CompileError as err:
        raise UsageError(f"--compile {name} cannot be used: {err} {_WAYS_OUT}") from err
    trial.run(name, least_gain=0.0)
    choice = trial.choice()
    if choice.value is None:
        raise CompileError(f"--compile {name} cannot be met: {choice.why.rstrip('.')}. {_WAYS_OUT}")
    return choice


class _Trial:
    """Compiles, compares and times; leaves the runner with what was right and fastest.

    Attributes:
        gain: Times as fast as eager, of the best so far.
        reasons: What was found, by engine.
    """

    def __init__(
        self,
        runner: BackboneRunner,
        images: npt.NDArray[np.uint8],
        backbone: str,
        on_note: NoteCallback,
    ) -> None:
        self.gain = 1.0
        self.reasons: list[str] = []
        self._compiler: str | None = None
        self._runner = runner
        self._images = images
        self._backbone = backbone
        self._on_note = on_note

    def choice(self) -> Choice[str | None]:
        """What compiled the best, or None, and why."""
        return Choice(self._compiler, "; ".join(self.reasons))

    def eager_s(self) -> float:
        """Seconds of one eager batch."""
        return min(_timed(self._runner, self._images)[1] for _ in range(2))

    def run_if_it_may_pay(self, engine: Engine, *, batch_s: float, n_batches: float) -> None:
        """Try an engine unless that would cost too much, or gained nothing here before."""
        if not engine.may_gain(self._runner.module):
            self.reasons.append(f"{engine.name} gains nothing on convolutions and ReLU alone")
            return
        version = engine.version()
        if version is None:
            self.reasons = [engine.missing]
            return
        known = recall(self._key(version))
        if known is not None and known.gain < _LEAST_GAIN * self.gain:
            self.reasons.append(f"{engine.name}: {known.gain:.2f} times when it was last tried")
            return
        compile_s = engine.compile_s(self._runner.module) if known is None else known.compile_s
        cost_s = compile_s + _N_ROUNDS * batch_s * (1 + 1 / self.gain)
        left_s = batch_s * n_batches / self.gain
        if cost_s > _MOST_COST * left_s:
            self.reasons.append(
                f"{left_s:.0f} s of work are too few to try {engine.name}, for about {cost_s:.0f} s"
            )
            return
        self._on_note(f"about {left_s:.0f} s of work: compiling may pay ({engine.name})")
        self.run(engine.name, least_gain=_LEAST_GAIN)

    def run(self, engine: str, *, least_gain: float) -> None:
        """Try an engine, and keep it if it is better than what was there by `least_gain`."""
        best = self._runner.forward
        version = ENGINES[engine].version()
        if version is None:
            self.reasons = [ENGINES[engine].missing]
            return
        try:
            gain = self._measured_gain(engine, version)
        except DeviceError as err:  # memory, too: the eager backbone had enough
            self.reasons.append(str(err))
            gain = 0.0
        if gain > 0 and gain >= least_gain * self.gain:
            self.gain, self._compiler = gain, version
        else:
            self._runner.forward = best
            forget_failed_batch(self._runner.device)

    def _measured_gain(self, engine: str, version: str) -> float:
        """Leaves the runner compiled; remembers what was found.

        Raises:
            CompileError: If it fails to compile, or gives other features.
        """
        runner, images = self._runner, self._images
        self._on_note(f"compiling the backbone with {engine}")
        started = time.perf_counter()
        compile_backbone(runner, (images.shape[1], images.shape[2], 3), engine)
        compile_s = time.perf_counter() - started
        gain = statistics.median(_ratios(runner, images, engine))
        remember(self._key(version), Remembered(compile_s, gain))
        self.reasons.append(
            f"{engine}: {gain:.2f} times as fast as eager, {compile_s:.0f} s to compile"
        )
        return gain

    def _key(self, version: str) -> dict[str, Any]:
        """All that decides what a trial finds."""
        runner = self._runner
        return numeric_class(
            device=runner.device,
            precision=runner.precision,
            batch_size=runner.batch_size,
            compiler=version,
            memory_format=runner.memory_format,
        ) | {
            "backbone": self._backbone,
            "images": [*self._images.shape[1:3], *runner.out_size],
            "processor": processor_name(),
        }


def _ratios(runner: BackboneRunner, images: npt.NDArray[np.uint8], engine: str) -> list[float]:
    """Compare what runs with the eager backbone, and time both in turn.

    Raises:
        CompileError: If it gives other features, or not the same ones each time.
    """
    compiled, ratios, before = runner.forward, [], b""
    for _ in range(_N_ROUNDS):
        runner.forward = runner.eager
        expected, eager_s = _timed(runner, images)
        runner.forward = compiled
        found, compiled_s = _timed(runner, images)
        error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
        if not error <= feature_tolerance(runner.precision):
            raise CompileError(f"{engine}'s features differ by {error:.1g} of the largest")
        if before not in (b"", found.tobytes()):
            raise CompileError(f"{engine} gives other features of the same images each time")
        before = found.tobytes()
        ratios.append(eager_s / compiled_s)
    return ratios


def _timed(
    runner: BackboneRunner, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], float]:
    started = time.perf_counter()
    features = runner.features(images)
    return features, time.perf_counter() - started


def _trial_images(n: int, image_shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, *image_shape), np.uint8)
