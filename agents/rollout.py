"""The rollout: whole episodes, through the vector environment's own `step`.

Batching is continuous: a row whose episode ends takes the next one at once, while the
others go on. Which episodes are counted is decided when they begin (`EpisodeFeed`), and
each of them is finished, so that short answers are not over-represented.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents.decode_batch import DecodeBatch, PolicyMask, Sampled
from agents.episode_feed import EpisodeFeed
from agents.policy import CausalLMPolicy
from textenvs.decoding import kept_casts
from textenvs.types import Prompt
from textenvs.wrappers.reference_kl import KLShaping, VectorReferenceKL


@dataclass
class Rollout:
    """N whole episodes in the order in which they began, groups together.

    Attributes:
        input_ids: int64 [N, P + T].
        attention_mask: int8 [N, P + T].
        start: P.
        logprobs: float32 [N, T], log pi as sampled, among the tokens that were allowed. The
            cache rounds otherwise than a pass over the whole answer does, and in bfloat16
            by more, so an update that needs ratios of 1 computes them again.
        rewards: float64 [N, T], what the environment paid with each token.
        groups: int64 [N]; episodes with equal numbers answer one prompt drawn together.
        infos: The final info of each episode.
        prompts: The prompt of each episode.
        allowed: uint8 [N, T, ceil(V / 8)], the tokens that could be sampled, as
            `np.packbits` packs them along the vocabulary (all bits set where no token was
            acted); None where nothing was masked.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    start: int
    logprobs: np.ndarray
    rewards: np.ndarray
    groups: np.ndarray
    infos: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    allowed: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray:
        """The tokens that were acted, bool [N, T]."""
        return self.attention_mask[:, self.start :].astype(bool)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N], tokens a completion, EOS included."""
        return self.mask.sum(1)

    @property
    def credited(self) -> np.ndarray:
        """float64 [N, T], the rewards with each token paid what it earned.

        The environment pays the task's reward with the last token, where a reward that
        knows better says in `info["reward_per_token"]` how it spreads; it is laid back there.
        """
        rewards = self.rewards.copy()
        for row, info in enumerate(self.infos):
            shares = info.get("reward_per_token")
            if shares is not None:
                rewards[row, : len(shares)] += shares
                rewards[row, len(shares) - 1] -= info["task_reward"]
        return rewards

    def settle(self, shaping: KLShaping) -> None:
        """Charge the KL of all episodes at once, as the environment does one by one."""
        observation = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        last = self.lengths - 1
        for row, kl in enumerate(shaping.settle(observation)):
            self.infos[row] = {**self.infos[row], "kl": kl}
            self.rewards[row, last[row]] += sum(kl["terms"])


class RolloutBuilder:
    """Fills the arrays of a rollout, token by token."""

    def __init__(self, feed: EpisodeFeed, episodes: int) -> None:
        """Make room for episodes of the environment behind a feed."""
        start, budget = feed.env.batch.num_prompt_columns, feed.env.batch.max_new_tokens
        self.feed = feed
        self.rollout = Rollout(
            input_ids=np.full((episodes, start + budget), feed.env.tokenizer.pad_id, np.int64),
            attention_mask=np.zeros((episodes, start + budget), np.int8),
            start=start,
            logprobs=np.zeros((episodes, budget), np.float32),
            rewards=np.zeros((episodes, budget)),
            groups=np.arange(episodes) // feed.group_size,
            infos=[{} for _ in range(episodes)],
            prompts=[],
        )
        self._lengths = np.zeros(episodes, np.int64)

    def begin(self, rows: np.ndarray) -> None:
        """Note the prompts of the rows that begin an episode; rows come in episode order."""
        numbers = self.feed.numbers[rows]
        self.rollout.input_ids[numbers] = self.feed.observation["input_ids"][rows]
        self.rollout.attention_mask[numbers] = self.feed.observation["attention_mask"][rows]
        self.rollout.prompts += [self.feed.prompt(row) for row in rows.tolist()]

    def add(self, sampled: Sampled, numbers: np.ndarray, rewards: np.ndarray) -> None:
        """Note one token of each row that plays.

        Args:
            sampled: The tokens.
            numbers: int64 [A], the episodes they belong to.
            rewards: float64 [A].
        """
        rollout, at = self.rollout, self._lengths[numbers]
        rollout.input_ids[numbers, rollout.start + at] = sampled.tokens
        rollout.attention_mask[numbers, rollout.start + at] = 1
        rollout.logprobs[numbers, at] = sampled.logprobs
        rollout.rewards[numbers, at] = rewards
        if sampled.allowed is not None:
            packed = np.packbits(sampled.allowed, axis=-1)
            if rollout.allowed is None:
                shape = (*rollout.logprobs.shape, packed.shape[-1])
                rollout.allowed = np.full(shape, 255, np.uint8)
            rollout.allowed[numbers, at] = packed
        self._lengths[numbers] += 1


def collect(
    policy: CausalLMPolicy,
    venv: VectorEnv,
    *,
    generator: torch.Generator,
    episodes: int | None = None,
    token_mask: PolicyMask | None = None,
) -> Rollout:
    """Return whole episodes, each sampled by the policy as it is.

    Rows play side by side. Episodes are begun until there are `episodes` of them, and every
    one that was begun is finished and returned. So whether an episode is returned does not
    depend on how it goes; taking the first that finish would prefer short answers. All rows
    of a group (`samples_per_prompt`) begin each of its prompts together, so that the prompt
    is computed once.

    The environment steps, and so rewards are computed, outside autocast and with autograd
    as the caller has it.

    Args:
        policy: Acts.
        venv: A `TextVectorEnv`, possibly wrapped (`VectorReferenceKL`, `VectorActionMask`).
        generator: Where the policy's chance comes from.
        episodes: How many; a multiple of `samples_per_prompt`, not necessarily of the rows.
            None asks for one a row.
        token_mask: Restricts the sampling further than the environment's action masks do.
            Where the two have no token in common, the environment's mask holds alone.

    Raises:
        ConfigError: if the episodes are not whole groups, or no token can fill a row.
    """
    episodes = venv.num_envs if episodes is None else episodes
    feed = EpisodeFeed(venv, episodes)
    batch = DecodeBatch(policy, generator, token_mask)
    builder = RolloutBuilder(feed, episodes)
    # What wraps the shaping may look at the KL of each episode, so only the outermost can wait.
    shaping = None
    if isinstance(venv, VectorReferenceKL) and venv.shaping.can_defer:
        shaping = venv.shaping
    with kept_casts(policy.use_bfloat16, policy.device):
        with nullcontext() if shaping is None else shaping.deferred():
            _play(feed, batch, builder)
    if shaping is not None:
        builder.rollout.settle(shaping)
    return builder.rollout


def _play(feed: EpisodeFeed, batch: DecodeBatch, builder: RolloutBuilder) -> None:
    """Sample and step until every episode that was begun has ended."""
    rows = feed.venv.num_envs
    ended, fresh = np.zeros(0, np.int64), feed.begin()
    tokens = np.full(rows, feed.filler, np.int64)
    logprobs = np.zeros(rows, np.float32)
    while (feed.numbers >= 0).any():
        builder.begin(fresh)
        batch.update(ended, fresh)
        feed.prepare()
        sampled = batch.sample(feed.observation, feed.allowed())
        tokens[sampled.rows], logprobs[sampled.rows] = sampled.tokens, sampled.logprobs
        numbers = feed.numbers.copy()
        rewards, ended, finals, fresh = feed.step(tokens, logprobs)
        builder.add(sampled, numbers[sampled.rows], rewards[sampled.rows])
        for number, info in zip(numbers[ended].tolist(), finals, strict=True):
            builder.rollout.infos[number] = info
