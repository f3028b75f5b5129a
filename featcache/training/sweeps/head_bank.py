"""K heads of one shape side by side: one matrix product for all first layers, one fused Adam.

Forward and backward are written out, so that gradients land where Adam reads them and nothing is
allocated for a graph. Heads do not touch one another: each has its own loss, learning rate, weight
decay, L1 and dropout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featcache.config import HeadSpec
from featcache.features.order import stream_seed
from featcache.heads.mlp import build_head
from featcache.training.cuda_graphs import replayed_step
from featcache.training.loss import TrainingLoss

# float32: the parameter, its gradient, Adam's two moments; and copies of all but the gradient, on
# the CPU, while an epoch is kept.
BYTES_PER_PARAMETER = 32


@dataclass(frozen=True)
class Member:
    """One head of a bank.

    Attributes:
        key: Its name.
        spec: Its shape and regularisation.
        lr: Its learning rate.
        seed: Seeds its initial weights and its dropout.
    """

    key: str
    spec: HeadSpec
    lr: float
    seed: int


@dataclass(frozen=True, eq=False)
class MemberState:
    """What a head needs to go on: tensors as weight, bias, weight, bias, ..., first layer first.

    Attributes:
        parameters: Weights (out, in) and biases (out,).
        first_moments: Adam's, of the same shapes.
        second_moments: Adam's, of the same shapes.
        n_steps: Optimiser steps so far.
    """

    parameters: Sequence[Tensor]
    first_moments: Sequence[Tensor]
    second_moments: Sequence[Tensor]
    n_steps: int

    @classmethod
    def initial(cls, member: Member, *, n_features: int, n_classes: int) -> MemberState:
        """Start with the weights that `build_head` gives."""
        head = build_head(member.spec, n_features=n_features, n_classes=n_classes, seed=member.seed)
        parameters = [p.detach() for p in head.parameters()]
        zeros = [torch.zeros_like(p) for p in parameters]
        return cls(parameters, zeros, zeros, 0)


class HeadBank:
    """Trains K heads whose hidden layers have the same widths.

    Attributes:
        members: The heads, in the order of every (K, ...) tensor that comes out.
    """

    def __init__(
        self,
        members: Sequence[Member],
        states: Sequence[MemberState],
        *,
        device: torch.device,
        loss: TrainingLoss | None = None,
    ) -> None:
        """Take heads with their states, all after as many steps.

        Args:
            members: K heads of one `hidden`.
            states: Theirs.
            device: Where they are trained.
            loss: What all minimise beside their L1 penalty; None is the plain cross-entropy.
        """
        self.loss = loss or TrainingLoss()
        paired = sorted(zip(members, states, strict=True), key=lambda pair: order_in_bank(pair[0]))
        self.members = [member for member, _ in paired]
        states = [state for _, state in paired]
        self._parameters = [torch.stack(p).to(device) for p in _columns(states, "parameters")]
        self._moments = [
            [torch.stack(m).to(device) for m in _columns(states, kind)]
            for kind in ("first_moments", "second_moments")
        ]
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._n_steps = states[0].n_steps
        self._adam = self._new_adam()
        self._masks = _DropoutMasks(self.members, device)
        generators = list(self._masks.generators.values())
        self._replayed = replayed_step(self._adam, device=device, generators=generators)

    def set_epoch(self, epoch: int) -> None:
        """Seed dropout for an epoch, as a head that is trained alone does."""
        self._masks.set_epoch(epoch)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Run one optimiser step of every head.

        Args:
            features: (B, D) float32.
            labels: (B,) int64.

        Returns:
            (K,) losses, before the step: that of all, and the L1 penalty where there is one.
        """
        if self._replayed is None:
            losses = self._step(features, labels)
        else:
            losses = self._replayed(self._step, features, labels)
        self._n_steps += 1
        return losses

    def _step(self, features: Tensor, labels: Tensor) -> Tensor:
        masks = self._masks.draw(len(labels))
        outputs = self._forward(features, masks)
        logits = outputs.pop()
        losses, delta = self._loss(logits, labels)
        self._backward(features, outputs, masks, delta)
        losses = self._penalise(losses)
        self._adam.step()
        return losses

    def _loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the (K,) losses as `TrainingLoss` does, and their (K, C, B) derivatives."""
        smoothing, weights = self.loss.label_smoothing, self.loss.class_weights
        log_p = logits.log_softmax(1)
        target = labels.expand(len(self.members), 1, -1)
        of_rows = -log_p.gather(1, target)
        if smoothing:
            of_rows.mul_(1 - smoothing).sub_(log_p.mean(1, keepdim=True), alpha=smoothing)
        delta = log_p.exp_()
        column = torch.arange(len(labels), device=labels.device)
        # Not scatter_add_, which torch.use_deterministic_algorithms refuses on CUDA.
        delta[:, labels, column] -= 1 - smoothing
        if smoothing:
            delta.sub_(smoothing / delta.shape[1])
        if weights is not None:
            of_row = weights[labels]
            of_rows.mul_(of_row)
            delta.mul_(of_row)
        return of_rows.mean((1, 2)), delta.div_(len(labels))

    def logits(self, features: Tensor) -> Tensor:
        """Compute (K, C, B) logits of (B, D) features, in evaluation mode."""
        return self._forward(features, None)[-1]

    def states(self) -> Iterator[tuple[Member, MemberState]]:
        """Copy the state of each head to the CPU: one copy of a tensor for all heads."""
        planes = [[t.cpu() for t in p] for p in (self._parameters, *self._moments)]
        for k, member in enumerate(self.members):
            parts = [[tensor[k].clone() for tensor in plane] for plane in planes]
            yield member, MemberState(parts[0], parts[1], parts[2], self._n_steps)

    def _forward(self, features: Tensor, masks: Sequence[Tensor] | None) -> list[Tensor]:
        """Compute the (K, out, B) output of every layer; the hidden ones after ReLU and dropout."""
        outputs: list[Tensor] = []
        for i, (weight, bias) in enumerate(self._layers(self._parameters)):
            if i == 0:
                flat = torch.addmm(bias.view(-1, 1), weight.flatten(0, 1), features.t())
                output = flat.view(len(self.members), -1, len(features))
            else:
                output = torch.baddbmm(bias.unsqueeze(2), weight, outputs[-1])
            if i < self._n_layers - 1:
                output.clamp_min_(0)
                if masks:
                    output[-len(masks[i]) :].mul_(masks[i])
            outputs.append(output)
        return outputs

    def _backward(
        self,
        features: Tensor,
        hidden: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        delta: Tensor,
    ) -> None:
        """Write all gradients; `delta` is the loss's derivative by the logits."""
        layers = list(self._layers(self._parameters))
        gradients = list(self._layers(self._gradients))
        for i in reversed(range(self._n_layers)):
            weight, bias = gradients[i]
            torch.sum(delta, 2, out=bias)
            if i == 0:
                torch.mm(delta.flatten(0, 1), features, out=weight.flatten(0, 1))
                return
            torch.bmm(delta, hidden[i - 1].transpose(1, 2), out=weight)
            delta = torch.bmm(layers[i][0].transpose(1, 2), delta)
            # What dropout zeroed has no gradient either, so its output stands for ReLU's here.
            delta.masked_fill_(hidden[i - 1] == 0, 0)
            if masks:
                delta[-len(masks[i - 1]) :].mul_(masks[i - 1])

    def _penalise(self, losses: Tensor) -> Tensor:
        """Add the L1 penalties to the losses, and their derivatives to the gradients."""
        for factor, run in _runs(self.members, lambda m: m.spec.l1):
            if not factor:
                continue
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                part = parameter[run]
                gradient[run].add_(part.sign(), alpha=factor)
                losses[run] += factor * torch.linalg.vector_norm(part.flatten(1), 1, dim=1)
        return losses

    def _new_adam(self) -> torch.optim.Adam:
        groups = []
        states = {}
        for (lr, weight_decay), run in _runs(self.members, lambda m: (m.lr, m.spec.weight_decay)):
            parts = []
            for i, parameter in enumerate(self._parameters):
                part = parameter[run]
                part.grad = self._gradients[i][run]
                states[part] = {
                    "step": torch.tensor(float(self._n_steps), device=part.device),
                    "exp_avg": self._moments[0][i][run],
                    "exp_avg_sq": self._moments[1][i][run],
                }
                parts.append(part)
            groups.append({"params": parts, "lr": lr, "weight_decay": weight_decay})
        adam = torch.optim.Adam(groups, fused=True)
        adam.state.update(states)
        return adam

    @property
    def _n_layers(self) -> int:
        return len(self._parameters) // 2

    @staticmethod
    def _layers(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(tensors[0::2], tensors[1::2], strict=True)


class _DropoutMasks:
    """What `nn.Dropout` would draw for each head, scaled; heads of one seed and one p share it.

    On a CPU the draws are those of a head trained alone; on CUDA `nn.Dropout` has its own kernel.
    """

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self.device = device
        drop = [m for m in members if m.spec.dropout]  # the last ones, by `order_in_bank`
        self.kinds = [(m.seed, m.spec.dropout or ()) for m in drop]
        self.widths = members[0].spec.hidden
        self.generators = {kind: torch.Generator(device) for kind in self.kinds}

    def set_epoch(self, epoch: int) -> None:
        for (seed, _), generator in self.generators.items():
            generator.manual_seed(stream_seed("dropout", seed, epoch))

    def draw(self, batch_size: int) -> list[Tensor] | None:
        """Draw the (K', width, B) masks of one step for the K' last heads; None if K' is 0."""
        if not self.kinds:
            return None
        drawn = {kind: self._draw(kind[1], g, batch_size) for kind, g in self.generators.items()}
        return [
            torch.stack([drawn[kind][i] for kind in self.kinds]).transpose(1, 2)
            for i in range(len(self.widths))
        ]

    def _draw(
        self, ps: Sequence[float], generator: torch.Generator, batch_size: int
    ) -> list[Tensor]:
        masks = []
        for width, p in zip(self.widths, ps, strict=True):
            mask = torch.ones(batch_size, width, device=self.device)
            if p:  # without it `nn.Dropout` draws nothing
                mask.bernoulli_(1 - p, generator=generator).div_(1 - p)
            masks.append(mask)
        return masks


def order_in_bank(member: Member) -> tuple[Any, ...]:
    """Sort so that heads with dropout stand last, and those that share a setting side by side."""
    spec = member.spec
    return bool(spec.dropout), member.lr, spec.weight_decay, spec.l1, member.key


def _runs(
    members: Sequence[Member], setting: Callable[[Member], Any]
) -> Iterator[tuple[Any, slice]]:
    """Divide the heads into runs that share a setting."""
    start = 0
    for value, group in itertools.groupby(members, setting):
        stop = start + sum(1 for _ in group)
        yield value, slice(start, stop)
        start = stop


def _columns(states: Sequence[MemberState], kind: str) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(getattr(state, kind) for state in states), strict=True)
