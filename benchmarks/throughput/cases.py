"""What is compared with what: the shapes of the benchmark and the settings of both sides."""

from dataclasses import dataclass, field
from typing import Any

LEARNING_RATE = 3e-6
"""TRL's default, on both sides; it costs no time, but keeps the policies near the start."""


@dataclass(frozen=True)
class Side:
    """One way to make an update.

    Attributes:
        label: Its name in the table.
        script: The worker.
        settings: What that worker reads beyond the shape.
        in_trl: Whether it runs in TRL's environment.
    """

    label: str
    script: str
    settings: dict[str, Any] = field(default_factory=dict)
    in_trl: bool = False


@dataclass(frozen=True)
class Case:
    """A shape, our side, and what it is measured against.

    Attributes:
        title: A line for the table.
        prompt_tokens: Tokens of every prompt.
        new_tokens: Tokens of every answer.
        samples: Answers to each prompt.
        ours: Our side.
        others: The others.
        target: How many times the first of the others we mean to be.
        memory_target: The largest share of its peak memory we mean to need; None where
            nothing is promised.
        episodes: Answers an update.
        epochs: Passes over them, one optimiser step each (but for single rows).
    """

    title: str
    prompt_tokens: int
    new_tokens: int
    samples: int
    ours: Side
    others: tuple[Side, ...]
    target: float
    memory_target: float | None = 0.6
    episodes: int = 64
    epochs: int = 4

    def settings(self, side: Side) -> dict[str, Any]:
        """Return all that the worker of a side is told, but for the folder and the device."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "samples": self.samples,
            "episodes": self.episodes,
            "epochs": self.epochs,
            "learning_rate": LEARNING_RATE,
            **side.settings,
        }


def ours(critic: str = "shared", bfloat16: bool | None = None, *, compiled: bool = False) -> Side:
    """Return our PPO; the defaults are those of `CausalLMPolicy`."""
    named = {None: "default precision", False: "float32", True: "bfloat16"}[bfloat16]
    return Side(
        f"ours, {critic} critic, {named}" + (", compiled" if compiled else ""),
        "ours_worker.py",
        {"critic": critic, "bfloat16": bfloat16, "compile": compiled},
    )


def trl(micro_batch: int, rollout_batch: int = 64, *, bf16: bool = False) -> Side:
    """Return TRL's trainer.

    Args:
        micro_batch: `per_device_train_batch_size`; accumulation makes it up to the batch.
        rollout_batch: `local_rollout_forward_batch_size`.
        bf16: Train under bfloat16 autocast. `PPOConfig(bf16=True)` alone changes nothing:
            the trainer makes an `Accelerator` without telling it, so the variable that
            `accelerate launch --mixed_precision bf16` sets is set too.
    """
    return Side(
        f"TRL, {'bf16' if bf16 else 'float32'}",
        "trl_worker.py",
        {
            "micro_batch": micro_batch,
            "rollout_batch": rollout_batch,
            "bf16": bf16,
            "environment": {"ACCELERATE_MIXED_PRECISION": "bf16"} if bf16 else {},
        },
        in_trl=True,
    )


def rows(batch_rows: int, *, sb3: bool = False) -> Side:
    """Return one-row-per-action updating: ours as in RL4LMs, or unmodified SB3.

    Both compute in our default precision; a policy that is handed to SB3 keeps its own.
    """
    return Side(
        "Stable-Baselines3 PPO" if sb3 else "one row an action",
        "rows_worker.py",
        {"critic": "shared", "bfloat16": None, "batch_rows": batch_rows, "sb3": sb3},
    )


CASES = {
    "float32": Case(
        "float32, a critic of its own in both",
        *(96, 32, 1),
        ours("separate", bfloat16=False),
        (trl(64), trl(32, bf16=True)),
        target=1.4,
    ),
    "defaults": Case(
        "our defaults", *(96, 32, 1), ours(), (trl(64), trl(32, bf16=True)), target=3.0
    ),
    "context": Case(
        "context selection, our defaults",
        *(400, 24, 8),
        ours(),
        (trl(16, 16), trl(16, 16, bf16=True)),
        target=8.0,
    ),
    "rows": Case(
        "one row an action, our defaults",
        *(64, 48, 1),
        ours(),
        (rows(64), rows(64, sb3=True)),
        target=20.0,
        memory_target=None,
        episodes=16,
    ),
}

TUNED = {"float32": (16, 32, 64), "context": (8, 16, 32)}
"""Batch sizes that `run.py --tune` tries for TRL, for both of its settings at once."""
