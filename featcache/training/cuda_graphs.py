"""A training step that is recorded once, as a CUDA graph, and replayed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from featcache.errors import DeviceError

Step = Callable[[Tensor, Tensor], Tensor]
"""(B, D) features and (B,) labels to losses, of any shape; trains as it goes."""
Call = Callable[[], Tensor]
Record = Callable[[Call, torch.device, Sequence[torch.Generator]], Call]
"""Records what a call does on a device, drawing from these generators, and gives what does it again
on the same tensors; what it returns is overwritten each time."""

SWITCH = "FEATCACHE_CUDA_GRAPHS"
# Steps that move more than this are bound by memory, not by launches: 32 heads of VGG16's features
# (480 MB) took 1.5 times as long for an epoch that began with a recording and its check.
_MOST_BYTES = 128 << 20
_N_BEFORE = 3  # torch's advice for what is captured; Adam's state is there from the first on
_TOLERANCE = 1e-3  # of a tensor's largest: the same kernels run, so they differ by far less


def replayed_step(
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    generators: Sequence[torch.Generator] = (),
) -> ReplayedStep | None:
    """Make what replays the steps of an optimiser, on CUDA unless FEATCACHE_CUDA_GRAPHS is 0.

    Replayed heads have the same bits as others, in a third of the time (docs/decisions/0008). Where
    parameters and moments are large, steps run as they are.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    n_bytes = 3 * sum(p.nbytes for p in parameters)
    if device.type != "cuda" or os.environ.get(SWITCH) == "0" or n_bytes > _MOST_BYTES:
        return None
    return ReplayedStep(optimizer, generators=generators)


class ReplayedStep:
    """Runs a step; after a few, by replaying it.

    A small head's step is dozens of kernels of a few microseconds, each of which costs as long to
    launch; a CUDA graph launches all at once. Whether it is right is not taken on trust: one step
    runs both ways from the same state, random numbers included.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=0.5)
        >>> def step(features, labels):
        ...     sgd.zero_grad()
        ...     loss = (features * weight).sum()
        ...     loss.backward()
        ...     sgd.step()
        ...     return loss.detach()
        >>> replayed = ReplayedStep(sgd, record=lambda call, *_: call)
        >>> [float(replayed(step, torch.ones(2), torch.zeros(2))) for _ in range(5)]
        [2.0, 1.0, 0.0, -1.0, -2.0]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> None:
        """Take what the steps change and draw from.

        Args:
            optimizer: Its parameters and its state, which stay where they are.
            generators: What steps draw from, beside the device's default one.
            record: None records a CUDA graph.
        """
        self._optimizer = optimizer
        self._generators = generators
        self._record = record or _as_cuda_graph
        self._replay: Step | None = None
        self._shape: torch.Size | None = None
        self._n_before = 0

    def __call__(self, step: Step, features: Tensor, labels: Tensor) -> Tensor:
        """Run one step, always the same one; what it returns is the caller's own.

        Batches of another size than the first run as they are.

        Raises:
            DeviceError: If the step cannot be recorded, or gives other numbers when replayed.
        """
        self._shape = self._shape or features.shape
        if features.shape != self._shape:
            return step(features, labels)
        if self._replay is not None:
            return self._replay(features, labels)
        if self._n_before < _N_BEFORE:
            self._n_before += 1
            return _on_side_stream(step, features, labels)
        self._replay = self._checked(step, features, labels)
        return self._replay(features, labels)

    def _checked(self, step: Step, features: Tensor, labels: Tensor) -> Step:
        """Record a step, run it both ways, and put everything back."""
        state = self._state()
        drawing = [*self._generators, _default_generator(features)]
        before, drawn = _copies(state), [g.get_state() for g in drawing]
        expected = [_on_side_stream(step, features, labels).cpu(), *_copies(state)]
        try:
            with self._capturable():
                replay = self._recorded(step, features, labels)
        except RuntimeError as err:
            raise DeviceError(
                f"A training step could not be recorded as a CUDA graph: {err}. The last whole "
                f"epoch is kept. Run again with {SWITCH}=0."
            ) from err
        _put_back(state, before, drawing, drawn)
        found = [replay(features, labels).cpu(), *_copies(state)]
        _put_back(state, before, drawing, drawn)
        if not all(map(_agree, found, expected)):
            raise DeviceError(
                f"A training step gave other numbers when it was replayed as a CUDA graph. The "
                f"last whole epoch is kept. Run again with {SWITCH}=0."
            )
        return replay

    def _recorded(self, step: Step, features: Tensor, labels: Tensor) -> Step:
        kept_features, kept_labels = features.clone(), labels.clone()
        again = self._record(
            lambda: step(kept_features, kept_labels), features.device, self._generators
        )

        def replay(features: Tensor, labels: Tensor) -> Tensor:
            kept_features.copy_(features)
            kept_labels.copy_(labels)
            return again().clone()

        return replay

    def _state(self) -> list[Tensor]:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        kept = [t for of_one in self._optimizer.state.values() for t in of_one.values()]
        return [*parameters, *(t for t in kept if isinstance(t, Tensor))]

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        """Let Adam be captured; outside of a capture the setting is warned of in every run."""
        groups = self._optimizer.param_groups
        before = [group.get("capturable") for group in groups]
        try:
            for group in groups:
                group["capturable"] = True
            yield
        finally:
            for group, value in zip(groups, before, strict=True):
                group["capturable"] = value


def _as_cuda_graph(call: Call, device: torch.device, generators: Sequence[torch.Generator]) -> Call:
    """Capture a call; nothing of it runs meanwhile.

    https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # Whatever another thread asks of CUDA meanwhile (pinned memory, a logger) is no concern.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            given = call()

    def again() -> Tensor:
        graph.replay()
        return given

    return again


def _on_side_stream(step: Step, features: Tensor, labels: Tensor) -> Tensor:
    """Run a step as it must have run before it is captured."""
    if not features.is_cuda:
        return step(features, labels)
    own, current = torch.cuda.Stream(features.device), torch.cuda.current_stream(features.device)
    own.wait_stream(current)
    with torch.cuda.stream(own):
        losses = step(features, labels)
    current.wait_stream(own)
    return losses


def _default_generator(features: Tensor) -> torch.Generator:
    if not features.is_cuda:
        return torch.default_generator
    return torch.cuda.default_generators[features.device.index]


def _copies(state: Sequence[Tensor]) -> list[Tensor]:
    """Copy to the CPU: a GPU may have no room for many heads twice."""
    return [tensor.detach().to("cpu", copy=True) for tensor in state]


def _put_back(
    state: Sequence[Tensor],
    values: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    drawn: Sequence[Tensor],
) -> None:
    with torch.no_grad():
        for tensor, value in zip(state, values, strict=True):
            tensor.copy_(value)
    for generator, kept in zip(generators, drawn, strict=True):
        generator.set_state(kept)


def _agree(found: Tensor, expected: Tensor) -> bool:
    largest = expected.abs().max().clamp(min=1e-30)
    return bool((found - expected).abs().max() <= _TOLERANCE * largest)
