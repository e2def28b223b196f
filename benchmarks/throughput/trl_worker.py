"""TRL's worker: one iteration of `PPOTrainer.train()` a line. It runs in TRL's environment.

`train()` is one loop over all updates. A callback halts it: at the start of training and
after each update it waits for the next line on standard input, so the seconds from a line
to the next `on_step_end` are one whole iteration, from drawing the prompts to the last
optimiser step and the metrics.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from protocol import Channel, settings
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

FOREVER = 1_000_000
"""Updates to plan for; `run.py` decides when to stop."""


class Backbone(nn.Module):
    """Stands where a reward model has its transformer; its one feature is a count's term."""

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        """Return `hidden_states` as `trl.experimental.utils.get_reward` reads them."""
        return ppo_trainer.ModelOutput(hidden_states=((input_ids % 10 == 7).float()[..., None],))


class RuleRewardModel(nn.Module):
    """TRL asks for a reward model; this one costs next to nothing, as our rule does."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        """Make the two parts that TRL calls; neither has a weight."""
        super().__init__()
        self.backbone, self.score = Backbone(), nn.Identity()


class Halting(TrainerCallback):
    """Waits for a line before each update and answers after it."""

    def __init__(self, channel: Channel, clock: "Clock", given: dict[str, Any]) -> None:
        """Remember whom to answer, and the size of an update."""
        self.channel, self.clock, self.given = channel, clock, given
        self.began = self.cpu = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded: say so and wait for the first line."""
        self.channel.ready(
            versions={name: version(name) for name in ("torch", "transformers", "trl")}
        )
        self._wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Answer for the update that ends here and wait for the next line."""
        seconds = time.perf_counter() - self.began
        parts = self.clock.parts
        given = self.given
        self.channel.done(
            seconds=seconds,
            cpu_seconds=time.process_time() - self.cpu,
            parts={**parts, "update": seconds - sum(parts.values())},
            episodes=given["episodes"],
            tokens=given["episodes"] * given["new_tokens"],
            optimizer_steps=given["epochs"],
            device_peak=torch.cuda.max_memory_allocated() if given["device"] == "cuda" else 0,
        )
        self._wait()

    def _wait(self) -> None:
        if not self.channel.wait_for_update():
            os._exit(0)  # train() cannot be left by its callbacks
        self.clock.parts = {}
        self.began, self.cpu = time.perf_counter(), time.process_time()


class Clock:
    """Adds up the seconds of functions that TRL calls during its rollout."""

    def __init__(self) -> None:
        """Start empty."""
        self.parts: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its calls outside the update (without gradient) added to `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                return function(*args, **kwargs)
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - began
            return result

        return call


def trainer(given: dict[str, Any], channel: Channel) -> PPOTrainer:
    """Build the trainer: float32 weights, a critic of its own, no logging and no saving.

    Args:
        given: `folder`, `episodes`, `samples`, `new_tokens`, `epochs`, `learning_rate`,
            `seed`, `bf16`, `device`, `micro_batch`, `rollout_batch`.
        channel: Where the callback answers.
    """
    clock = Clock()
    for name, function in (
        ("rollout", "batch_generation"),
        ("reference", "forward"),
        ("values and scores", "get_reward"),
    ):
        setattr(ppo_trainer, function, clock.timed(name, getattr(ppo_trainer, function)))
    folder = Path(given["folder"])
    model_folder = str(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    texts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    distinct = [tokenizer(text)["input_ids"] for text in texts]
    prompts = [ids for ids in distinct for _ in range(given["samples"])]
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=given["micro_batch"],
        gradient_accumulation_steps=given["episodes"] // given["micro_batch"],
        num_mini_batches=1,
        num_ppo_epochs=given["epochs"],
        total_episodes=FOREVER * given["episodes"],
        local_rollout_forward_batch_size=given["rollout_batch"],
        response_length=given["new_tokens"],
        temperature=1.0,
        learning_rate=given["learning_rate"],
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=given["bf16"],
        use_cpu=given["device"] == "cpu",
        num_sample_generations=0,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=given["seed"],
    )
    policy, reference = (AutoModelForCausalLM.from_pretrained(model_folder) for _ in range(2))
    critic = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=RuleRewardModel(),
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[Halting(channel, clock, given)],
    )


if __name__ == "__main__":
    trainer(settings(), Channel()).train()
