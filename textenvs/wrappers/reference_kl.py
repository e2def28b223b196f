"""Reference-KL shaping of the reward, for one environment and for a batch of them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from textenvs.episode_batch import EpisodeBatch, Observation
from textenvs.errors import ActionError, ConfigError, DoubleCountingError, UnknownNameError
from textenvs.kl import ESTIMATORS, Estimator, KLCoefficient, kl_estimate
from textenvs.reference import Reference, as_reference
from textenvs.rendering import render
from textenvs.vector_infos import add_infos

Timing = Literal["episode", "step"]


class KLShaping:
    """The arithmetic both wrappers share, over rows.

    Without `policy_logprob` the term of a token is +beta * log pi_ref(a_t|s_t), the half
    an environment can pay; with it, -beta * KL_t, the whole.
    """

    def __init__(
        self,
        reference: Any,
        coef: float | KLCoefficient,
        *,
        timing: str,
        policy_logprob: bool,
        estimator: str,
        rows: int,
        num_prompt_columns: int,
        vocab_size: int,
    ) -> None:
        """Check the options and bind the reference to the shape of the observations."""
        if timing not in get_args(Timing):
            raise UnknownNameError("KL timing", timing, get_args(Timing))
        if estimator not in ESTIMATORS:
            raise UnknownNameError("KL estimator", estimator, ESTIMATORS)
        if estimator != "k1" and not policy_logprob:
            raise ConfigError(
                f"the estimator {estimator!r} needs the policy's log-probabilities; "
                "pass policy_logprob=True and give them with each action"
            )
        self.reference: Reference = as_reference(reference)
        self.reference.bind(num_prompt_columns, vocab_size)
        self.coefficient = coef if isinstance(coef, KLCoefficient) else KLCoefficient(coef)
        self.timing, self.policy_logprob = cast(Timing, timing), policy_logprob
        self.estimator = cast(Estimator, estimator)
        self.start, self.vocab_size = num_prompt_columns, vocab_size
        self.seconds = 0.0  # spent in the reference, for whoever reports it
        self.is_deferred = False
        self.fresh = np.ones(rows, bool)
        self.given: list[list[Any]] = [[] for _ in range(rows)]
        self.seen: list[list[Any]] = [[] for _ in range(rows)]
        self.paid: list[list[float]] = [[] for _ in range(rows)]

    @property
    def coef(self) -> float:
        """Beta as it stands now."""
        return self.coefficient.value

    def action_space(self, token_space: gym.Space[Any]) -> gym.Space[Any]:
        """Return the space of one action."""
        if not self.policy_logprob:
            return token_space
        box = gym.spaces.Box
        spaces: dict[str, gym.Space[Any]] = {
            "token": token_space,
            "logprob": box(-np.inf, 0.0, (), np.float32),
        }
        if self.estimator == "full":
            spaces["logprobs"] = box(-np.inf, 0.0, (self.vocab_size,), np.float32)
        return gym.spaces.Dict(spaces)

    @property
    def can_defer(self) -> bool:
        """Whether nothing but the finished episodes is needed to charge them."""
        return self.timing == "episode" and not self.policy_logprob

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Charge nothing while the context lasts: whoever steps calls `settle` afterwards.

        Episodes that end one by one cost the reference a pass each, and every time the whole
        prompt; many at once share both. Only where `can_defer` is true.
        """
        assert self.can_defer
        self.is_deferred = True
        try:
            yield
        finally:
            self.is_deferred = False

    def settle(self, observation: Observation) -> list[dict[str, Any]]:
        """Return `info["kl"]` of episodes that ended while charging was deferred.

        Args:
            observation: The last observation of each, [N, P + T].
        """
        told = self._asked(observation)
        return [
            self._info(0, reference, ids)
            for reference, ids in zip(told, observation["input_ids"], strict=True)
        ]

    def begin(self, row: int) -> None:
        """Forget a row's episode."""
        self.fresh[row] = True
        self.given[row], self.seen[row], self.paid[row] = [], [], []

    def split(self, action: Any) -> tuple[Any, np.ndarray | None]:
        """Return the tokens, and what the policy says of them."""
        if not self.policy_logprob:
            return action, None
        needed = "logprobs" if self.estimator == "full" else "logprob"
        if not isinstance(action, Mapping) or not {"token", needed} <= set(action):
            raise ActionError(
                f"with policy_logprob=True an action is a dict with 'token' and {needed!r}, "
                f"got {action!r:.80}"
            )
        return action["token"], np.asarray(action[needed], np.float64)

    def before_step(
        self,
        observation: Observation,
        tokens: np.ndarray,
        given: np.ndarray | None,
        rows: np.ndarray,
    ) -> np.ndarray | None:
        """Note the policy's word and, with timing "step", ask the reference.

        Args:
            observation: Before the action, [B, P + T].
            tokens: int64 [B].
            given: What the policy said, [B] or [B, V].
            rows: int [N], the rows that take a token.

        Returns:
            float64 [B], log pi_ref of the tokens, 0 in rows that take none; None with
            timing "episode".
        """
        if given is not None:
            for row in rows:
                self.given[row].append(given[row].copy())
        if self.timing == "episode":
            return None
        began = time.perf_counter()
        logprobs = self.reference.next_logprobs(
            observation["input_ids"], observation["attention_mask"], self.fresh
        ).astype(np.float64)
        self.seconds += time.perf_counter() - began
        self.fresh[rows] = False
        picked = np.zeros(len(tokens))
        picked[rows] = logprobs[rows, tokens[rows]]
        for row in rows:
            self.seen[row].append(logprobs[row] if self.estimator == "full" else picked[row])
        return picked

    def terms(self, row: int, reference: np.ndarray) -> np.ndarray:
        """Return float64 [T], what each token of a row adds to the reward."""
        if not self.policy_logprob:
            return self.coef * reference
        given = np.array(self.given[row][-len(reference) :])
        return -self.coef * kl_estimate(given, reference, self.estimator)

    def episodes(self, observation: Observation, rows: list[int]) -> dict[int, dict[str, Any]]:
        """Return `info["kl"]` of rows whose last observation this is, [N, P + T]."""
        if self.timing == "step":
            told = [np.array(self.seen[row]) for row in rows]
        else:
            told = self._asked(observation)
        infos = {
            row: self._info(row, reference, observation["input_ids"][i])
            for i, (row, reference) in enumerate(zip(rows, told, strict=True))
        }
        for row, info in infos.items():
            self.paid[row] = list(info["terms"])
        if self.policy_logprob and self.coef:
            # The policy's word was given, so the coefficient can adapt here; without it
            # the agent calls `coefficient.update`.
            kl = [
                -np.sum(self.terms(row, reference)) / self.coef
                for row, reference in zip(rows, told, strict=True)
            ]
            self.coefficient.update(float(np.mean(kl)), len(kl))
        return infos

    def _asked(self, observation: Observation) -> list[np.ndarray]:
        """Return what the reference says of finished episodes, float64 [T_i] or [T_i, V] each."""
        ask = self.reference.completion_logprobs
        if self.estimator == "full":
            ask = self.reference.completion_distributions
        began = time.perf_counter()
        table = ask(observation["input_ids"], observation["attention_mask"])
        self.seconds += time.perf_counter() - began
        lengths = observation["attention_mask"][:, self.start :].sum(1, dtype=np.int64)
        return [table[i, :n].astype(np.float64) for i, n in enumerate(lengths)]

    def _info(self, row: int, reference: np.ndarray, input_ids: np.ndarray) -> dict[str, Any]:
        # Step by step, beta may have moved since a token was paid for.
        terms = self.terms(row, reference)
        if self.timing == "step":
            terms = np.array(self.paid[row])
        if self.estimator == "full":
            tokens = input_ids[self.start : self.start + len(reference)]
            reference = np.take_along_axis(reference, tokens[:, None], 1)[:, 0]
        return {
            "coef": self.coef,
            "reference_logprob": reference.tolist(),
            "terms": terms.tolist(),
        }

    def step_term(self, row: int) -> float:
        """Return what the newest token of a row adds to the reward; note it as paid."""
        term = float(self.terms(row, np.array(self.seen[row][-1:]))[0])
        self.paid[row].append(term)
        return term


