"""The rollout: whole episodes, through the vector environment's own `step`.

A wave resets every row and steps until every row has ended. A row that has ended is
reset by the environment (or here, where autoreset is disabled) and fed a filler token;
its new episode cannot spend its budget before the wave ends, so no filler is ever
scored, and the next wave's reset discards it. Ended rows leave the policy's batch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.policy import CausalLMPolicy
from textenvs.decoding import DecodeState
from textenvs.errors import ConfigError
from textenvs.types import Prompt
from textenvs.vector_infos import row_info
from textenvs.wrappers.reference_kl import KLShaping, find_shaping

COMPACT_BELOW = 0.75
"""The decode batch is compacted when fewer of its rows than this are still alive."""


@dataclass
class Rollout:
    """N whole episodes.

    Attributes:
        input_ids: int64 [N, P + T].
        attention_mask: int8 [N, P + T].
        start: P.
        logprobs: float32 [N, T], log pi as sampled.
        rewards: float64 [N, T], what the environment paid with each token.
        infos: The final info of each episode.
        prompts: The prompt of each episode.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    start: int
    logprobs: np.ndarray
    rewards: np.ndarray
    infos: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)

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

    @classmethod
    def joined(cls, parts: list["Rollout"]) -> "Rollout":
        """Return the episodes of several waves as one rollout."""
        return cls(
            np.concatenate([p.input_ids for p in parts]),
            np.concatenate([p.attention_mask for p in parts]),
            parts[0].start,
            np.concatenate([p.logprobs for p in parts]),
            np.concatenate([p.rewards for p in parts]),
            [info for p in parts for info in p.infos],
            [prompt for p in parts for prompt in p.prompts],
        )


def term_metrics(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each reward term, weighted and raw, and how often it was scored.

    Args:
        infos: The final info of each scored episode.

    Returns:
        For each term that any of them scored: `reward/NAME`, the mean over all episodes of
        what it added to the total (nothing where its gate was shut); `reward_raw/NAME`, the
        mean score of the episodes it scored; `reward_scored/NAME`, their share.
    """
    metrics = {}
    for name in dict.fromkeys(name for info in infos for name in info["reward_raw"]):
        weighted = [info["reward_terms"].get(name, 0.0) for info in infos]
        raw = [info["reward_raw"][name] for info in infos if name in info["reward_raw"]]
        metrics[f"reward/{name}"] = float(np.mean(weighted))
        metrics[f"reward_raw/{name}"] = float(np.mean(raw))
        metrics[f"reward_scored/{name}"] = len(raw) / len(infos)
    return metrics


def failure_counts(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how many episodes a guarded reward failed on, in all and by kind.

    Args:
        infos: The final info of each episode.
    """
    kinds = Counter(info["reward_failure"] for info in infos if "reward_failure" in info)
    by_kind = {f"failures/{kind}": float(count) for kind, count in sorted(kinds.items())}
    return {"failures": float(kinds.total()), **by_kind}


def filler_token(venv: VectorEnv) -> int:
    """Return a token that ends no episode: neither EOS nor part of a stop string.

    Raises:
        ConfigError: if the vocabulary has none.
    """
    env: Any = venv.unwrapped
    text = "".join(env.batch.stop)
    for token in range(env.tokenizer.vocab_size):
        if token != env.tokenizer.eos_id and token != env.tokenizer.pad_id:
            if not set(env.tokenizer.decode([token])) & set(text):
                return token
    raise ConfigError("every token of the vocabulary could end an episode; nothing can fill a row")


def collect(
    policy: CausalLMPolicy,
    venv: VectorEnv,
    *,
    generator: torch.Generator,
    waves: int = 1,
) -> Rollout:
    """Return `waves` times `venv.num_envs` episodes, each sampled by the policy as it is.

    Args:
        policy: Acts.
        venv: A `TextVectorEnv`, possibly wrapped in `VectorReferenceKL`.
        generator: Where the policy's chance comes from.
        waves: Episodes a row.
    """
    return Rollout.joined([_wave(policy, venv, generator) for _ in range(waves)])


@torch.no_grad()
def _wave(policy: CausalLMPolicy, venv: VectorEnv, generator: torch.Generator) -> Rollout:
    env: Any = venv.unwrapped
    budget, start = env.batch.max_new_tokens, env.batch.num_prompt_columns
    shaping = find_shaping(venv)
    filler = filler_token(venv)
    mode = venv.metadata["autoreset_mode"]
    observation, _ = venv.reset()
    rollout = Rollout(
        observation["input_ids"].copy(),
        observation["attention_mask"].copy(),
        start,
        np.zeros((venv.num_envs, budget), np.float32),
        np.zeros((venv.num_envs, budget)),
        [{} for _ in range(venv.num_envs)],
        list(env.batch.current),
    )
    alive = np.arange(venv.num_envs)
    batch = alive  # rows in the policy's decode batch; one that ended says nothing used
    state: DecodeState | None = None
    for t in range(budget):
        ids = torch.from_numpy(rollout.input_ids[batch]).to(policy.device)
        mask = torch.from_numpy(rollout.attention_mask[batch]).to(policy.device)
        acted = policy.act(ids, mask, state, generator=generator)
        state = acted.state
        living = np.isin(batch, alive)
        tokens = np.full(venv.num_envs, filler, np.int64)
        tokens[alive] = acted.tokens.cpu().numpy()[living]
        logprobs = np.zeros(venv.num_envs, np.float32)
        logprobs[alive] = acted.logprobs.cpu().numpy()[living]
        _, rewards, terminated, truncated, info = venv.step(_action(shaping, tokens, logprobs))
        rollout.input_ids[alive, start + t] = tokens[alive]
        rollout.attention_mask[alive, start + t] = 1
        rollout.logprobs[alive, t] = logprobs[alive]
        rollout.rewards[alive, t] = rewards[alive]
        over = (terminated | truncated)[alive]
        finals = info["final_info"] if over.any() and mode is AutoresetMode.SAME_STEP else info
        for row in alive[over]:
            rollout.infos[row] = row_info(finals, int(row))
        if over.any() and mode is AutoresetMode.DISABLED and not over.all():
            done = np.zeros(venv.num_envs, bool)
            done[alive[over]] = True
            venv.reset(options={"reset_mask": done})
        alive = alive[~over]
        if not len(alive):
            break
        if len(alive) < COMPACT_BELOW * len(batch):
            kept = torch.from_numpy(np.flatnonzero(np.isin(batch, alive))).to(policy.device)
            state, batch = state.select(kept), alive
    return rollout


def _action(shaping: KLShaping | None, tokens: np.ndarray, logprobs: np.ndarray) -> Any:
    if shaping is None or not shaping.policy_logprob:
        return tokens
    if shaping.estimator == "full":
        raise ConfigError(
            "the rollout gives the log-probability of the sampled token, not of the whole "
            'vocabulary; use the estimator "k1", "k2" or "k3"'
        )
    return {"token": tokens, "logprob": np.minimum(logprobs, 0.0).astype(np.float32)}
