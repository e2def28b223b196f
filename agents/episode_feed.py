"""Which row of a vector environment plays which counted episode.

A group of rows (one row, or the `samples_per_prompt` rows that share prompts) takes its
next prompt as soon as its last episode has ended, by the environment's partial reset.
Rows with nothing to play are parked: they are fed a harmless filler token, and put back to
the beginning of a prompt before fillers could spend a token budget, so that no filler
episode is scored. The exceptions are a budget of a single token, and an action mask that
allows nothing but an end: such a filler is scored by the environment, and still not counted.
"""

from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from textenvs.episode_batch import Observation
from textenvs.errors import ConfigError
from textenvs.types import Prompt
from textenvs.vector_infos import row_info
from textenvs.wrappers.action_mask import find_action_mask
from textenvs.wrappers.reference_kl import find_shaping


class Fed(NamedTuple):
    """What one step did.

    Attributes:
        rewards: float64 [B], what each row was paid.
        ended: int64 [E], the counted rows whose episode has ended.
        finals: The final info of each.
        fresh: int64 [F], the rows that begin a counted episode.
    """

    rewards: np.ndarray
    ended: np.ndarray
    finals: list[dict[str, Any]]
    fresh: np.ndarray


class EpisodeFeed:
    """Steps a vector environment until a number of episodes have been played.

    Episodes are numbered as they begin: `numbers` [B] says which each row plays, -1 where
    the row is parked. `observation` is the newest one, of all rows.
    """

    def __init__(self, venv: VectorEnv, episodes: int) -> None:
        """Bind an environment; nothing is reset yet.

        Raises:
            ConfigError: if the episodes are not whole groups, or no token can fill a row.
        """
        env: Any = venv.unwrapped
        self.venv, self.env, self.group_size = venv, env, int(env.samples_per_prompt)
        if episodes < 1 or episodes % self.group_size:
            raise ConfigError(
                "episodes must be a positive multiple of the environment's samples_per_prompt, "
                f"{self.group_size}, got {episodes}; all samples of a prompt are played, so ask "
                f"for {-(-max(1, episodes) // self.group_size) * self.group_size}"
            )
        self.mode = venv.metadata["autoreset_mode"]
        self.action_mask, self.shaping = find_action_mask(venv), find_shaping(venv)
        if self.shaping and self.shaping.policy_logprob and self.shaping.estimator == "full":
            raise ConfigError(
                "the rollout gives the log-probability of the sampled token, not of the whole "
                'vocabulary; use the estimator "k1", "k2" or "k3"'
            )
        self.filler = filler_token(venv)
        self.numbers = np.full(venv.num_envs, -1, np.int64)
        self.waiting = episodes // self.group_size
        self.begun = 0
        self.observation: Observation = {}
        budget = env.batch.max_new_tokens
        self._longest = min(budget, env.max_episode_steps or budget)

    def begin(self) -> np.ndarray:
        """Reset every row; return those that begin a counted episode."""
        self.observation, _ = self.venv.reset()
        return self._admit()

    def prompt(self, row: int) -> Prompt:
        """Return the prompt of a row's episode."""
        return self.env.batch.current[row]

    def allowed(self) -> np.ndarray | None:
        """Return the environment's action masks, bool [B, V]; None where it has none."""
        return None if self.action_mask is None else self.action_mask.action_masks()

    def prepare(self) -> None:
        """Put parked rows back to a beginning where one more filler could end an episode.

        Called before the policy looks, since a reset changes the observation.
        """
        under_way = (self.numbers < 0) & ~self.env.batch.over
        spent = under_way & (self.env.batch.lengths >= self._longest - 1)
        if self._longest > 1 and spent.any():
            self._reset(spent)
        if self._longest > 1:
            stuck = np.zeros(self.venv.num_envs, bool)
            stuck[[row for row, (safe, _) in self._fillers().items() if safe is None]] = True
            self._reset(stuck)  # what a mask demands after a prompt may be less final

    def step(self, tokens: np.ndarray, logprobs: np.ndarray) -> Fed:
        """Take one token in each row; those of parked rows are replaced by fillers.

        Args:
            tokens: int64 [B].
            logprobs: float32 [B], of the tokens.
        """
        counted = self.numbers >= 0
        tokens = np.where(counted, tokens, self.filler)
        for row, (safe, any_allowed) in self._fillers().items():
            tokens[row] = any_allowed if safe is None else safe
        logprobs = np.where(counted, logprobs, 0.0).astype(np.float32)
        action = self._action(tokens, logprobs)
        self.observation, rewards, terminated, truncated, info = self.venv.step(action)
        over = terminated | truncated
        ended = np.flatnonzero(over & counted)
        finals = info
        if len(ended) and self.mode is AutoresetMode.SAME_STEP:
            finals = info["final_info"]
        told = [row_info(finals, row) for row in ended.tolist()]
        self.numbers[ended] = -1
        fresh = self._admit()
        self._reset(self._to_reset(over, ended, fresh))
        return Fed(rewards, ended, told, fresh)

    def _admit(self) -> np.ndarray:
        """Number the next episodes of groups that are through; return their rows."""
        by_group = self.numbers.reshape(-1, self.group_size)
        idle = np.flatnonzero((by_group < 0).all(1))[: self.waiting]
        members = np.arange(self.group_size)
        for group in idle.tolist():
            by_group[group] = self.begun + members
            self.begun += self.group_size
        self.waiting -= len(idle)
        return (idle[:, None] * self.group_size + members).reshape(-1)

    def _to_reset(self, over: np.ndarray, ended: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Return bool [B]: the rows that the environment has not reset of itself, and must be.

        In SAME_STEP mode a group that ended as a whole has begun its next prompt already. Rows
        of a group that did not are reset together, and so are given the same prompt.
        """
        reset = np.zeros(len(over), bool)
        reset[fresh] = True
        if self.mode is AutoresetMode.SAME_STEP:
            now = np.zeros(len(over), bool)
            now[ended] = True
            together = now.reshape(-1, self.group_size).all(1).repeat(self.group_size)
            return reset & ~together
        if self.mode is AutoresetMode.DISABLED and (self.waiting or (self.numbers >= 0).any()):
            reset |= over  # a row may not be stepped once it is over, so it is parked
        return reset

    def _reset(self, rows: np.ndarray) -> None:
        if rows.any():
            self.observation, _ = self.venv.reset(options={"reset_mask": rows})

    def _fillers(self) -> dict[int, tuple[int | None, int]]:
        """Say what the environment's mask lets parked rows be fed; {} without a mask.

        Returns:
            For each parked row that a step would move, a token that ends nothing, or None,
            and any token at all.
        """
        allowed = self.allowed()
        if allowed is None:
            return {}
        found: dict[int, tuple[int | None, int]] = {}
        for row in np.flatnonzero((self.numbers < 0) & ~self.env.batch.over).tolist():
            if allowed[row, self.filler]:
                found[row] = self.filler, self.filler
                continue
            tokens = np.flatnonzero(allowed[row]).tolist()
            found[row] = next((t for t in tokens if _is_harmless(self.env, t)), None), tokens[0]
        return found

    def _action(self, tokens: np.ndarray, logprobs: np.ndarray) -> Any:
        if self.shaping is None or not self.shaping.policy_logprob:
            return tokens
        return {"token": tokens, "logprob": np.minimum(logprobs, 0.0)}


def filler_token(venv: VectorEnv) -> int:
    """Return a token that ends no episode: neither EOS nor part of a stop string.

    Raises:
        ConfigError: if the vocabulary has none.
    """
    env: Any = venv.unwrapped
    for token in range(env.tokenizer.vocab_size):
        if _is_harmless(env, token):
            return token
    raise ConfigError("every token of the vocabulary could end an episode; nothing can fill a row")


def _is_harmless(env: Any, token: int) -> bool:
    if token in (env.tokenizer.eos_id, env.tokenizer.pad_id):
        return False
    return not set(env.tokenizer.decode([token])) & set("".join(env.batch.stop))
