"""Pretraining text mixed into reinforcement learning, against forgetting (PPO-ptx)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.policy import CausalLMPolicy
from agents.supervision.epochs import EpochSampler
from agents.text_blocks import token_blocks
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
        self.blocks = token_blocks(texts, tokenizer, block_tokens=block_tokens)
        self.sampler = EpochSampler(len(self.blocks), seed=seed)

    def draw(self, count: int) -> Tensor:
        """Return int64 [count, block_tokens]."""
        return torch.from_numpy(self.blocks[self.sampler.draw(count)])

    def loss(self, policy: CausalLMPolicy, count: int) -> Tensor:
        """Return the mean negative log-likelihood of some blocks, in nats a token."""
        ids = self.draw(count).to(policy.device)
        mask = torch.ones_like(ids)
        scored = policy.evaluate(ids, mask, 1, with_values=False, with_entropy=False)
        return -scored.logprobs.mean()

    def state_dict(self) -> dict[str, Any]:
        """Return what is left of this pass and the random state; JSON-able."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.sampler.load_state_dict(state)