def find_shaping(env: Any) -> KLShaping | None:
    """Return the KL shaping applied to an environment, or None."""
    while isinstance(env, (gym.Wrapper, VectorWrapper)):
        if isinstance(env, (ReferenceKL, VectorReferenceKL)):
            return env.shaping
        env = env.env
    return None


def _check_wrappable(env: Any) -> None:
    if not isinstance(getattr(env.unwrapped, "batch", None), EpisodeBatch):
        raise ConfigError(
            f"{env.unwrapped!r} is no text environment; wrap a TextEnv in ReferenceKL, a "
            "TextVectorEnv in VectorReferenceKL"
        )
    if find_shaping(env) is not None:
        raise DoubleCountingError(
            "this environment already charges a reference KL; wrap it once, or leave out "
            "reference= and kl_coef= where it is made"
        )


class ReferenceKL(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Add the reference-KL term to the reward of a text environment.

    With plain token actions it adds beta * log pi_ref(a_t|s_t); an agent adds
    -beta * log pi(a_t|s_t) itself (the entropy half). With `policy_logprob=True` the
    action is `{"token", "logprob"}` and the whole term is applied.

    With timing "step" each step is charged as it is taken and
    `info["reference_logprob"]` says log pi_ref of its token; with "episode" the sum is
    paid with the last reward. In both `info["kl"]` at the end holds `coef`,
    `reference_logprob` [T] and `terms` [T], what each token added.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        reference: Any,
        coef: float | KLCoefficient,
        *,
        timing: str = "episode",
        policy_logprob: bool = False,
        estimator: str = "k1",
    ) -> None:
        """Wrap an environment.

        Args:
            env: A `TextEnv`, possibly wrapped.
            reference: Model name, folder, model, or `Reference`.
            coef: Beta, or a `KLCoefficient` that adapts.
            timing: "episode" or "step".
            policy_logprob: Whether actions carry the policy's log-probability.
            estimator: "k1", "k2", "k3" or "full"; all but k1 need `policy_logprob`.

        Raises:
            DoubleCountingError: if the environment charges a KL already.
            UnknownNameError: if the timing or the estimator is unknown.
        """
        gym.utils.RecordConstructorArgs.__init__(
            self,
            reference=reference,
            coef=coef,
            timing=timing,
            policy_logprob=policy_logprob,
            estimator=estimator,
        )
        _check_wrappable(env)
        gym.Wrapper.__init__(self, env)
        self.shaping = KLShaping(
            reference,
            coef,
            timing=timing,
            policy_logprob=policy_logprob,
            estimator=estimator,
            rows=1,
            num_prompt_columns=cast(Any, env.unwrapped).batch.num_prompt_columns,
            vocab_size=cast(Any, env.unwrapped).tokenizer.vocab_size,
        )
        self.action_space = self.shaping.action_space(env.action_space)
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.shaping.begin(0)
        self._observation = _batched(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append one token and charge the KL term."""
        token, given = self.shaping.split(action)
        before = self._observation
        observation, base, terminated, truncated, info = self.env.step(token)
        reward = float(base)
        given = None if given is None else given[None]
        tokens = np.array([int(token)])
        picked = self.shaping.before_step(before, tokens, given, np.array([0]))
        self._observation = _batched(observation)
        if picked is not None:
            info = {**info, "reference_logprob": float(picked[0])}
            reward += self.shaping.step_term(0)
        if terminated or truncated:
            kl = self.shaping.episodes(self._observation, [0])[0]
            info = {**info, "kl": kl}
            if picked is None:
                reward += float(np.sum(kl["terms"]))
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Render the episode with the KL terms charged so far."""
        view = cast(Any, self.unwrapped).batch.view(0, self.shaping.paid[0])
        return render(view, self.render_mode)


class VectorReferenceKL(VectorWrapper):
    """`ReferenceKL` for a `TextVectorEnv`; rewards and infos as there, batched."""

    def __init__(
        self,
        env: VectorEnv,
        reference: Any,
        coef: float | KLCoefficient,
        *,
        timing: str = "episode",
        policy_logprob: bool = False,
        estimator: str = "k1",
    ) -> None:
        """Wrap a vector environment; arguments as in `ReferenceKL`."""
        _check_wrappable(env)
        super().__init__(env)
        self.shaping = KLShaping(
            reference,
            coef,
            timing=timing,
            policy_logprob=policy_logprob,
            estimator=estimator,
            rows=env.num_envs,
            num_prompt_columns=cast(Any, env.unwrapped).batch.num_prompt_columns,
            vocab_size=cast(Any, env.unwrapped).tokenizer.vocab_size,
        )
        self.single_action_space = self.shaping.action_space(env.single_action_space)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._mode = env.metadata["autoreset_mode"]
        self._over = np.zeros(env.num_envs, bool)
        self._observation: Observation = {}

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every row, or in those of the mask."""
        mask = (options or {}).get("reset_mask")
        rows = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask, bool)
        observation, info = self.env.reset(seed=seed, options=options)
        for row in np.flatnonzero(rows).tolist():
            self.shaping.begin(row)
            self._over[row] = False
        self._observation = observation
        return _copied(observation), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Append one token to each row and charge the KL terms."""
        tokens, given = self.shaping.split(actions)
        before = self._observation
        observation, base, terminated, truncated, info = self.env.step(tokens)
        rewards, info = np.asarray(base, np.float64).copy(), dict(info)
        rows = np.flatnonzero(~self._over)
        picked = self.shaping.before_step(before, np.asarray(tokens), given, rows)
        if picked is not None:
            taken = np.zeros(self.num_envs, bool)
            taken[rows] = True
            info["reference_logprob"], info["_reference_logprob"] = picked, taken
            for row in rows.tolist():
                rewards[row] += self.shaping.step_term(row)
        for row in np.flatnonzero(self._over).tolist():
            self.shaping.begin(row)
        ended = terminated | truncated
        if ended.any() and not self.shaping.is_deferred:
            self._charge(observation, rewards, ended, info, whole=picked is None)
        self._over = ended if self._mode is not AutoresetMode.SAME_STEP else np.zeros_like(ended)
        self._observation = observation
        return _copied(observation), rewards, terminated, truncated, info

    def _charge(
        self,
        observation: Observation,
        rewards: np.ndarray,
        ended: np.ndarray,
        info: dict[str, Any],
        *,
        whole: bool,
    ) -> None:
        """Add `info["kl"]` of the rows that ended and, if `whole`, pay their sum."""
        rows = np.flatnonzero(ended).tolist()
        same_step = self._mode is AutoresetMode.SAME_STEP
        keys = ("input_ids", "attention_mask")
        if same_step:
            last = info["final_obs"]
            finals = {key: np.stack([last[row][key] for row in rows]) for key in keys}
        else:
            finals = {key: observation[key][rows] for key in keys}
        target = info["final_info"] if same_step else info
        charged = self.shaping.episodes(finals, rows)
        add_infos(target, rows, [{"kl": charged[row]} for row in rows], self.num_envs)
        for row, kl in charged.items():
            if whole:
                rewards[row] += float(np.sum(kl["terms"]))
            if same_step:
                self.shaping.begin(row)

    def render(self) -> tuple[Any, ...] | None:
        """Render each row with the KL terms charged so far."""
        return cast(Any, self.unwrapped).render_with(self.shaping.paid)


def _batched(observation: Observation) -> Observation:
    return {key: value[None].copy() for key, value in observation.items()}


def _copied(observation: Observation) -> Observation:
    """Return copies: the wrapper keeps what it was given to ask the reference later."""
    return {key: value.copy() for key, value in observation.items()}
