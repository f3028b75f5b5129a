"""A training step that is recorded once and replayed, as a CUDA graph, where both agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
"""(B, D) features and (B,) labels to losses, of any shape; trains as it goes."""
Record = Callable[[Step, Sequence[Tensor], Sequence[torch.Generator]], Step]
"""Makes what replays a step, for inputs of these shapes, drawing from these generators."""

_N_BEFORE = 3  # torch's advice for what is captured; Adam's state is there from the first on
_TOLERANCE = 1e-3  # of a tensor's largest: the same kernels run, so they differ by far less


def quick_step(
    step: Step,
    state: Callable[[], Sequence[Tensor]],
    *,
    device: torch.device,
    generators: Sequence[torch.Generator] = (),
) -> Step:
    """Make a step as quick as `device` allows: itself on a CPU, a ReplayedStep on CUDA."""
    if device.type != "cuda":
        return step
    return ReplayedStep(step, state, generators=generators)


class ReplayedStep:
    """Runs a step; after a few, by replaying it, if that gives what the step itself gives.

    A small head's step is dozens of kernels of a few microseconds, each of which costs as long to
    launch; a CUDA graph launches all at once. Whether it is right is not taken on trust: one step
    runs both ways from the same state, random numbers included, and if losses and state differ,
    or the recording fails, steps run as they are.

    Attributes:
        outcome: "undecided", "replayed", or why it is not.

    Example:
        >>> weight = torch.ones(2)
        >>> def step(features, labels):
        ...     weight.mul_(0.5)
        ...     return (features * weight).sum()
        >>> replayed = ReplayedStep(step, lambda: [weight], record=lambda step, *_: step)
        >>> [float(replayed(torch.ones(2), torch.zeros(2))) for _ in range(5)]
        [1.0, 0.5, 0.25, 0.125, 0.0625]
        >>> replayed.outcome
        'replayed'
    """

    def __init__(
        self,
        step: Step,
        state: Callable[[], Sequence[Tensor]],
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> None:
        """Take a step that is right.

        Args:
            step: It; all its tensors stay where they are from the first call on.
            state: Gives the tensors that it changes, once it has run.
            generators: What it draws from, beside its device's default one.
            record: Makes what replays it; None makes a CUDA graph.
        """
        self.outcome = "undecided"
        self._step = step
        self._state = state
        self._generators = generators
        self._record = record or _as_cuda_graph
        self._replay: Step | None = None
        self._shape = torch.Size()
        self._n_before = 0

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Run one step; what it returns is the caller's own."""
        if self._replay is not None and features.shape == self._shape:
            return self._replay(features, labels)
        if self.outcome != "undecided":
            return self._step(features, labels)
        if self._n_before >= _N_BEFORE:
            return self._decided(features, labels)
        self._n_before += 1
        return _beside(self._step, features, labels)

    def _decided(self, features: Tensor, labels: Tensor) -> Tensor:
        """Run one step both ways, and keep the quicker one if they agree."""
        drawing = [*self._generators, *_default_generators(features)]
        state = self._state()
        before, drawn = _copies(state), [g.get_state() for g in drawing]
        losses = _beside(self._step, features, labels)
        after, drawn_after = _copies(state), [g.get_state() for g in drawing]
        _put_back(state, before, drawing, drawn)
        try:
            replay = self._record(self._step, (features, labels), self._generators)
            _put_back(state, before, drawing, drawn)
            replayed = replay(features, labels)
        except RuntimeError as err:
            self.outcome = f"it failed to be recorded: {err}"
        else:
            pairs = zip([replayed, *state], [losses.cpu(), *after], strict=True)
            if all(_agree(found, expected) for found, expected in pairs):
                self.outcome, self._replay, self._shape = "replayed", replay, features.shape
            else:
                self.outcome = "replayed, it gave other numbers"
        _put_back(state, after, drawing, drawn_after)
        return losses


def _as_cuda_graph(
    step: Step, inputs: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> Step:
    """Capture a step; nothing of it runs meanwhile.

    https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    kept_features, kept_labels = (t.clone() for t in inputs)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        losses = step(kept_features, kept_labels)

    def replay(features: Tensor, labels: Tensor) -> Tensor:
        kept_features.copy_(features)
        kept_labels.copy_(labels)
        graph.replay()
        return losses.clone()

    return replay


def _beside(step: Step, features: Tensor, labels: Tensor) -> Tensor:
    """Run a step on a stream of its own, as what is captured later must have run before."""
    if not features.is_cuda:
        return step(features, labels)
    own, current = torch.cuda.Stream(features.device), torch.cuda.current_stream(features.device)
    own.wait_stream(current)
    with torch.cuda.stream(own):
        losses = step(features, labels)
    current.wait_stream(own)
    return losses


def _default_generators(features: Tensor) -> list[torch.Generator]:
    if not features.is_cuda:
        return [torch.default_generator]
    return [torch.cuda.default_generators[features.device.index]]


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
    found = found.detach().cpu()
    largest = expected.abs().max().clamp(min=1e-30)
    return bool((found - expected).abs().max() <= _TOLERANCE * largest)
