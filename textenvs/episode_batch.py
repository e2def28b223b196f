"""The Markov decision process of text generation, as a batched numpy state machine.

`TextEnv` is a batch of one and `TextVectorEnv` a batch of many over this one class, so
the two cannot drift apart. Each row holds a left-padded prompt in the first P columns
and the completion from column P on; nothing ever shifts, so a KV cache stays valid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np

from textenvs.chat import with_chat
from textenvs.curriculum import as_schedule, draw_index
from textenvs.errors import ActionError, ConfigError, RewardError
from textenvs.final_infos import final_infos
from textenvs.prompts import PromptSource, as_source, too_long
from textenvs.rendering import EpisodeView, token_pieces
from textenvs.rewards import resolve_reward
from textenvs.rewards.base import BaseReward, Reward, RewardResult, checked_result
from textenvs.tokenization import TextTokenizer, load_tokenizer, stop_candidates
from textenvs.types import Episode, FinishReason, Prompt

Overlong = Literal["error", "truncate"]
Metrics = Callable[[Sequence[Episode]], Mapping[str, np.ndarray]]
Oracle = Callable[[Prompt], str]
Probes = Callable[[Prompt], Mapping[str, str]]
Observation = dict[str, np.ndarray]
ENCODED_PROMPTS_KEPT = 8192


@dataclass(frozen=True, slots=True)
class Finished:
    """The rows that ended in one step, already scored.

    Attributes:
        rows: int [N], row numbers.
        rewards: float64 [N].
        infos: What `info` says of each.
    """

    rows: np.ndarray
    rewards: np.ndarray
    infos: list[dict[str, Any]]


class EpisodeBatch:
    """B episodes side by side: tokens, masks, ends and scores."""

    def __init__(
        self,
        prompts: Any,
        reward: Any,
        tokenizer: Any,
        num_rows: int,
        *,
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        overlong: Overlong = "error",
        on_unscored: Literal["raise", "skip"] | float = "raise",
        metrics: Metrics | None = None,
        oracle: Oracle | None = None,
        probes: Probes | None = None,
        curriculum: Any = None,
        chat: bool = False,
    ) -> None:
        """Check the options and allocate the rows; see `TextEnv` for their meaning."""
        self.tokenizer: TextTokenizer = load_tokenizer(tokenizer)
        self.reward: Reward = resolve_reward(reward)
        self.chat = chat
        self.prompts: PromptSource = with_chat(as_source(prompts), self.tokenizer, wrap=chat)
        self.metrics_of, self.oracle_of, self.probes_of = metrics, oracle, probes
        self.schedule = as_schedule(curriculum)
        self.num_prompt_columns = _positive("max_prompt_tokens", max_prompt_tokens, 512)
        self.max_new_tokens = _positive("max_new_tokens", max_new_tokens, 32)
        self.stop = _checked_stop(stop)
        self.overlong = _checked_overlong(overlong)
        self.on_unscored = _checked_on_unscored(on_unscored)
        self._table = None
        if overlong == "error":
            self._table = self.prompts.check_lengths(self.tokenizer, max_prompt_tokens)
        self._stop_candidates = stop_candidates(self.tokenizer, self.stop) if self.stop else None
        self._encoded = lru_cache(ENCODED_PROMPTS_KEPT)(self._encode)

        columns = self.num_prompt_columns + self.max_new_tokens
        self.num_rows = num_rows
        self.input_ids = np.full((num_rows, columns), self.tokenizer.pad_id, np.int64)
        self.attention_mask = np.zeros((num_rows, columns), np.int8)
        self.lengths = np.zeros(num_rows, np.int64)
        self.over = np.ones(num_rows, bool)
        self.current: list[Prompt | None] = [None] * num_rows
        self._endings: list[dict[str, Any] | None] = [None] * num_rows
        self._all_rows = np.arange(num_rows)

    @property
    def observation_space(self) -> gym.spaces.Dict:
        """The space of one row's observation."""
        columns = (self.num_prompt_columns + self.max_new_tokens,)
        return gym.spaces.Dict(
            input_ids=gym.spaces.Box(0, self.tokenizer.vocab_size - 1, columns, np.int64),
            attention_mask=gym.spaces.Box(0, 1, columns, np.int8),
        )

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """The space of one row's action: a token."""
        return gym.spaces.Discrete(self.tokenizer.vocab_size)

    def encoded(self, index: int) -> tuple[Prompt, np.ndarray, int]:
        """Return a prompt, its ids, and how many were dropped from its left."""
        if self._table is not None:
            return self.prompts[index], self._table[index], 0
        return self._encoded(index)

    def _encode(self, index: int) -> tuple[Prompt, np.ndarray, int]:
        prompt = self.prompts[index]
        ids = np.array(self.prompts.encode(self.tokenizer, [prompt])[0], np.int64)
        dropped = len(ids) - self.num_prompt_columns
        if dropped <= 0:
            return prompt, ids, 0
        if self.overlong == "error":
            raise too_long(prompt, len(ids), self.num_prompt_columns)
        return prompt, ids[dropped:], dropped

    def draw(self, episode: int, generator: np.random.Generator) -> int:
        """Return the index of a row's next prompt, `episode` counting those it has begun."""
        return draw_index(self.schedule, len(self.prompts), episode, generator)

    def start(self, row: int, index: int) -> dict[str, Any]:
        """Begin an episode in a row with the prompt of this index; return its info."""
        prompt, ids, dropped = self.encoded(index)
        first = self.num_prompt_columns - len(ids)
        self.input_ids[row] = self.tokenizer.pad_id
        self.attention_mask[row] = 0
        self.input_ids[row, first : self.num_prompt_columns] = ids
        self.attention_mask[row, first : self.num_prompt_columns] = 1
        self.lengths[row] = 0
        self.over[row] = False
        self.current[row] = prompt
        self._endings[row] = None
        info: dict[str, Any] = {"prompt_id": prompt.id, "prompt": prompt.text}
        if self.overlong == "truncate":
            info["prompt_tokens_dropped"] = dropped
        return info

    def advance(self, actions: np.ndarray, rows: np.ndarray | None = None) -> Finished | None:
        """Append one token to each row (or to `rows`); score those that end by it.

        Args:
            actions: int64 [N], one token a row, each inside the vocabulary.
            rows: int [N], the rows that move; None moves all.
        """
        rows = self._all_rows if rows is None else rows
        lengths = self.lengths[rows]
        columns = lengths + self.num_prompt_columns
        self.input_ids[rows, columns] = actions
        self.attention_mask[rows, columns] = 1
        lengths += 1
        self.lengths[rows] = lengths
        at_eos = actions == self.tokenizer.eos_id
        ended = at_eos | (lengths >= self.max_new_tokens)
        stops = self._stopped(rows, actions) if self._stop_candidates is not None else {}
        for position in stops:
            ended[position] = True
        if not ended.any():
            return None
        positions = np.flatnonzero(ended)
        reasons = [_reason(bool(at_eos[p]), p in stops) for p in positions]
        return self._finish(rows[positions], reasons, [stops.get(int(p)) for p in positions])

    def _stopped(self, rows: np.ndarray, actions: np.ndarray) -> dict[int, str]:
        """Return, for each position whose row now holds a stop string, the text before it."""
        assert self._stop_candidates is not None
        found = {}
        for position in np.flatnonzero(self._stop_candidates[actions]):
            text = self.tokenizer.decode(self.completion_ids(int(rows[position])))
            cuts = [text.find(stop) for stop in self.stop if stop in text]
            if cuts:
                found[int(position)] = text[: min(cuts)]
        return found

    def completion_ids(self, row: int) -> list[int]:
        """Return the tokens acted so far in a row, EOS included."""
        start = self.num_prompt_columns
        return self.input_ids[row, start : start + int(self.lengths[row])].tolist()

    def _finish(
        self, rows: np.ndarray, reasons: list[FinishReason], stopped: list[str | None]
    ) -> Finished:
        self.over[rows] = True
        episodes = []
        for row, reason, text in zip(rows, reasons, stopped, strict=True):
            ids = self.completion_ids(int(row))
            kept = ids[:-1] if reason == "eos" else ids
            completion = text if reason == "stop" else self.tokenizer.decode(kept)
            prompt = cast(Prompt, self.current[int(row)])
            episodes.append(Episode(prompt, cast(str, completion), tuple(ids), reason))
        result = checked_result(self.reward, episodes)
        rewards = self._paid(result, episodes)
        infos = final_infos(episodes, result, rewards, self.metrics(episodes))
        for row, info in zip(rows.tolist(), infos, strict=True):
            self._endings[row] = dict(info)
        return Finished(rows, rewards, infos)

    def _paid(self, result: RewardResult, episodes: Sequence[Episode]) -> np.ndarray:
        """Return the rewards, float64 [B], by the policy for episodes without a score.

        An episode that a guarded reward failed on is unscored because its guard was told to
        skip it, so it is none of the unforeseen ones that raise.
        """
        scored = ~np.isnan(result.scores)
        if self.on_unscored == "raise" and not scored.all():
            foreseen = result.failures
            for row in np.flatnonzero(~scored).tolist():
                if row not in foreseen:
                    raise self._unscored_error(episodes[row])
        substitute = 0.0 if isinstance(self.on_unscored, str) else float(self.on_unscored)
        return np.where(scored, result.scores, substitute)

    def _unscored_error(self, episode: Episode) -> RewardError:
        return RewardError(
            f"the reward {self.reward.name!r} did not score the completion "
            f"{episode.completion!r:.80} of the prompt {episode.prompt.id!r}; return a number, or "
            "pass on_unscored=VALUE to the environment to give such episodes a stated reward, or "
            "\"skip\" to leave them out (info['scored'] then tells them apart)"
        )

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Return the gold metrics of episodes, float64 [B] each; {} where the task has none."""
        return dict(self.metrics_of(episodes)) if self.metrics_of else {}

    def score(self, prompts: Sequence[Prompt | str], texts: Sequence[str]) -> RewardResult:
        """Judge texts without stepping: the task reward alone.

        Args:
            prompts: One prompt, or id of a prompt, a text.
            texts: Completions.

        Raises:
            ConfigError: if there are not as many prompts as texts.
        """
        if len(prompts) != len(texts):
            raise ConfigError(f"got {len(prompts)} prompts for {len(texts)} texts; give one each")
        return checked_result(self.reward, self.episodes(prompts, texts))

    def episodes(self, prompts: Sequence[Prompt | str], texts: Sequence[str]) -> list[Episode]:
        """Return finished episodes that say these texts."""
        found = [
            p if isinstance(p, Prompt) else self.prompts[self.prompts.index_of(p)] for p in prompts
        ]
        return [Episode(prompt, text) for prompt, text in zip(found, texts, strict=True)]

    def oracle(self, prompt: Prompt) -> str:
        """Return a right answer, from the task's oracle or the prompt's reference.

        Raises:
            ConfigError: if neither is there.
        """
        if self.oracle_of is not None:
            return self.oracle_of(prompt)
        if prompt.reference is None:
            raise ConfigError(
                f"no right answer is known for the prompt {prompt.id!r}; give the environment "
                "an oracle, or its prompts a reference"
            )
        return prompt.reference

    def oracle_ids(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a right answer, EOS behind them; the budget may be shorter.

        Raises:
            ConfigError: if none is known.
        """
        return [*self.tokenizer.encode_completion(self.oracle(prompt)), self.tokenizer.eos_id]

    def probes(self, prompt: Prompt) -> dict[str, str]:
        """Return answers that exploit this task without solving it, by name; {} if none is known.

        A sound reward pays them no better than other wrong answers; `textenvs.checker` tries.
        """
        return dict(self.probes_of(prompt)) if self.probes_of else {}

    def task_arguments(self) -> dict[str, Any]:
        """Return the arguments that make another batch with the same task."""
        return {
            "prompts": self.prompts,
            "reward": self.reward,
            "tokenizer": self.tokenizer,
            "max_prompt_tokens": self.num_prompt_columns,
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "overlong": self.overlong,
            "on_unscored": self.on_unscored,
            "metrics": self.metrics_of,
            "oracle": self.oracle_of,
            "probes": self.probes_of,
            "curriculum": self.schedule,
            "chat": self.chat,
        }

    def view(self, row: int, kl_terms: Sequence[float] = ()) -> EpisodeView | None:
        """Return the episode of a row as it is shown; None before its first reset.

        Args:
            row: Row number.
            kl_terms: What KL shaping has added to the reward of each token so far.
        """
        prompt, ending = self.current[row], self._endings[row]
        if prompt is None:
            return None
        ids = self.completion_ids(row)
        tokens = tuple(token_pieces(self.tokenizer, ids))
        if ending is None:
            return EpisodeView(prompt.text, tokens, kl_terms=tuple(kl_terms))
        shown = EpisodeView(
            prompt.text, tokens, kl_terms=tuple(kl_terms), finish_reason=ending["finish_reason"]
        )
        if not ending["scored"]:
            return shown
        total = ending["task_reward"]
        paid = [0.0] * (len(ids) - 1) + [total]
        rewards = tuple(ending.get("reward_per_token", paid))
        return replace(shown, rewards=rewards, total=total)

    def observation(self) -> Observation:
        """Return copies, so that no caller holds an array that later changes."""
        return {"input_ids": self.input_ids.copy(), "attention_mask": self.attention_mask.copy()}

    def row_observation(self, row: int) -> Observation:
        """Return copies of one row."""
        return {
            "input_ids": self.input_ids[row].copy(),
            "attention_mask": self.attention_mask[row].copy(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the prompts and the tokenizer; JSON-able.

        Of the reward it is what scoring has changed, absent where that is nothing.
        """
        state = {
            "prompt_ids": [None if p is None else p.id for p in self.current],
            "completion_ids": [self.completion_ids(row) for row in range(self.num_rows)],
            "over": self.over.tolist(),
        }
        kept = self.reward.state_dict() if isinstance(self.reward, BaseReward) else {}
        return {**state, "reward": kept} if kept else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the rows back where `state_dict` found them."""
        if len(state["over"]) != self.num_rows:
            raise ConfigError(
                f"the saved state has {len(state['over'])} rows, this environment {self.num_rows}"
            )
        for row, prompt_id in enumerate(state["prompt_ids"]):
            if prompt_id is None:
                continue
            self.start(row, self.prompts.index_of(prompt_id))
            ids = state["completion_ids"][row]
            first = self.num_prompt_columns
            self.input_ids[row, first : first + len(ids)] = ids
            self.attention_mask[row, first : first + len(ids)] = 1
            self.lengths[row] = len(ids)
        self.over[:] = state["over"]
        if isinstance(self.reward, BaseReward) and "reward" in state:
            self.reward.load_state_dict(state["reward"])

    def checked_actions(self, actions: Any) -> np.ndarray:
        """Return actions as int64 [B].

        Raises:
            ActionError: if the shape or type is wrong, or a token is outside the vocabulary.
        """
        tokens = np.asarray(actions)
        if tokens.shape != (self.num_rows,) or tokens.dtype.kind not in "iu":
            raise ActionError(
                f"actions must be {self.num_rows} integer tokens, got shape {tokens.shape} of "
                f"{tokens.dtype}"
            )
        vocab_size = self.tokenizer.vocab_size
        tokens = tokens.astype(np.int64, copy=False)
        if tokens.view(np.uint64).max() >= vocab_size:  # a negative one is huge as unsigned
            bad = tokens[(tokens < 0) | (tokens >= vocab_size)][0]
            raise ActionError(
                f"action {bad} is outside the vocabulary; tokens are 0 to {vocab_size - 1}"
            )
        return tokens


def _reason(at_eos: bool, at_stop: bool) -> FinishReason:
    if at_eos:
        return "eos"
    return "stop" if at_stop else "length"


def _positive(name: str, value: Any, default: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value!r}; the default is {default}")
    return int(value)


def _checked_stop(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, str):
        stop = (stop,)
    if not all(isinstance(text, str) and text for text in stop):
        raise ConfigError(f"stop must hold non-empty strings, got {stop!r}")
    return tuple(stop)


def _checked_overlong(overlong: Any) -> Overlong:
    if overlong not in get_args(Overlong):
        raise ConfigError(f'overlong must be "error" or "truncate", got {overlong!r}')
    return overlong


def _checked_on_unscored(value: Any) -> Any:
    if value in ("raise", "skip") or (isinstance(value, (int, float)) and np.isfinite(value)):
        return value
    raise ConfigError(f'on_unscored must be "raise", "skip" or a finite number, got {value!r}')
