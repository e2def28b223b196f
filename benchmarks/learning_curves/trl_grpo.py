"""TRL's own GRPOTrainer, unmodified, on the task of the learning curves.

It starts from a saved model, as the agents it is compared with do, and gets prompts and
rewards through `textenvs.bridges.trl`. Needs TRL: `pip install "trl>=1.16"`.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from curve import ENV_ID, N_PROMPTS, TASK
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import agents
from textenvs.bridges.trl import prompt_dataset, reward_function
from textenvs.models import load_causal_lm


@dataclass(frozen=True)
class TRLSettings:
    """What is chosen; everything else is TRL's default.

    Attributes:
        updates: Batches sampled; each is learned from `num_iterations` times.
        batch_episodes: Completions a batch, all in one optimiser step.
        num_generations: Completions a prompt.
        num_iterations: Optimiser steps a batch.
        learning_rate: Of AdamW.
        anneal: Whether it falls linearly to 0, as is TRL's default; off in the other learners.
        beta: Coefficient of the KL to the model training began with.
        evaluate_every: Batches between evaluations.
        n_prompts: Held-out prompts an evaluation asks, greedily.
    """

    updates: int = 40
    batch_episodes: int = 64
    num_generations: int = 8
    num_iterations: int = 1
    learning_rate: float = 1.5e-4
    anneal: bool = False
    beta: float = 0.0
    evaluate_every: int = 10
    n_prompts: int = N_PROMPTS


class CurveCallback(TrainerCallback):
    """Counts the tokens of each batch, and evaluates every so often with the clock stopped.

    Attributes:
        points: `episodes`, `tokens` (generated), processor `seconds` (of training) and the
            metrics of `agents.evaluate`, each (mean, low, high).
        tokens: Generated so far.
        paused: Seconds spent evaluating.
    """

    def __init__(self, policy: agents.CausalLMPolicy, settings: TRLSettings) -> None:
        """Keep what is evaluated."""
        self.policy, self.settings = policy, settings
        self.test = gym.make(ENV_ID, split="test", **TASK)
        self.points: list[dict[str, Any]] = []
        self.tokens, self.paused, self.began = 0, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, after the first point."""
        self.began = time.process_time()
        self._evaluate(0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Count the tokens of a batch where it is sampled; evaluate after its last step."""
        if "loss" not in logs:  # the summary at the end of training
            return
        settings = self.settings
        length = float(logs.get("completions/mean_length", 0.0))
        self.tokens += round(length * settings.batch_episodes)
        batches, rest = divmod(state.global_step, settings.num_iterations)
        is_due = batches % settings.evaluate_every == 0 or batches == settings.updates
        if is_due and not rest:
            self._evaluate(batches)

    def _evaluate(self, batches: int) -> None:
        began = time.process_time()
        was_training = self.policy.model.training
        metrics = agents.evaluate(self.policy.eval(), self.test, self.settings.n_prompts)
        self.policy.model.train(was_training)  # the trainer goes by it
        self.points.append(
            {
                "episodes": batches * self.settings.batch_episodes,
                "tokens": self.tokens,
                "seconds": began - self.began - self.paused,
                **{name: list(interval) for name, interval in metrics.items()},
            }
        )
        self.paused += time.process_time() - began


def train_trl_grpo(
    model_folder: str | Path, seed: int, settings: TRLSettings | None = None
) -> dict[str, Any]:
    """Fine-tune a saved model with TRL's GRPO and return its learning curve.

    Args:
        model_folder: Of `save_pretrained`, with its tokenizer; it is not written to.
        seed: Of prompts and samples.
        settings: By default those of the benchmark.

    Returns:
        `settings`; `curve`, the points of `CurveCallback`; `episodes`, `tokens` and
        `seconds` of training in all.
    """
    settings = settings or TRLSettings()
    model = load_causal_lm(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    reward = reward_function(ENV_ID, processing_class=tokenizer, **TASK)
    prompts = settings.updates * settings.batch_episodes // settings.num_generations
    curve = CurveCallback(agents.CausalLMPolicy(model), settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model,
            reward_funcs=reward,
            args=_config(settings, seed, reward.max_new_tokens, folder),
            train_dataset=prompt_dataset(ENV_ID, max_prompts=prompts, **TASK),
            processing_class=tokenizer,
            callbacks=[curve],
        )
        trainer.train()
    last = curve.points[-1]
    totals = {name: last[name] for name in ("episodes", "tokens", "seconds")}
    return {"settings": asdict(settings), "curve": curve.points, **totals}


def _config(settings: TRLSettings, seed: int, max_new_tokens: int, folder: str) -> GRPOConfig:
    """Return TRL's settings: float32, no checkpointing of activations, nothing written."""
    return GRPOConfig(
        output_dir=folder,
        seed=seed,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear" if settings.anneal else "constant",
        beta=settings.beta,
        num_generations=settings.num_generations,
        num_iterations=settings.num_iterations,
        per_device_train_batch_size=settings.batch_episodes,
        max_steps=settings.updates * settings.num_iterations,
        max_completion_length=max_new_tokens,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
