"""Proximal policy optimisation of a causal language model, one row a sequence."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.advantages import generalized_advantages, masked_mean, whiten
from agents.checkpoint import load_training_state, policy_from_checkpoint, save_training_state
from agents.config import PPOConfig
from agents.losses import policy_loss, value_loss
from agents.policy import CausalLMPolicy
from agents.rollout import Rollout, collect, failure_counts, term_metrics
from textenvs.decoding import DecodeState
from textenvs.errors import ConfigError
from textenvs.reference import CausalLMReference
from textenvs.wrappers.reference_kl import KLShaping, find_shaping

Callback = Callable[[Mapping[str, float]], bool | None]
Recorder = Callable[[Rollout, "Batch"], None]


class Batch(NamedTuple):
    """A rollout as the update sees it; N episodes, T tokens.

    Attributes:
        input_ids: int64 [N, P + T].
        attention_mask: int8 [N, P + T].
        mask: bool [N, T], tokens to learn from.
        logprobs: float32 [N, T], before the update, by the pass that trains.
        values: float32 [N, T], before the update.
        advantages: float32 [N, T].
        returns: float32 [N, T].
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> "Batch":
        """Return some of the episodes."""
        return Batch(*(tensor[index] for tensor in self))


class PPO:
    """PPO over a text vector environment; see `PPOConfig` for every choice.

    `learn` alternates rollouts of whole episodes with updates. If the environment pays
    the reference's half of the KL (`make_vec(..., reference=..., kl_coef=...)`), the
    entropy half, -beta * log pi, is added here, and an adaptive coefficient is updated.
    A `recorder` that is set sees each rollout, with its values, before the update.
    """

    def __init__(
        self,
        policy: CausalLMPolicy,
        env: VectorEnv,
        config: PPOConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Bind a policy to an environment.

        Args:
            policy: Trained in place.
            env: A `TextVectorEnv`, possibly wrapped.
            config: Settings.
            seed: Decides the prompts, the sampled tokens and the order of the batches.

        Raises:
            ConfigError: if `rollout_episodes` is no multiple of the rows, or the
                environment truncates answers.
            ModelError: if the policy knows fewer tokens than the environment.
        """
        self.policy, self.env, self.config, self.seed = policy, env, config or PPOConfig(), seed
        episodes = self.config.rollout_episodes or env.num_envs
        if episodes % env.num_envs:
            raise ConfigError(
                f"rollout_episodes must be a multiple of the environment's {env.num_envs} rows, "
                f"got {episodes}"
            )
        self.waves = episodes // env.num_envs
        task: Any = env.unwrapped
        if task.max_episode_steps is not None:
            raise ConfigError(
                "PPO learns from whole answers, but this environment truncates them unscored "
                f"after max_episode_steps={task.max_episode_steps} tokens; set max_new_tokens "
                "instead, which is part of the task"
            )
        policy.check_vocabulary(task.tokenizer.vocab_size)
        self.shaping: KLShaping | None = find_shaping(env)
        _check_temperature(policy, self.shaping)
        self.parameters = policy.trainable_parameters()
        self.optimizer = torch.optim.Adam(
            self.parameters, self.config.learning_rate, eps=self.config.adam_epsilon
        )
        self.generator = torch.Generator(policy.device).manual_seed(seed)
        self.num_timesteps = self.num_updates = 0
        self.recorder: Recorder | None = None
        self.env.reset(seed=seed)

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | None = None,
        *,
        reset_num_timesteps: bool = True,
    ) -> "PPO":
        """Train for a number of tokens.

        Args:
            total_timesteps: Tokens to act, at least 1; the last rollout may overshoot.
            callback: Called after each update with its metrics; returning False stops.
            reset_num_timesteps: Count from 0. With False, `total_timesteps` is the goal of
                the whole training, so that a loaded agent goes on exactly where it was.

        Raises:
            ConfigError: if there is nothing to do.
        """
        if total_timesteps < 1:
            raise ConfigError(f"total_timesteps must be at least 1, got {total_timesteps}")
        if reset_num_timesteps:
            self.num_timesteps = 0
        while self.num_timesteps < total_timesteps:
            if self.config.anneal:
                left = 1.0 - self.num_timesteps / total_timesteps
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * left
            metrics = self.step()
            if callback is not None and callback(metrics) is False:
                break
        return self

    def step(self) -> dict[str, float]:
        """Make one rollout and one update; return the metrics (see docs/metrics.md)."""
        began = time.perf_counter()
        reference_before = self.shaping.seconds if self.shaping else 0.0
        rollout = collect(self.policy, self.env, generator=self.generator, waves=self.waves)
        collected = time.perf_counter()
        reference = (self.shaping.seconds if self.shaping else 0.0) - reference_before
        batch, metrics = self.prepare(rollout)
        if self.recorder is not None:
            self.recorder(rollout, batch)
        metrics |= self.update(batch)
        self.num_timesteps += int(rollout.lengths.sum())
        self.num_updates += 1
        metrics |= {
            "update": float(self.num_updates),
            "timesteps": float(self.num_timesteps),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds_rollout": collected - began - reference,
            "seconds_reference": reference,
            "seconds_update": time.perf_counter() - collected,
        }
        return metrics

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Turn a rollout into advantages and returns; adapt the KL coefficient."""
        device = self.policy.device
        ids = torch.from_numpy(rollout.input_ids).to(device)
        attention = torch.from_numpy(rollout.attention_mask).to(device)
        parts = [
            self.policy.evaluate(ids[rows], attention[rows], rollout.start, with_entropy=False)
            for rows in self._micro_batches(torch.arange(len(ids), device=device))
        ]
        logprobs = torch.cat([part.logprobs for part in parts])
        entropy = torch.cat([part.entropy for part in parts])
        values = torch.cat([part.values for part in parts])
        acted = torch.from_numpy(rollout.mask).to(device)
        terminated = acted & ~torch.nn.functional.pad(acted, (0, 1))[:, 1:]
        rewards, sequence_kl = self._rewards(rollout, logprobs.cpu().numpy())
        scored = torch.tensor([info["scored"] for info in rollout.infos], device=device)
        mask = acted & scored[:, None]
        inside = torch.nn.functional.pad(acted, (0, 1))
        advantages = generalized_advantages(
            torch.from_numpy(rewards).float().to(device),
            values * inside,
            terminated,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        )
        old_values = (values * inside)[:, :-1]
        returns = advantages + old_values
        variance = whiten_variance(returns, mask)
        residual = whiten_variance(returns - old_values, mask)
        metrics = self._rollout_metrics(rollout, rewards, sequence_kl)
        metrics["entropy"] = masked_mean(entropy, mask).item()
        metrics["explained_variance"] = float("nan") if variance == 0 else 1.0 - residual / variance
        if self.config.normalize_advantage:
            advantages = whiten(advantages, mask)
        batch = Batch(ids, attention, mask, logprobs, old_values, advantages, returns)
        return batch, metrics

    def _rewards(
        self, rollout: Rollout, logprobs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the reward of each token, float64 [N, T], and the KL of each sequence, [N].

        A task's reward that spreads over the tokens is paid where it was earned. So is the
        sum of KL terms that the environment paid with the last token; the policy's half of
        the term is added where the environment could not know it.
        """
        rewards = rollout.credited
        last = rollout.lengths - 1
        for row, info in enumerate(rollout.infos):
            if info["finish_reason"] == "length":
                rewards[row, last[row]] -= self.config.missing_eos_penalty
            if self.config.reward_clip is not None and info["scored"]:
                score = sum(info["reward_terms"].values())
                bound = self.config.reward_clip
                rewards[row, last[row]] += float(np.clip(score, -bound, bound)) - score
        if self.shaping is None:
            return rewards, None
        sequence_kl = np.zeros(len(rewards))
        for row, info in enumerate(rollout.infos):
            kl, length = info["kl"], last[row] + 1
            if self.shaping.timing == "episode":
                rewards[row, :length] += kl["terms"]
                rewards[row, last[row]] -= sum(kl["terms"])
            difference = logprobs[row, :length] - np.array(kl["reference_logprob"])
            sequence_kl[row] = difference.sum()
            if not self.shaping.policy_logprob:
                rewards[row, :length] -= kl["coef"] * logprobs[row, :length]
        if not self.shaping.policy_logprob:
            self.shaping.coefficient.update(float(sequence_kl.mean()), len(sequence_kl))
        return rewards, sequence_kl

    def _rollout_metrics(
        self, rollout: Rollout, rewards: np.ndarray, sequence_kl: np.ndarray | None
    ) -> dict[str, float]:
        infos = [info for info in rollout.infos if info["scored"]]
        metrics = {
            "episodes": float(len(rollout.infos)),
            "unscored": float(len(rollout.infos) - len(infos)),
            "episode_return": float(rewards.sum(1).mean()),
            "length": float(rollout.lengths.mean()),
            "finished_by_eos": float(
                np.mean([info["finish_reason"] == "eos" for info in rollout.infos])
            ),
            **failure_counts(rollout.infos),
        }
        if infos:
            totals = [sum(info["reward_terms"].values()) for info in infos]
            metrics["score"] = float(np.mean(totals))
            metrics |= term_metrics(infos)
            for name in infos[0]["metrics"]:
                metrics[f"gold/{name}"] = float(np.mean([info["metrics"][name] for info in infos]))
        if sequence_kl is not None and self.shaping is not None:
            metrics["kl"] = float(sequence_kl.mean())
            metrics["kl_coef"] = self.shaping.coef
        return metrics

    def update(self, batch: Batch) -> dict[str, float]:
        """Take the optimiser steps of one rollout; return their mean diagnostics."""
        config = self.config
        keep = batch.mask.any(1).nonzero()[:, 0]
        history: list[dict[str, float]] = []
        if not len(keep):  # no episode of the rollout was scored
            return _means(history)
        for _ in range(config.n_epochs):
            order = keep[self._permutation(len(keep))]
            for rows in order.split(config.batch_size):
                history.append(self._optimizer_step(batch, rows))
                limit = config.target_kl
                if limit is not None and history[-1]["approx_kl"] > 1.5 * limit:
                    return _means(history)
        return _means(history)

    def _optimizer_step(self, batch: Batch, rows: Tensor) -> dict[str, float]:
        count = batch.mask[rows].sum()
        self.optimizer.zero_grad()
        totals: dict[str, float] = {}
        for part in self._micro_batches(rows):
            loss, diagnostics = self._loss(batch.rows(part), count)
            loss.backward()
            for name, value in diagnostics.items():
                totals[name] = totals.get(name, 0.0) + value.item()
        if self.num_updates < self.config.critic_warmup:
            critic = {id(p) for p in self.policy.trainable_parameters(critic_only=True)}
            for parameter in self.parameters:
                if id(parameter) not in critic:
                    parameter.grad = None
        bound = self.config.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, bound)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of update {self.num_updates + 1} is {norm.item()}; the weights are "
                "as before this step. Lower learning_rate, or compute with bfloat16=False"
            )
        self.optimizer.step()
        return {**totals, "grad_norm": norm.item()}

    def _loss(self, part: Batch, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        start = part.input_ids.shape[1] - part.mask.shape[1]
        now = self.policy.evaluate(
            part.input_ids, part.attention_mask, start, with_entropy=config.ent_coef > 0
        )
        policy = policy_loss(
            now.logprobs,
            part.logprobs,
            part.advantages,
            part.mask,
            clip_range=config.clip_range,
            count=count,
            dual_clip=config.dual_clip,
        )
        value, value_clipped = value_loss(
            now.values[:, :-1],
            part.values,
            part.returns,
            part.mask,
            clip_range=config.clip_range_vf,
            count=count,
        )
        entropy = (now.entropy * part.mask).sum() / count
        loss = policy.loss + config.vf_coef * value - config.ent_coef * entropy
        return loss, {
            "policy_loss": policy.loss.detach(),
            "value_loss": value.detach(),
            "approx_kl": policy.approx_kl,
            "clip_fraction": policy.clip_fraction,
            "value_clip_fraction": value_clipped,
            "ratio": policy.ratio,
        }

    def _micro_batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self.config.micro_batch_size)

    def _permutation(self, n: int) -> Tensor:
        device = self.policy.device
        return torch.randperm(n, generator=self.generator, device=device)

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: DecodeState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, DecodeState]:
        """Choose actions; see `CausalLMPolicy.predict`."""
        return self.policy.predict(
            observation, state, episode_start, deterministic, generator=self.generator
        )

    def save(self, path: str | Path) -> Path:
        """Write a plain Hugging Face folder with the state of the training beside it."""
        return save_training_state(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, env: VectorEnv) -> "PPO":
        """Go on from what `save` wrote, exactly.

        Raises:
            CheckpointError: if the folder is no saved agent, or of other shapes.
        """
        policy, config, seed = policy_from_checkpoint(Path(path))
        agent = cls(policy, env, config, seed=seed)
        load_training_state(agent, Path(path))
        return agent


def whiten_variance(values: Tensor, mask: Tensor) -> float:
    """Return the variance over the true entries of `mask`."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask).item()


def _check_temperature(policy: CausalLMPolicy, shaping: KLShaping | None) -> None:
    """Refuse a reference at another temperature: their KL would not be 0 at the start."""
    reference = shaping.reference if shaping else None
    if isinstance(reference, CausalLMReference) and reference.temperature != policy.temperature:
        raise ConfigError(
            f"the policy samples at temperature {policy.temperature}, the reference is asked at "
            f"{reference.temperature}; pass reference=policy.reference(), or "
            f"CausalLMReference(model, temperature={policy.temperature})"
        )


def _means(history: list[dict[str, float]]) -> dict[str, float]:
    means = (
        {name: float(np.mean([h[name] for h in history])) for name in history[0]} if history else {}
    )
    return {**means, "optimizer_steps": float(len(history))}
