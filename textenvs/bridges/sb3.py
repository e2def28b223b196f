"""`SB3VecEnv`: the native vector environment as Stable-Baselines3's algorithms know one.

Stable-Baselines3 refuses Gymnasium's `VectorEnv`. The adapter keeps the native batch: one
`step` of B rows is one `step` of the `TextVectorEnv`, whatever its autoreset mode.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from textenvs.episode_batch import Observation
from textenvs.errors import ConfigError, MissingDependencyError, UnknownNameError
from textenvs.vector_env import TextVectorEnv
from textenvs.vector_infos import row_info

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise MissingDependencyError(
        "stable_baselines3", "textenvs.bridges.sb3", 'pip install "textenvs[agents]"'
    ) from error

PER_ROW_ATTRIBUTES = ("np_random", "np_random_seed")
"""Attributes of the vector environment that hold one value a row; the rest are shared."""

PER_ROW_METHODS = ("action_masks", "render")
"""Methods of the vector environment that return one result a row."""

OWN_METHODS = ("reset", "step", "close")
"""Methods that act on every row at once, and have their own door in `VecEnv`."""


class SB3VecEnv(VecEnv):
    """A native text environment, possibly wrapped, for Stable-Baselines3.

    ```python
    venv = SB3VecEnv(gym.make_vec("textenvs/ContextSelect-v0", num_envs=16))
    PPO("MultiInputPolicy", venv, policy_kwargs={...}).learn(100_000)
    ```

    Observation: a dict of `input_ids` int64 [B, P + T] and `attention_mask` int8 [B, P + T].
    Actions: int64 [B]. Rewards: float32 [B]. A row that ends is reset within the same
    `step`, in every autoreset mode; nothing is spent on ignored actions.

    The info of a row is what the environment says of it, and of an ended row also
    `terminal_observation` and `episode` (`r` return, `l` tokens, `t` seconds since the
    start), as `Monitor` writes it. `TimeLimit.truncated` is in every info. What `reset`
    said of each row (`prompt_id`, `prompt`) is in `reset_infos`. With `samples_per_prompt`,
    which no algorithm of Stable-Baselines3 needs, only SAME_STEP keeps a group's k-th
    episodes on one prompt; in the other modes a group that ends as a whole is aligned anew.

    A reference KL applied to `venv` is part of the rewards; Stable-Baselines3 adds no
    entropy half, so without `policy_logprob` only beta * log pi_ref is charged.
    """

    def __init__(self, venv: VectorEnv, *, monitor: bool = True) -> None:
        """Adapt a vector environment.

        Args:
            venv: A `TextVectorEnv`, as `gymnasium.make_vec` gives for every registered id,
                possibly in vector wrappers; its action must be a token.
            monitor: Write `info["episode"]` where no wrapper has, and answer Stable-Baselines3's
                question for a `Monitor` with yes. False leaves both to a `VecMonitor`.

        Raises:
            ConfigError: if `venv` is anything else, or its action is no plain token.
        """
        _check(venv)
        self.venv, self.monitor = venv, monitor
        self._mode: AutoresetMode = venv.metadata["autoreset_mode"]
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(venv.num_envs)
        self._lengths = np.zeros(venv.num_envs, np.int64)
        self._reset_keys: set[str] = set()
        self._began = time.time()
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    @property
    def spec(self) -> Any:
        """The specification of the environment, or None."""
        return self.venv.spec

    def reset(self) -> Observation:
        """Begin an episode in every row, with the seeds and options set before.

        Returns:
            The observation, [B, ...].
        """
        # Gymnasium annotates an int, and its vector environments take a seed a row.
        seeds: Any = self._seeds if any(seed is not None for seed in self._seeds) else None
        observation, infos = self.venv.reset(seed=seeds, options=self._vector_options())
        self._reset_seeds()
        self._reset_options()
        self._reset_keys = {key for key in infos if not key.startswith("_")}
        self._returns[:], self._lengths[:] = 0, 0
        self.reset_infos = [row_info(infos, row) for row in range(self.num_envs)]
        return observation

    def _vector_options(self) -> dict[str, Any] | None:
        """Return the options of each row as one mapping for the vector environment."""
        if len(self._options) != self.num_envs:
            raise ConfigError(
                f"got options for {len(self._options)} rows of {self.num_envs}; give one dict for "
                "all, or a list of one dict a row"
            )
        for name in {name for options in self._options for name in options}:
            if name != "prompt_id":
                raise UnknownNameError("option of reset", name, ["prompt_id"])
        ids = [options.get("prompt_id") for options in self._options]
        return {"prompt_id": ids} if any(i is not None for i in ids) else None

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions, int64 [B], of the next `step_wait`."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[Observation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step every row; reset those that ended.

        Returns:
            The observation [B, ...], after the reset where a row ended; rewards float32
            [B]; dones bool [B]; an info a row.
        """
        observation, rewards, terminated, truncated, infos = self.venv.step(self._actions)
        dones = np.asarray(terminated | truncated)
        self._returns += rewards
        self._lengths += 1
        told = [row_info(infos, row) if infos else {} for row in range(self.num_envs)]
        for row in range(self.num_envs):
            told[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        if dones.any():
            observation = self._end(observation, np.flatnonzero(dones), told)
        return observation, np.asarray(rewards, np.float32), dones, told

    def _end(
        self, observation: Observation, rows: np.ndarray, told: list[dict[str, Any]]
    ) -> Observation:
        """Complete the infos of the rows that ended; return the observation of new episodes."""
        fresh: Mapping[str, Any] = {}
        last = observation
        if self._mode is not AutoresetMode.SAME_STEP:
            ended = np.zeros(self.num_envs, bool)
            ended[rows] = True
            observation, fresh = self.venv.reset(options={"reset_mask": ended})
        for row in rows.tolist():
            info = told[row]
            if self._mode is AutoresetMode.SAME_STEP:
                # The row's info mixes the next episode, the step and, nested, the end.
                final, terminal = info.pop("final_info"), info.pop("final_obs")
                begun = {key: info.pop(key) for key in self._reset_keys & set(info)}
                info |= final
            else:
                begun = row_info(fresh, row)
                terminal = {key: value[row].copy() for key, value in last.items()}
            self.reset_infos[row] = begun
            info["terminal_observation"] = terminal
            if self.monitor and "episode" not in info:
                info["episode"] = {
                    "r": round(float(self._returns[row]), 6),
                    "l": int(self._lengths[row]),
                    "t": round(time.time() - self._began, 6),
                }
        self._returns[rows], self._lengths[rows] = 0, 0
        return observation

    def close(self) -> None:
        """Close the environment."""
        self.venv.close()

    def render(self, mode: str | None = None) -> Any:
        """Return what the vector environment renders: a text a row.

        Args:
            mode: None, or the render mode the environment was made with; any other warns
                and renders nothing.
        """
        if self.render_mode is None or mode not in (None, self.render_mode):
            return super().render(mode)
        return self.venv.render()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return None for each row: text has no images."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the outermost wrapper that has it, once a row.

        Raises:
            AttributeError: if no wrapper and not the environment has it.
        """
        value = getattr(self._holder(attr_name), attr_name)
        rows = self._rows(indices)
        return [value[row] if attr_name in PER_ROW_ATTRIBUTES else value for row in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute where `get_attr` finds it, for all rows at once.

        Raises:
            AttributeError: if it is nowhere: setting it would change nothing.
            ConfigError: if only some rows are named; they share one environment.
        """
        if set(self._rows(indices)) != set(range(self.num_envs)):
            raise ConfigError(
                f"the rows of a native vector environment share {attr_name!r}; set it without "
                f"indices, got {indices!r}"
            )
        setattr(self._holder(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the outermost wrapper that has it; return one result a row.

        `action_masks` and `render` are called once and give each row its own; any other is
        called for each index.

        Raises:
            AttributeError: if it is nowhere.
            ConfigError: if it is `reset`, `step` or `close`, which act on all rows.
        """
        if method_name in OWN_METHODS:
            raise ConfigError(
                f"{method_name!r} acts on all rows of a native vector environment; call "
                f"SB3VecEnv.{method_name} instead"
            )
        method = getattr(self._holder(method_name), method_name)
        rows = self._rows(indices)
        if method_name not in PER_ROW_METHODS:
            return [method(*method_args, **method_kwargs) for _ in rows]
        results = method(*method_args, **method_kwargs)
        return [None if results is None else results[row] for row in rows]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Say for each row whether a wrapper of this class is around the environment.

        For `Monitor` the answer is `monitor`: Stable-Baselines3 asks in order to know
        whether `info["episode"]` holds the statistics of the episode, and it does.
        """
        wrapped = any(isinstance(layer, wrapper_class) for layer in self._layers())
        if issubclass(wrapper_class, Monitor):
            wrapped = self.monitor
        return [wrapped for _ in self._rows(indices)]

    def _layers(self) -> Iterator[Any]:
        """Yield the wrappers from the outermost in, and the environment."""
        layer: Any = self.venv
        while isinstance(layer, VectorWrapper):
            yield layer
            layer = layer.env
        yield layer

    def _holder(self, name: str) -> Any:
        missing = object()
        for layer in self._layers():
            if getattr(layer, name, missing) is not missing:
                return layer
        raise AttributeError(f"neither {self.venv!r} nor anything in it has the attribute {name!r}")

    def _rows(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))


def _check(venv: Any) -> None:
    """Refuse what is no native text environment, saying what to do instead.

    Raises:
        ConfigError: always, but for a `TextVectorEnv` in vector wrappers or in none.
    """
    native = "make it with gymnasium.make_vec(ID, num_envs=N)"
    if isinstance(venv, VecEnv):
        raise ConfigError(f"{venv!r} is a VecEnv of Stable-Baselines3 already; use it as it is")
    if isinstance(venv, gym.Env):
        raise ConfigError(
            f"SB3VecEnv adapts a vector environment, got the single environment {venv!r}; "
            f"{native}, or give the single one to Stable-Baselines3 itself"
        )
    if not isinstance(venv, VectorEnv):
        raise ConfigError(f"SB3VecEnv adapts a TextVectorEnv, got {venv!r:.80}; {native}")
    inner = venv.unwrapped
    if isinstance(inner, (SyncVectorEnv, AsyncVectorEnv)):
        raise ConfigError(
            f"SB3VecEnv adapts the native TextVectorEnv, got {inner!r}; {native} and without "
            "vectorization_mode, or give its single environments to Stable-Baselines3's DummyVecEnv"
        )
    if not isinstance(inner, TextVectorEnv):
        raise ConfigError(f"SB3VecEnv adapts a TextVectorEnv, got {inner!r:.80}; {native}")
    if not isinstance(venv.single_action_space, gym.spaces.Discrete):
        raise ConfigError(
            "the policies of Stable-Baselines3 act with a token alone, but the action of this "
            f"environment is {venv.single_action_space!r:.120}; leave out policy_logprob=True"
        )
