"""`TextVectorEnv`: many text environments stepped as one batch of arrays."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random as seeded_generator
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from textenvs.env import TextEnv, checked_options, checked_render_mode, over_error
from textenvs.episode_batch import EpisodeBatch, Observation
from textenvs.errors import ConfigError
from textenvs.rendering import render
from textenvs.rewards.base import RewardResult
from textenvs.task_members import TaskMembers
from textenvs.types import Prompt
from textenvs.vector_infos import add_infos


class TextVectorEnv(TaskMembers, VectorEnv):
    """B text environments over one batched state machine.

    Observations are those of `TextEnv` with a leading axis B; actions are int64 [B].
    Same seeds and actions give the same trajectories as `gymnasium.vector.SyncVectorEnv`
    over `TextEnv`, in all three autoreset modes. With `samples_per_prompt=G`, rows
    0..G-1, G..2G-1, ... form groups whose k-th episodes share one prompt.
    """

    def __init__(
        self,
        prompts: Any,
        reward: Any,
        tokenizer: Any = "tiny-lm",
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        samples_per_prompt: int = 1,
        max_episode_steps: int | None = None,
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        """Build the environment; options not named here are those of `TextEnv`.

        Args:
            prompts: As in `TextEnv`.
            reward: As in `TextEnv`.
            tokenizer: As in `TextEnv`.
            num_envs: Number of rows B, at least 1.
            autoreset_mode: What happens to a finished row: reset by the next step
                (NEXT_STEP), at once (SAME_STEP), or by `reset(options={"reset_mask": ...})`.
            samples_per_prompt: Completions of each prompt; divides `num_envs`.
            max_episode_steps: Truncate an episode, unscored, after so many tokens, as
                Gymnasium's `TimeLimit` does; None, the default, leaves that to wrappers.
            max_prompt_tokens: As in `TextEnv`.
            max_new_tokens: As in `TextEnv`.
            stop: As in `TextEnv`.
            render_mode: As in `TextEnv`.
            **task: As in `TextEnv`.

        Raises:
            ConfigError: if an option is out of range.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {num_envs}")
        if samples_per_prompt < 1 or num_envs % samples_per_prompt:
            raise ConfigError(
                f"samples_per_prompt must divide num_envs, got {samples_per_prompt} and {num_envs}"
            )
        self.num_envs, self.samples_per_prompt = num_envs, samples_per_prompt
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**TextEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = checked_render_mode(render_mode, self.metadata)
        self.batch = EpisodeBatch(
            prompts,
            reward,
            tokenizer,
            num_envs,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            stop=stop,
            **task,
        )
        self.single_observation_space = self.batch.observation_space
        self.single_action_space = self.batch.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._seeds: list[int] = []
        groups = num_envs // samples_per_prompt
        self._drawn: list[deque[int]] = [deque() for _ in range(groups)]
        self._first_drawn = [0] * groups
        self._begun = [0] * num_envs

    @property  # type: ignore[misc]  # read-only, as in SyncVectorEnv
    def np_random(self) -> Any:
        """The generators, one a row."""
        self._seed([None] * self.num_envs, np.ones(self.num_envs, bool))
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> Any:
        """The seeds, one a row."""
        self._seed([None] * self.num_envs, np.ones(self.num_envs, bool))
        return tuple(self._seeds)

    def _seed(self, seeds: Sequence[int | None], rows: np.ndarray) -> None:
        """Seed the generators of `rows`; None leaves a generator as it is."""
        if not self._generators:
            fresh = [seeded_generator() for _ in range(self.num_envs)]
            self._generators = [generator for generator, _ in fresh]
            self._seeds = [seed for _, seed in fresh]
        for row in np.flatnonzero(rows).tolist():
            seed = seeds[row]
            if seed is not None:
                self._generators[row], self._seeds[row] = seeded_generator(seed)
                if row % self.samples_per_prompt == 0:
                    self._forget_draws(row // self.samples_per_prompt)

    def _forget_draws(self, group: int) -> None:
        """Drop prompts drawn ahead, so that a seeded reset starts its group afresh."""
        self._drawn[group].clear()
        self._first_drawn[group] = 0
        first = group * self.samples_per_prompt
        self._begun[first : first + self.samples_per_prompt] = [0] * self.samples_per_prompt

    def _next_prompt(self, row: int) -> int:
        """Return the prompt of the row's next episode: one draw a group and episode number."""
        group = row // self.samples_per_prompt
        if self.samples_per_prompt == 1:  # nobody to share a draw with
            self._begun[row] += 1
            self._first_drawn[row] += 1
            return self.batch.draw(self._begun[row] - 1, self._generators[row])
        draws = self._drawn[group]
        position = self._begun[row] - self._first_drawn[group]
        if position == len(draws):
            generator = self._generators[group * self.samples_per_prompt]
            draws.append(self.batch.draw(self._begun[row], generator))
        index = draws[position]
        self._begun[row] += 1
        first = group * self.samples_per_prompt
        slowest = min(self._begun[first : first + self.samples_per_prompt])
        while self._first_drawn[group] < slowest:
            draws.popleft()
            self._first_drawn[group] += 1
        return index

    def _align_groups(self, rows: np.ndarray) -> None:
        """Give the rows of a wholly reset group the same next draw."""
        for group in range(self.num_envs // self.samples_per_prompt):
            first = group * self.samples_per_prompt
            members = slice(first, first + self.samples_per_prompt)
            if rows[members].all():
                newest = max(self._begun[members])
                self._begun[members] = [newest] * self.samples_per_prompt
                while self._first_drawn[group] < newest:
                    self._drawn[group].popleft()
                    self._first_drawn[group] += 1

    def _begin(self, row: int, prompt_id: str | None = None) -> dict[str, Any]:
        index = self._next_prompt(row) if prompt_id is None else self.prompts.index_of(prompt_id)
        return self.batch.start(row, index)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every row, or in those of `options["reset_mask"]`.

        Args:
            seed: An int seeds row i with seed + i; a list gives each row its own.
            options: `prompt_id` (one id, or one a row) replays prompts; `reset_mask` (bool
                [B], at least one True) leaves the other rows alone.

        Raises:
            ConfigError: if the seeds or the mask have the wrong shape.
        """
        seeds = self._checked_seeds(seed)
        options = dict(checked_options(options))
        rows = self._checked_mask(options.get("reset_mask"))
        prompt_ids = options.get("prompt_id")
        if prompt_ids is None or isinstance(prompt_ids, str):
            prompt_ids = [prompt_ids] * self.num_envs
        if len(prompt_ids) != self.num_envs:
            raise ConfigError(f"got {len(prompt_ids)} prompt ids for {self.num_envs} rows")
        self._seed(seeds, rows)
        if self.samples_per_prompt > 1:
            self._align_groups(rows)
        begun = np.flatnonzero(rows).tolist()
        said = [self._begin(row, prompt_ids[row]) for row in begun]
        return self.batch.observation(), add_infos({}, begun, said, self.num_envs)

    def _checked_seeds(self, seed: Any) -> list[int | None]:
        if seed is None or isinstance(seed, (int, np.integer)):
            return [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigError(f"got {len(seed)} seeds for {self.num_envs} rows; give one each")
        return list(seed)

    def _checked_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at "
                f"least one True, got {mask.dtype} of shape {mask.shape}"
            )
        return mask

    def step(
        self, actions: Any
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Append one token to each row.

        In NEXT_STEP mode a row that ended in the call before is reset instead: its action
        is ignored and its reward is 0. In SAME_STEP mode a row that ends is reset at once,
        and its last observation and info are in `final_obs` and `final_info`.

        Raises:
            EpisodeOverError: before `reset`, or, in DISABLED mode, if a row is over.
            ActionError: if a token is outside the vocabulary.
        """
        batch = self.batch
        tokens = batch.checked_actions(actions)
        rewards = np.zeros(self.num_envs, np.float64)
        terminated = np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        rows = None
        if batch.over.any():
            waiting = batch.over.copy()
            started = batch.current[int(np.argmax(waiting))] is not None
            if not started or self.autoreset_mode is not AutoresetMode.NEXT_STEP:
                raise over_error(started=started)
            begun = np.flatnonzero(waiting).tolist()
            add_infos(infos, begun, [self._begin(row) for row in begun], self.num_envs)
            rows = np.flatnonzero(~waiting)
            tokens = tokens[rows]
        finished = batch.advance(tokens, rows) if len(tokens) else None
        truncated = np.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:  # as `TimeLimit`: an ended row may be both
            truncated = batch.lengths >= self.max_episode_steps
        if finished is not None:
            rewards[finished.rows] = finished.rewards
            terminated[finished.rows] = True
            self._end(infos, finished.rows.tolist(), finished.infos)
        cut = np.flatnonzero(truncated & ~terminated).tolist()
        if cut:
            batch.over[cut] = True
            self._end(infos, cut, [{} for _ in cut])
        return batch.observation(), rewards, terminated, truncated, infos

    def _end(self, infos: dict[str, Any], rows: list[int], said: list[dict[str, Any]]) -> None:
        """Add the infos of rows that ended and, in SAME_STEP mode, begin their next episodes."""
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            add_infos(infos, rows, said, self.num_envs)
            return
        final = [
            {"final_obs": self.batch.row_observation(row), "final_info": info}
            for row, info in zip(rows, said, strict=True)
        ]
        add_infos(infos, rows, final, self.num_envs)
        add_infos(infos, rows, [self._begin(row) for row in rows], self.num_envs)

    def render(self) -> tuple[str, ...] | None:
        """Return what `TextEnv.render` says of each row; "" for one that was never reset.

        In SAME_STEP mode a row that ended shows the episode it has begun since.
        """
        return self.render_with()

    def render_with(self, kl_terms: Sequence[Sequence[float]] = ()) -> tuple[str, ...] | None:
        """Render with the KL terms of each row, where shaping has charged any."""
        if self.render_mode is None:
            return None
        terms = kl_terms or [()] * self.num_envs
        views = (self.batch.view(row, terms[row]) for row in range(self.num_envs))
        return tuple(render(view, self.render_mode) or "" for view in views)

    def score_batch(self, prompts: Sequence[Prompt | str], texts: Sequence[str]) -> RewardResult:
        """Judge texts as answers to prompts (or ids of prompts), without stepping."""
        return self.batch.score(prompts, texts)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes under way and the random states; JSON-able."""
        return {
            "rows": self.batch.state_dict(),
            "np_random": [generator.bit_generator.state for generator in self.np_random],
            "np_random_seed": list(self._seeds),
            "drawn": [list(draws) for draws in self._drawn],
            "first_drawn": list(self._first_drawn),
            "begun": list(self._begun),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.batch.load_state_dict(state["rows"])
        for generator, saved in zip(self.np_random, state["np_random"], strict=True):
            generator.bit_generator.state = saved
        self._seeds = list(state["np_random_seed"])
        self._drawn = [deque(draws) for draws in state["drawn"]]
        self._first_drawn = list(state["first_drawn"])
        self._begun = list(state["begun"])


def vectorised(
    env: TextEnv | TextVectorEnv, num_envs: int, autoreset_mode: AutoresetMode
) -> TextVectorEnv:
    """Return a fresh vector environment with the task of another environment."""
    return TextVectorEnv(
        num_envs=num_envs, autoreset_mode=autoreset_mode, **env.batch.task_arguments()
    )


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode for an `AutoresetMode`, its value ("NextStep") or its name."""
    if isinstance(mode, AutoresetMode):
        return mode
    names = {m.name.casefold(): m for m in AutoresetMode} | {
        m.value.casefold(): m for m in AutoresetMode
    }
    found = names.get(str(mode).casefold())
    if found is None:
        raise ConfigError(
            f"autoreset_mode must be one of {[m.name for m in AutoresetMode]}, got {mode!r}"
        )
    return found
