"""`TextEnv`: text generation as a Gymnasium environment, one token an action."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np

from textenvs.episode_batch import EpisodeBatch, Observation
from textenvs.errors import ActionError, ConfigError, EpisodeOverError
from textenvs.rendering import render
from textenvs.rewards.base import RewardResult
from textenvs.task_members import TaskMembers
from textenvs.types import Prompt


class TextEnv(TaskMembers, gym.Env[Observation, int]):
    """One prompt an episode, one token an action.

    Observation: `Dict(input_ids=Box(0, V-1, (P+T,), int64), attention_mask=Box(0, 1,
    (P+T,), int8))`, with P = `max_prompt_tokens`, T = `max_new_tokens`. The prompt is
    left-padded into the first P columns, the completion grows from column P.

    Action: `Discrete(V)`, the next token.

    Reward: 0 until the episode ends, then the reward of the whole completion.

    End: the EOS token ("eos"), a stop string ("stop"), or the token budget ("length").
    All three are `terminated`, since the budget is part of the task and visible in the
    observation; only an outer `TimeLimit` truncates.

    Info at reset: `prompt_id`, `prompt`. At the end: `completion`, `completion_ids`,
    `finish_reason`, `reward_terms` (name -> weighted score), `reward_raw` (the same before
    the weight; a term without a score is absent from both), `metrics` (gold metrics, never
    trained on), `scored`, `task_reward` (before any shaping); where the reward spreads over
    the tokens, `reward_per_token`; and where a `textenvs.rewards.Guarded` reward failed,
    `reward_failure`, how.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "html"], "render_fps": 4}

    def __init__(
        self,
        prompts: Any,
        reward: Any,
        tokenizer: Any = "tiny-lm",
        *,
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        """Build the environment.

        Args:
            prompts: A `PromptSource`, a list of prompts or texts, a `datasets.Dataset`, a file.
            reward: A `Reward`, a function of (prompt, completion), a name.
            tokenizer: A name, a folder, a transformers tokenizer.
            max_prompt_tokens: Columns kept for the prompt, at least 1.
            max_new_tokens: The token budget of a completion, at least 1.
            stop: Strings that end a completion; they are not part of it.
            render_mode: "ansi" (for a terminal), "html" (a fragment of a page), or None.
            **task: `overlong` ("error", or "truncate" to drop tokens from the left of a
                prompt that does not fit), `on_unscored` ("raise", "skip", or the reward of an
                episode that could not be scored; a skipped one pays 0, and learners that look
                at `scored` leave it out), `metrics` (gold metrics), `oracle`, `probes`
                (exploits to check the reward with), `curriculum` (a schedule of
                `textenvs.curriculum`), `chat` (wrap each prompt as a user's message).

        Raises:
            ConfigError: if an option is out of range.
            PromptError: if a prompt is longer than `max_prompt_tokens`.
            TokenizerError: if the tokenizer has no EOS token.
        """
        self.batch = EpisodeBatch(
            prompts,
            reward,
            tokenizer,
            1,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            stop=stop,
            **task,
        )
        self.observation_space = cast("gym.Space[Observation]", self.batch.observation_space)
        self.action_space = cast("gym.Space[int]", self.batch.action_space)
        self.render_mode = checked_render_mode(render_mode, self.metadata)
        self._begun = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode with a prompt drawn at random.

        Args:
            seed: Seeds `np_random`, from which prompts are drawn.
            options: `{"prompt_id": id}` replays that prompt instead of drawing one.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._begun = 0
        prompt_id = checked_options(options).get("prompt_id")
        if prompt_id is None:
            index = self.batch.draw(self._begun, self.np_random)
            self._begun += 1
        else:
            index = self.prompts.index_of(prompt_id)
        info = self.batch.start(0, index)
        return self.batch.row_observation(0), info

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token.

        Raises:
            EpisodeOverError: before `reset`, or after the end.
            ActionError: if the token is outside the vocabulary.
        """
        batch = self.batch
        if batch.over[0]:
            raise over_error(started=batch.current[0] is not None)
        finished = batch.advance(self._checked_action(action))
        observation = batch.row_observation(0)
        if finished is None:
            return observation, 0.0, False, False, {}
        return observation, float(finished.rewards[0]), True, False, finished.infos[0]

    def _checked_action(self, action: Any) -> np.ndarray:
        if isinstance(action, np.ndarray) and action.size == 1:
            action = action.item()
        if not isinstance(action, (int, np.integer)) or isinstance(action, bool):
            raise ActionError(f"an action is one integer token, got {action!r}")
        if not 0 <= action < self.batch.tokenizer.vocab_size:
            raise ActionError(
                f"action {action} is outside the vocabulary; tokens are 0 to "
                f"{self.batch.tokenizer.vocab_size - 1}"
            )
        return np.array([action], np.int64)

    def render(self) -> str | None:
        """Return the prompt and the completion so far, coloured by reward once it is scored.

        None without a render mode, or before the first reset.
        """
        return render(self.batch.view(0), self.render_mode)

    def score(self, prompt: Prompt | str, texts: Sequence[str]) -> RewardResult:
        """Judge texts as answers to one prompt (or id of one), without stepping."""
        return self.batch.score([prompt] * len(texts), texts)

    def state_dict(self) -> dict[str, Any]:
        """Return the episode under way and the random state; JSON-able."""
        return {
            "rows": self.batch.state_dict(),
            "np_random": self.np_random.bit_generator.state,
            "begun": self._begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.batch.load_state_dict(state["rows"])
        self.np_random.bit_generator.state = state["np_random"]
        self._begun = state["begun"]


RESET_OPTIONS = ("prompt_id", "reset_mask")


def checked_options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the options of `reset`, {} for None.

    Raises:
        ConfigError: if `prompt_id` is not text, as an id always is.
    """
    options = options or {}
    prompt_id = options.get("prompt_id")
    ids = prompt_id if isinstance(prompt_id, (list, tuple, np.ndarray)) else [prompt_id]
    if not all(i is None or isinstance(i, str) for i in ids):
        raise ConfigError(
            f"options['prompt_id'] must be the id of a prompt (text), got {prompt_id!r}"
        )
    return options


def checked_render_mode(render_mode: str | None, metadata: Mapping[str, Any]) -> str | None:
    """Return the render mode if the environment has it."""
    if render_mode is not None and render_mode not in metadata["render_modes"]:
        raise ConfigError(
            f"render_mode must be one of {metadata['render_modes']} or None, got {render_mode!r}"
        )
    return render_mode


def over_error(*, started: bool) -> EpisodeOverError:
    """Return the error for a step with no episode under way."""
    why = "the episode is over" if started else "no episode has begun"
    return EpisodeOverError(f"step was called, but {why}; call reset() first")
