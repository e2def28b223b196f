"""PPO with one row an action, as RL4LMs and plain Stable-Baselines3 update a language model.

Every token of every completion is an observation of its own: the prompt and the tokens so
far, padded to the full width. An epoch goes forward and backward over every row, so a
completion of T tokens is read T times. This is what the benchmark compares against; it is
given every advantage that leaves that idea intact:

- the rollout and the old values are this project's own (a key-value cache, one pass a
  sequence), where both libraries pass over the rows again;
- logits are made for the last position alone;
- prompts carry no padding, and the precision is the same.
"""

import time

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents import CausalLMPolicy
from agents.advantages import generalized_advantages, whiten
from agents.losses import policy_loss, value_loss
from agents.rollout import Rollout, collect
from textenvs.decoding import autocast, positions
from textenvs.wrappers.reference_kl import find_shaping


class RowPerActionPPO:
    """The clipped objective with a value loss, minibatches drawn from all rows."""

    def __init__(
        self,
        policy: CausalLMPolicy,
        env: VectorEnv,
        *,
        epochs: int,
        batch_rows: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        """Bind a policy to an environment.

        Args:
            policy: Trained in place.
            env: Wrapped in `VectorReferenceKL`.
            epochs: Passes over the rows.
            batch_rows: Rows an optimiser step; 64 is the default of Stable-Baselines3.
            learning_rate: Of Adam.
            seed: Decides prompts, tokens and the order of the rows.
        """
        self.policy, self.env, self.epochs, self.batch_rows = policy, env, epochs, batch_rows
        self.generator = torch.Generator(policy.device).manual_seed(seed)
        self.parameters = policy.trainable_parameters()
        self.optimizer = torch.optim.Adam(self.parameters, learning_rate, eps=1e-5)
        env.reset(seed=seed)

    def step(self) -> dict[str, float]:
        """Make one rollout and one update; return the seconds of each, and the counts."""
        began = time.perf_counter()
        rollout = collect(self.policy, self.env, generator=self.generator)
        collected = time.perf_counter()
        steps = self.update(rollout)
        return {
            "seconds_rollout": collected - began,
            "seconds_update": time.perf_counter() - collected,
            "episodes": float(len(rollout.lengths)),
            "actions": float(rollout.lengths.sum()),
            "optimizer_steps": float(steps),
        }

    def update(self, rollout: Rollout) -> int:
        """Take every optimiser step of a rollout; return how many there were."""
        device = self.policy.device
        ids = torch.from_numpy(rollout.input_ids).to(device)
        mask = torch.from_numpy(rollout.attention_mask).to(device)
        acted = torch.from_numpy(rollout.mask).to(device)
        old_logprobs = torch.from_numpy(rollout.logprobs).to(device)
        old_values, advantages = self._advantages(rollout, ids, mask, acted)
        returns = advantages + old_values
        advantages = whiten(advantages, acted)
        episode, column = acted.nonzero(as_tuple=True)
        steps = 0
        for _ in range(self.epochs):
            order = torch.randperm(len(episode), generator=self.generator, device=device)
            for rows in order.split(self.batch_rows):
                n, t = episode[rows], column[rows]
                logprobs, values = self._evaluate(ids[n], mask[n], rollout.start + t)
                everything = torch.ones_like(logprobs, dtype=torch.bool)
                count = torch.tensor(len(rows), device=device)
                surrogate = policy_loss(
                    logprobs,
                    old_logprobs[n, t],
                    advantages[n, t],
                    everything,
                    clip_range=0.2,
                    count=count,
                )
                error, _ = value_loss(
                    values,
                    old_values[n, t],
                    returns[n, t],
                    everything,
                    clip_range=0.2,
                    count=count,
                )
                self.optimizer.zero_grad()
                (surrogate.loss + 0.1 * error).backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                steps += 1
        return steps

    def _evaluate(self, ids: Tensor, mask: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return log pi of the token in `column` and the value before it, both float32 [R].

        Args:
            ids: int64 [R, P + T]; what lies from `column` on is hidden.
            mask: [R, P + T].
            column: int64 [R].
        """
        policy, rows = self.policy, torch.arange(len(ids), device=ids.device)
        before = mask.bool() & (torch.arange(ids.shape[1], device=ids.device) < column[:, None])
        with autocast(policy.use_bfloat16, ids.device):
            hidden = policy.model.get_decoder()(
                input_ids=ids.masked_fill(~before, 0),
                attention_mask=before.long(),
                position_ids=positions(before),
                use_cache=False,
            ).last_hidden_state[rows, column - 1]
            logits = policy.model.get_output_embeddings()(hidden)
        logits = logits[:, : policy.vocab_size].float() / policy.temperature
        logprobs = logits.gather(-1, ids[rows, column][:, None])[:, 0] - logits.logsumexp(-1)
        return logprobs, policy.value_head(hidden.float())[:, 0]

    @torch.no_grad()
    def _advantages(
        self, rollout: Rollout, ids: Tensor, mask: Tensor, acted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the old values and the advantages, both float32 [N, T]."""
        parts = [
            self.policy.evaluate(ids[rows], mask[rows], rollout.start, with_entropy=False).values
            for rows in torch.arange(len(ids), device=ids.device).split(16)
        ]
        inside = torch.nn.functional.pad(acted, (0, 1))
        values = torch.cat(parts) * inside
        shaping = find_shaping(self.env)
        coef = shaping.coef if shaping else 0.0
        rewards = rollout.credited - coef * rollout.logprobs.astype(np.float64)
        advantages = generalized_advantages(
            torch.from_numpy(rewards).float().to(ids.device),
            values,
            acted & ~inside[:, 1:],
            gamma=1.0,
            gae_lambda=0.95,
        )
        return values[:, :-1], advantages
