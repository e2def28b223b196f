"""An exponential moving average of the weights (InstructGPT, arXiv:2203.02155, appendix C)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from textenvs.errors import CheckpointError


class AveragedWeights:
    """A second copy of the trained weights that follows them slowly.

    average <- decay * average + (1 - decay) * weights after each update, from the weights
    the training began with.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Begin with the weights as they are."""
        self.parameters, self.decay = list(parameters), decay
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter, 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the weights while the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self.average, self.parameters, strict=True):
            weights = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average, one tensor a parameter."""
        return {str(i): tensor.clone() for i, tensor in enumerate(self.average)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved average.

        Raises:
            CheckpointError: if it is of other weights.
        """
        for i, average in enumerate(self.average):
            saved = state.get(str(i))
            if saved is None or saved.shape != average.shape:
                raise CheckpointError("the saved average of the weights is of another model")
            average.copy_(saved)
