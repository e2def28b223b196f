"""The language-model policy for sb3-contrib's `MaskablePPO`."""

from pathlib import Path
from typing import Any, cast

import torch
from gymnasium import spaces

from agents.policy import CausalLMPolicy
from agents.sb3 import CausalLMExtractor, assemble, constructor_parameters
from textenvs.errors import MissingDependencyError

try:
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
except ImportError as error:
    raise MissingDependencyError(
        "sb3_contrib", "agents.sb3_maskable", "pip install sb3-contrib"
    ) from error


class MaskableCausalLMPolicy(MaskableActorCriticPolicy):
    """`agents.sb3.CausalLMActorCriticPolicy` with action masks.

    ```python
    MaskablePPO(MaskableCausalLMPolicy, SB3VecEnv(masked), policy_kwargs={"model": "tiny-lm"})
    ```
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **model: Any,
    ) -> None:
        """Build the policy; arguments as in `CausalLMActorCriticPolicy`."""
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=CausalLMExtractor,
            features_extractor_kwargs=model,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def _build(self, lr_schedule: Any) -> None:
        assemble(self, lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return constructor_parameters(self)

    @property
    def lm(self) -> CausalLMPolicy:
        """The language model, as the agents of this package know it."""
        return cast(CausalLMExtractor, self.features_extractor).lm

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a Hugging Face folder and the critic; see `CausalLMPolicy.save_pretrained`."""
        return self.lm.save_pretrained(folder)
