"""Action masks around one environment and around a batch of them."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from textenvs.env import over_error
from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ActionError, ConfigError, UnknownNameError
from textenvs.masks import MaskSetting, Rows, TokenMask, resolve_mask
from textenvs.types import Prompt

OnMasked = Literal["error", "allow"]


class ActionMasking:
    """What both wrappers share, over the rows of an environment.

    The masks are read off the state of the environment itself, never off the calls that
    pass through a wrapper; so they hold after a reset, a replay, a partial reset or a
    restored state alike.
    """

    def __init__(self, env: Any, mask: TokenMask | str, on_masked: str) -> None:
        """Bind the mask to an environment.

        Raises:
            ConfigError: if it is no text environment, or the mask no mask.
            UnknownNameError: if a name is unknown.
        """
        if on_masked not in get_args(OnMasked):
            raise UnknownNameError("on_masked", on_masked, get_args(OnMasked))
        batch = getattr(env.unwrapped, "batch", None)
        if not isinstance(batch, EpisodeBatch):
            raise ConfigError(
                f"{env.unwrapped!r} is no text environment; wrap a TextEnv in ActionMask, a "
                "TextVectorEnv in VectorActionMask"
            )
        self.mask, self.batch = resolve_mask(mask), batch
        self.on_masked = on_masked
        self._bound = self.mask.bind(
            MaskSetting(batch.tokenizer, batch.num_prompt_columns, batch.max_new_tokens)
        )
        self._allowed = np.zeros((0, 0), bool)
        self._seen: tuple[list[Prompt | None], np.ndarray, np.ndarray] | None = None

    def masks(self) -> np.ndarray:
        """Return bool [B, V], fresh; all True in rows without an episode under way.

        Raises:
            EpisodeOverError: if a row has never begun.
            ActionError: if nothing may come next in a row.
        """
        return self._current().copy()

    def check(self, actions: Any) -> None:
        """Refuse a masked token in a row whose episode is under way.

        Args:
            actions: [B] tokens, or a mapping with them under "token".

        Raises:
            ActionError: naming the token, the prompt and the text so far.
        """
        if self.on_masked == "allow" or self.batch.over.all():
            return
        given: Any = actions.get("token") if isinstance(actions, Mapping) else actions
        tokens = self.batch.checked_actions(np.reshape(given, -1))
        allowed = self._current()[np.arange(len(tokens)), tokens]
        if allowed.all():
            return
        row = int(np.argmin(allowed))
        token = int(tokens[row])
        text = (
            "EOS" if token == self.batch.tokenizer.eos_id else self.batch.tokenizer.decode([token])
        )
        raise ActionError(
            f"the token {token} ({text!r}) is masked by {self.mask!r} {self._where(row)}; choose "
            'one that action_masks() allows, or pass on_masked="allow"'
        )

    def _where(self, row: int) -> str:
        prompt, so_far = self.batch.current[row], self.batch.completion_ids(row)
        named = "" if prompt is None else prompt.id
        return f"after {self.batch.tokenizer.decode(so_far)!r} for the prompt {named!r}"

    def _current(self) -> np.ndarray:
        """Return the masks of the state as it is, computed once for each state."""
        batch = self.batch
        completions = batch.input_ids[:, batch.num_prompt_columns :]
        if self._seen is not None:
            prompts, lengths, seen = self._seen
            if (
                all(now is then for now, then in zip(batch.current, prompts, strict=True))
                and np.array_equal(lengths, batch.lengths)
                and np.array_equal(seen, completions)
            ):
                return self._allowed
        self._allowed = self._computed()
        self._seen = (list(batch.current), batch.lengths.copy(), completions.copy())
        return self._allowed

    def _computed(self) -> np.ndarray:
        batch = self.batch
        prompts = [prompt for prompt in batch.current if prompt is not None]
        if len(prompts) < batch.num_rows:
            raise over_error(started=False)
        allowed = np.zeros((batch.num_rows, batch.tokenizer.vocab_size), bool)
        rows = Rows(
            prompts,
            [batch.completion_ids(row) for row in range(batch.num_rows)],
            ~batch.over,
            batch.input_ids,
            batch.attention_mask,
        )
        self._bound.fill(rows, allowed)
        # Whatever is said to a row that waits for its reset is ignored, and a policy must
        # be able to say something.
        allowed[batch.over] = True
        some = allowed.any(1)
        if not some.all():
            raise ActionError(
                f"{self.mask!r} allows no token at all {self._where(int(np.argmin(some)))}; widen "
                'it or raise max_new_tokens; Intersection(..., on_empty="eos") allows EOS instead'
            )
        return allowed


class ActionMask(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Restrict the actions of a text environment to what a mask allows.

    `action_masks()` is what sb3-contrib's `MaskablePPO` asks for. The mask is no part of
    `info`: V booleans a step would be copied by every wrapper and logger that never reads
    them.
    """

    def __init__(
        self, env: gym.Env[Any, Any], mask: TokenMask | str, on_masked: str = "error"
    ) -> None:
        """Wrap an environment.

        Args:
            env: A `TextEnv`, possibly wrapped.
            mask: A mask of `textenvs.masks`, or "context-trie".
            on_masked: What becomes of a masked action: "error", or "allow", which leaves it
                to the agent to keep to the mask.

        Raises:
            ConfigError: if `env` is no single text environment, or the mask no mask.
            TokenizerError: if the tokenizer cannot serve the mask.
            UnknownNameError: if a name is unknown.
        """
        # Masks never change, so the record shares them; a copy could be one of a model.
        gym.utils.RecordConstructorArgs.__init__(
            self, mask=mask, on_masked=on_masked, _disable_deepcopy=True
        )
        if not isinstance(env, gym.Env):
            raise ConfigError(f"{env!r} is no single environment; use VectorActionMask for a batch")
        gym.Wrapper.__init__(self, env)
        self.masking = ActionMasking(env, mask, on_masked)

    def action_masks(self) -> np.ndarray:
        """Return bool [V], fresh: the tokens allowed next; all of them once it is over.

        Raises:
            EpisodeOverError: before the first reset.
            ActionError: if nothing may come next.
        """
        return self.masking.masks()[0]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Append one token.

        Raises:
            ActionError: if it is masked.
        """
        self.masking.check(action)
        return self.env.step(action)


class VectorActionMask(VectorWrapper):
    """`ActionMask` for a `TextVectorEnv`.

    In every autoreset mode a row whose episode is over accepts any action until it is
    reset: NEXT_STEP ignores it, DISABLED refuses the step.
    """

    def __init__(self, env: VectorEnv, mask: TokenMask | str, on_masked: str = "error") -> None:
        """Wrap a vector environment; arguments and errors as in `ActionMask`."""
        if not isinstance(env, VectorEnv):
            raise ConfigError(f"{env!r} is no vector environment; use ActionMask for a single one")
        super().__init__(env)
        self.masking = ActionMasking(env, mask, on_masked)

    def action_masks(self) -> np.ndarray:
        """Return bool [B, V], fresh: the tokens allowed next in each row.

        Raises:
            EpisodeOverError: before the first reset.
            ActionError: if nothing may come next in a row.
        """
        return self.masking.masks()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Append one token to each row.

        Raises:
            ActionError: if one of them is masked; then no row has moved.
        """
        self.masking.check(actions)
        return self.env.step(actions)


def find_action_mask(env: Any) -> ActionMask | VectorActionMask | None:
    """Return the action mask around an environment, wherever it stands, or None.

    Gymnasium's vector wrappers do not pass `action_masks` on; this finds it under them.
    """
    while isinstance(env, (gym.Wrapper, VectorWrapper)):
        if isinstance(env, (ActionMask, VectorActionMask)):
            return env
        env = env.env
    return None
