"""An epoch of a head by scikit-learn's MLPClassifier, from the same weights in the same order."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

EPSILON = 1e-8  # PyTorch's


class _Same(MLPClassifier):  # type: ignore[misc]
    """MLPClassifier that begins with given weights, and tells the loss of each step.

    Its Adam adds epsilon to the second moment's root before correcting that for its start, PyTorch
    after. Corrected here: of 25,088 features the losses else part by 2e-4 of the largest within
    20 steps, and by 1e-7 with it.
    """

    def begin_with(self, head: nn.Module) -> None:
        self._layers = iter([m for m in head.modules() if isinstance(m, nn.Linear)])
        self.step_losses: list[float] = []

    def _init_coef(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        layer = next(self._layers)
        return layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy()

    def _backprop(self, *given: Any) -> Any:
        adam = self._optimizer
        adam.epsilon = EPSILON * math.sqrt(1 - adam.beta_2 ** (adam.t + 1))
        told = super()._backprop(*given)
        self.step_losses.append(told[0])
        return told


class _Order(np.random.RandomState):
    """Shuffles rows into a given order."""

    def __init__(self, order: Tensor) -> None:
        super().__init__(0)
        self.order = order.numpy()

    def shuffle(self, x: np.ndarray) -> None:  # type: ignore[override]
        x[:] = self.order


def sklearn_epoch(
    features: Tensor, labels: Tensor, head: nn.Module, order: Tensor, *, batch_size: int, lr: float
) -> tuple[float, Tensor]:
    """Run an epoch of the plain head; the answer is its losses.

    Equal: widths, ReLU, first weights, order, batch, learning rate, Adam with its constants,
    float32, threads. What it does not have: dropout, l1 (its alpha is l2 of the weights, without
    the biases), validation rows of one's own, early stopping on their loss.
    """
    widths = [m.out_features for m in head.modules() if isinstance(m, nn.Linear)][:-1]
    classifier = _Same(
        tuple(widths),
        solver="adam",
        alpha=0.0,
        batch_size=batch_size,
        learning_rate_init=lr,
        max_iter=1,
        random_state=_Order(order),
    )
    classifier.begin_with(head)
    rows, classes = features.numpy(), labels.numpy()
    with (
        warnings.catch_warnings(),
        config_context(assume_finite=True),  # no look at all rows before the first step
        threadpool_limits(torch.get_num_threads()),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch is what was asked
        started = time.perf_counter()
        classifier.fit(rows, classes)
        seconds = time.perf_counter() - started
    return seconds, torch.tensor(classifier.step_losses)
