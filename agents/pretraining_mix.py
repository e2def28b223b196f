"""Pretraining text mixed into reinforcement learning, against forgetting (PPO-ptx)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.policy import CausalLMPolicy
from textenvs.errors import ConfigError
from textenvs.tokenization import TextTokenizer


class PretrainingMix:
    """Blocks of text that a learner goes on predicting while it is trained on reward.

    InstructGPT (Ouyang et al., arXiv:2203.02155, eq. 2) adds
    gamma * E_{x ~ pretraining}[log pi(x)] to the objective. The texts are joined by EOS and
    cut into blocks; each optimiser step draws some, without repeating any before all were
    drawn.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: TextTokenizer,
        *,
        block_tokens: int = 128,
        seed: int = 0,
    ) -> None:
        """Cut the texts into blocks.

        Args:
            texts: The documents.
            tokenizer: The policy's.
            block_tokens: Tokens a block, at least 2.
            seed: Orders the blocks.

        Raises:
            ConfigError: if the texts do not fill one block.
        """
        if block_tokens < 2:
            raise ConfigError(f"block_tokens must be at least 2, got {block_tokens}")
        ids: list[int] = []
        for text in texts:
            ids += [*tokenizer.encode_completion(text), tokenizer.eos_id]
        blocks = len(ids) // block_tokens
        if not blocks:
            raise ConfigError(
                f"the pretraining texts have {len(ids)} tokens, fewer than one block of "
                f"{block_tokens}; give more text or a smaller block_tokens"
            )
        self.blocks = np.array(ids[: blocks * block_tokens], np.int64).reshape(blocks, -1)
        self.generator = np.random.default_rng(seed)
        self._left: list[int] = []

    def draw(self, count: int) -> Tensor:
        """Return int64 [count, block_tokens]."""
        chosen = []
        for _ in range(count):
            if not self._left:
                self._left = self.generator.permutation(len(self.blocks)).tolist()
            chosen.append(self._left.pop())
        return torch.from_numpy(self.blocks[chosen])

    def loss(self, policy: CausalLMPolicy, count: int) -> Tensor:
        """Return the mean negative log-likelihood of some blocks, in nats a token."""
        ids = self.draw(count).to(policy.device)
        mask = torch.ones_like(ids)
        scored = policy.evaluate(ids, mask, 1, with_values=False, with_entropy=False)
        return -scored.logprobs.mean()

    def state_dict(self) -> dict[str, Any]:
        """Return what is left of this pass and the random state; JSON-able."""
        return {"left": list(self._left), "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._left = [int(i) for i in state["left"]]
        self.generator.bit_generator.state = state["generator"]
