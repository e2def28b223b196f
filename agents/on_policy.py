"""What every on-policy learner shares: rollout, rewards, optimiser steps, saving.

A learner subclasses `OnPolicyAgent` and says two things: what a batch's advantages are
(`targets`) and what is minimised (`loss`). The rest is here.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.advantages import whiten
from agents.agent_checks import check_agent
from agents.batch import Batch, BatchSize
from agents.checkpoint import load_training_state, policy_from_checkpoint, save_training_state
from agents.config import OnPolicyConfig
from agents.decode_batch import PolicyMask
from agents.full_kl import full_kl
from agents.losses import kl_loss
from agents.modeling.averaging import AveragedWeights
from agents.policy import CausalLMPolicy, Evaluation
from agents.pretraining_mix import PretrainingMix
from agents.rollout import Rollout, collect
from agents.seeded_player import SeededPlayer
from agents.token_rewards import TokenRewards, token_rewards
from agents.update_metrics import batch_metrics, means, rollout_metrics
from textenvs.errors import ConfigError
from textenvs.teacher_forcing.micro_batches import micro_batches
from textenvs.wrappers.reference_kl import KLShaping, find_shaping

Callback = Callable[[Mapping[str, float]], bool | None]
Recorder = Callable[[Rollout, Batch], None]


class OnPolicyAgent(SeededPlayer, ABC):
    """A causal language model that learns from its own rollouts.

    `learn` alternates rollouts of whole episodes with updates. If the environment pays
    the reference's half of the KL (`make_vec(..., reference=..., kl_coef=...)`), the whole
    term is charged here, where the settings say, and an adaptive coefficient is updated.
    A `recorder` that is set sees each rollout, with its values, before the update.

    Attributes:
        config_class: Settings of the learner.
        needs_critic: Whether the value head is asked and trained.
        needs_groups: Whether several samples of each prompt are compared.
    """

    config_class: ClassVar[type[OnPolicyConfig]] = OnPolicyConfig
    needs_critic: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = False

    def __init__(
        self,
        policy: CausalLMPolicy,
        env: VectorEnv,
        config: Any = None,
        *,
        seed: int = 0,
        pretraining: PretrainingMix | None = None,
    ) -> None:
        """Bind a policy to an environment.

        Args:
            policy: Trained in place.
            env: A `TextVectorEnv`, possibly wrapped.
            config: Settings, of `config_class`.
            seed: Decides the prompts, the sampled tokens and the order of the batches.
            pretraining: Text mixed into the updates with `ptx_coef`.

        Raises:
            ConfigError: if the settings and the environment do not go together.
            DoubleCountingError: if the KL would be charged twice.
            ModelError: if the policy knows fewer tokens than the environment.
        """
        super().__init__(policy, seed)
        self.env, self.seed = env, seed
        self.config = self.config_class() if config is None else config
        self.pretraining, self.recorder = pretraining, None
        self.shaping: KLShaping | None = find_shaping(env)
        self.check()
        self.episodes = self.config.rollout_episodes or env.num_envs
        task: Any = env.unwrapped
        policy.check_vocabulary(task.tokenizer.vocab_size)
        self.optimizer = torch.optim.Adam(
            self.parameter_groups(), self.config.learning_rate, eps=self.config.adam_epsilon
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        decay = self.config.ema_decay
        self.average = None if decay is None else AveragedWeights(self.parameters, decay)
        self.num_timesteps = self.num_updates = 0
        self.env.reset(seed=seed)

    recorder: Recorder | None

    # What a learner says.

    @abstractmethod
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the advantages and the returns of a batch, float32 [N, T] both."""

    @abstractmethod
    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is minimised, and diagnostics that add up over micro-batches.

        Args:
            part: A micro-batch, whole groups.
            now: What the policy says of it, with gradient.
            size: Of the whole optimiser step; sums are divided by it.
        """

    def divisor(self, part: Batch, size: BatchSize) -> Tensor:
        """Return what sums over tokens are divided by: a scalar, or [B, 1] for each episode.

        The entropy bonus and a KL in the loss are divided alike, so that their coefficients
        mean the same beside every loss.
        """
        return size.tokens

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights to train, in Adam's groups."""
        critic = {id(p) for p in self.policy.trainable_parameters(critic_only=True)}
        every = self.policy.trainable_parameters()
        return [{"params": [p for p in every if self.needs_critic or id(p) not in critic]}]

    def token_mask(self) -> PolicyMask | None:
        """Return a mask on the tokens that may be sampled, or None."""
        return None

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what else is saved: tensors, and what JSON can hold."""
        return {}, {}

    def load_extra_state(  # noqa: B027  # nothing to take up is a fine answer
        self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> None:
        """Take up what `extra_state` gave."""

    # What they share.

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | None = None,
        *,
        reset_num_timesteps: bool = True,
    ) -> Self:
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
                for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                    group["lr"] = rate * left
            metrics = self.step()
            if callback is not None and callback(metrics) is False:
                break
        return self

    def step(self) -> dict[str, float]:
        """Make one rollout and one update; return the metrics (see docs/metrics.md)."""
        began = time.perf_counter()
        reference_before = self.shaping.seconds if self.shaping else 0.0
        rollout = collect(
            self.policy,
            self.env,
            generator=self.generator,
            episodes=self.episodes,
            token_mask=self.token_mask(),
        )
        collected = time.perf_counter()
        reference = (self.shaping.seconds if self.shaping else 0.0) - reference_before
        batch, metrics = self.prepare(rollout)
        if self.recorder is not None:
            self.recorder(rollout, batch)
        metrics |= self.update(batch)
        self.num_timesteps += int(rollout.lengths.sum())
        self.num_updates += 1
        seconds = time.perf_counter() - began
        metrics |= {
            "update": float(self.num_updates),
            "timesteps": float(self.num_timesteps),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds_rollout": collected - began - reference,
            "seconds_reference": reference,
            "seconds_update": seconds - (collected - began),
            "episodes_per_second": len(rollout.infos) / seconds,
            "tokens_per_second": float(rollout.lengths.sum()) / seconds,
        }
        return metrics

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Turn a rollout into a batch with its targets; adapt the KL coefficient.

        Log-probabilities are computed anew by the pass that trains: sampling may round
        otherwise, and a ratio must begin at 1.
        """
        device = self.policy.device
        acted = torch.from_numpy(rollout.mask).to(device)
        scored = torch.tensor([info["scored"] for info in rollout.infos], device=device)
        empty = torch.zeros(acted.shape, device=device)
        allowed = rollout.allowed
        batch = Batch(
            input_ids=torch.from_numpy(rollout.input_ids).to(device),
            attention_mask=torch.from_numpy(rollout.attention_mask).to(device),
            mask=acted & scored[:, None],
            groups=torch.from_numpy(rollout.groups).to(device),
            scores=empty[:, 0],
            rewards=empty,
            logprobs=empty,
            values=empty,
            advantages=empty,
            returns=empty,
            allowed=None if allowed is None else torch.from_numpy(allowed).to(device),
        )
        before = self._evaluate_all(batch)
        earned = self._token_rewards(rollout, batch, before.logprobs)
        references = earned.reference_logprobs
        rewards = _tensor(earned.rewards, device)
        if self.config.whiten_rewards:
            rewards = whiten(rewards, batch.mask, shift_mean=False)
        batch = batch._replace(
            scores=_tensor(earned.scores, device),
            rewards=rewards,
            logprobs=before.logprobs,
            values=before.values[:, :-1] * acted,
            reference_logprobs=None if references is None else _tensor(references, device),
        )
        advantages, returns = self.targets(batch)
        batch = batch._replace(advantages=advantages, returns=returns)
        metrics = rollout_metrics(rollout, earned, self.shaping)
        metrics |= batch_metrics(batch, before.entropy, with_critic=self.needs_critic)
        return batch, metrics

    def _evaluate_all(self, batch: Batch) -> Evaluation:
        """Return what the policy says of every episode, micro-batch by micro-batch."""
        n, columns = batch.mask.shape
        device = self.policy.device
        logprobs = torch.zeros(n, columns, device=device)
        entropy, values = torch.zeros_like(logprobs), torch.zeros(n, columns + 1, device=device)
        for rows in self._micro_batches(batch, torch.arange(n, device=device)):
            said = self._evaluate(batch.rows(rows), with_entropy=False)
            logprobs[rows], entropy[rows], values[rows] = said
        return Evaluation(logprobs, entropy, values)

    def _evaluate(self, part: Batch, *, with_entropy: bool) -> Evaluation:
        return self.policy.evaluate(
            part.input_ids,
            part.attention_mask,
            part.start,
            with_values=self.needs_critic,
            with_entropy=with_entropy,
            allowed=part.allowed,
        )

    def _token_rewards(self, rollout: Rollout, batch: Batch, logprobs: Tensor) -> TokenRewards:
        exact = None
        config, shaping = self.config, self.shaping
        if shaping is not None and config.kl_in == "reward" and config.kl_estimator == "full":
            exact = np.zeros(batch.mask.shape)
            for rows in self._micro_batches(batch, torch.arange(len(exact))):
                exact[rows.cpu().numpy()] = self._full_kl(batch.rows(rows)).cpu().numpy()
        earned = token_rewards(rollout, logprobs.cpu().numpy(), shaping, config, exact)
        if shaping is not None and not shaping.policy_logprob and earned.sequence_kl is not None:
            mean = float(earned.sequence_kl.mean())
            shaping.coefficient.update(mean, len(earned.sequence_kl))
        return earned

    def _full_kl(self, part: Batch) -> Tensor:
        shaping = self.shaping
        assert shaping is not None
        return full_kl(
            self.policy,
            shaping.reference,
            part.input_ids,
            part.attention_mask,
            part.start,
            part.allowed,
        )

    def update(self, batch: Batch) -> dict[str, float]:
        """Take the optimiser steps of one rollout; return their mean diagnostics."""
        config = self.config
        keep = batch.mask.any(1).nonzero()[:, 0]
        history: list[dict[str, float]] = []
        if not len(keep):  # no episode of the rollout was scored
            return means(history)
        for _ in range(config.n_epochs):
            for rows in self._minibatches(batch.groups[keep], keep):
                history.append(self._optimizer_step(batch, rows))
                limit = config.target_kl
                if limit is not None and history[-1]["approx_kl"] > 1.5 * limit:
                    return means(history)
        return means(history)

    def _minibatches(self, groups: Tensor, rows: Tensor) -> list[Tensor]:
        """Return the rows in random order, cut into batches of whole groups."""
        counts = torch.unique_consecutive(groups, return_counts=True)[1]
        members = rows.split(counts.tolist())
        device = self.policy.device
        order = torch.randperm(len(members), generator=self.generator, device=device)
        batches: list[Tensor] = []
        filling: list[Tensor] = []
        filled = 0
        for index in order.tolist():
            filling.append(members[index])
            filled += len(members[index])
            if filled >= self.config.batch_size:
                batches.append(torch.cat(filling))
                filling, filled = [], 0
        return [*batches, torch.cat(filling)] if filling else batches

    def _optimizer_step(self, batch: Batch, rows: Tensor) -> dict[str, float]:
        config = self.config
        size = BatchSize(batch.mask[rows].sum(), len(rows))
        self.optimizer.zero_grad()
        totals: dict[str, float] = {}
        for part in self._micro_batches(batch, rows):
            loss, diagnostics = self._whole_loss(batch.rows(part), size)
            loss.backward()
            for name, value in diagnostics.items():
                totals[name] = totals.get(name, 0.0) + value.item()
        if config.ptx_coef and self.pretraining is not None:
            ptx = self.pretraining.loss(self.policy, config.ptx_batch_size)
            (config.ptx_coef * ptx).backward()
            totals["ptx_loss"] = ptx.item()
        if "ratio_square" in totals:
            totals["ratio_variance"] = totals.pop("ratio_square") - totals["ratio"] ** 2
        self.before_step()
        bound = config.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, bound)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of update {self.num_updates + 1} is {norm.item()}; the weights are "
                "as before this step. Lower learning_rate, or compute with bfloat16=False"
            )
        skipped = config.max_ratio is not None and totals["ratio"] > config.max_ratio
        if not skipped:
            self.optimizer.step()
            if self.average is not None:
                self.average.update()
        return {**totals, "grad_norm": norm.item(), "skipped": float(skipped)}

    def before_step(self) -> None:  # noqa: B027  # most learners change nothing
        """Change the gradients before they are clipped; here nothing."""

    def _whole_loss(self, part: Batch, size: BatchSize) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the learner's loss, the entropy bonus and the KL where it is in the loss."""
        config = self.config
        now = self._evaluate(part, with_entropy=config.ent_coef > 0)
        loss, diagnostics = self.loss(part, now, size)
        diagnostics["entropy_update"] = (now.entropy.detach() * part.mask).sum() / size.tokens
        count = self.divisor(part, size)
        if config.ent_coef:
            loss = loss - config.ent_coef * (now.entropy * part.mask / count).sum()
        if config.kl_in == "loss" and self.shaping is not None:
            assert part.reference_logprobs is not None
            if config.kl_estimator == "full":
                kl = (self._full_kl(part) * part.mask / count).sum()
            else:
                kl = kl_loss(
                    now.logprobs,
                    part.reference_logprobs,
                    part.mask,
                    estimator=config.kl_estimator,
                    count=count,
                )
            loss = loss + self.shaping.coef * kl
            diagnostics["kl_loss"] = kl.detach()
        return loss, diagnostics

    def _micro_batches(self, batch: Batch, rows: Tensor) -> list[Tensor]:
        return micro_batches(
            batch.attention_mask, batch.start, rows, batch.groups, self.config.micro_batch_tokens
        )

    def save(self, path: str | Path) -> Path:
        """Write a plain Hugging Face folder with the state of the training beside it."""
        return save_training_state(self, Path(path))

    @classmethod
    def load(
        cls, path: str | Path, env: VectorEnv, *, pretraining: PretrainingMix | None = None
    ) -> Self:
        """Go on from what `save` wrote, exactly.

        Args:
            path: The folder.
            env: An environment as the agent was trained on.
            pretraining: Made as it was for the saved agent, if it had one.

        Raises:
            CheckpointError: if the folder is no saved agent of this class, or of other shapes.
        """
        policy, config, seed = policy_from_checkpoint(Path(path), cls)
        agent = cls(policy, env, config, seed=seed, pretraining=pretraining)
        load_training_state(agent, Path(path))
        return agent

    def check(self) -> None:
        """Refuse an environment or settings that this learner cannot work with.

        Raises:
            ConfigError: if they do not go together.
            DoubleCountingError: if the KL would be charged twice.
        """
        check_agent(self)


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
