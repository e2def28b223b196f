"""Best-of-n sampling: no training, several answers, the best by a reward is played."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agents.decode_batch import DecodeBatch
from agents.plans import PlanPlayer, Plans
from agents.policy import CausalLMPolicy
from textenvs.audit.best_of_n import kl_bound
from textenvs.episode_batch import EpisodeBatch, Observation
from textenvs.errors import ConfigError

NOTHING = np.zeros(0, np.int64)


class BestOfN:
    """Samples n answers to each prompt and plays the one a reward scores highest.

    The yardstick for training on the same reward (Stiennon et al., arXiv:2009.01325; Nakano et
    al., arXiv:2112.09332), for n times the price of an answer. It is a sampling policy:
    `deterministic` makes no difference, and with n=1 it is the model itself.
    """

    def __init__(
        self,
        policy: CausalLMPolicy,
        env: Any,
        n: int = 4,
        *,
        reward: Any = None,
        seed: int = 0,
        rows: int = 256,
    ) -> None:
        """Bind a policy to the environment that is to be played.

        Args:
            policy: Samples the answers.
            env: A text environment, single or vector: same prompts, budget and stop strings.
            n: Answers to each prompt.
            reward: What the best is chosen by, e.g. a reward model; None takes the
                environment's own reward, which only an oracle would know.
            seed: Of sampling.
            rows: The most answers sampled side by side (n of them, if that is more).

        Raises:
            ConfigError: if n or rows is below 1.
            ModelError: if the policy knows fewer tokens than the environment.
        """
        for name, value in (("n", n), ("rows", rows)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        task = env.unwrapped.batch.task_arguments()
        if reward is not None:
            task["reward"] = reward
        self.policy, self.n = policy, n
        self.batch = EpisodeBatch(num_rows=max(1, rows // n) * n, **{**task, "metrics": None})
        policy.check_vocabulary(self.batch.tokenizer.vocab_size)
        self.generator = torch.Generator(policy.device).manual_seed(seed)
        self.player = PlanPlayer(env, self.answers)

    @property
    def kl_bound(self) -> float:
        """The most nats by which this policy departs from the sampled one, log n - (n - 1) / n.

        Stiennon et al., arXiv:2009.01325, give it as the KL; it is an upper bound
        (Beirami et al., arXiv:2401.01879, theorem 1), below it where answers tie.
        """
        return kl_bound(self.n)

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: Plans | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Plans]:
        """Say the next token of each row's best answer; see `PlanPlayer.predict`."""
        return self.player.predict(observation, state, episode_start)

    def answers(self, prompts: Sequence[int]) -> list[list[int]]:
        """Return the best of n answers to each prompt, as tokens.

        Args:
            prompts: Indices into the environment's prompts.
        """
        at_once = self.batch.num_rows // self.n
        best = []
        for first in range(0, len(prompts), at_once):
            best += self._best(prompts[first : first + at_once])
        return best

    def _best(self, prompts: Sequence[int]) -> list[list[int]]:
        batch, count = self.batch, len(prompts) * self.n
        for row in range(count):
            batch.start(row, prompts[row // self.n])
        decoding = DecodeBatch(self.policy, self.generator)
        decoding.update(NOTHING, np.arange(count))
        shown: Observation = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        scores = np.full(count, -np.inf)  # also of an answer that cannot be scored
        while decoding.taken.any():
            sampled = decoding.sample(shown, None)
            finished = batch.advance(sampled.tokens, sampled.rows)
            ended = NOTHING
            if finished is not None:
                ended = finished.rows
                scored = np.array([info["scored"] for info in finished.infos])
                scores[ended] = np.where(scored, finished.rewards, -np.inf)
            decoding.update(ended, NOTHING)
        picked = scores.reshape(-1, self.n).argmax(1) + np.arange(len(prompts)) * self.n
        return [batch.completion_ids(row) for row in picked.tolist()]
