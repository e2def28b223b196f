"""The worker of this project: `agents.PPO.step()`, again and again."""

import time
from importlib.metadata import version

import torch
from project_side import load
from protocol import Channel, settings

from agents import PPO, PPOConfig


def main() -> None:
    """Load, then make an update for every line on standard input."""
    channel, given = Channel(), settings()
    policy, env = load(given)
    config = PPOConfig(
        learning_rate=given["learning_rate"],
        n_epochs=given["epochs"],
        batch_size=given["episodes"],
        **given.get("config", {}),
    )
    agent = PPO(policy, env, config, seed=given["seed"])
    parameters = sum(p.numel() for p in policy.model.parameters())
    channel.ready(
        parameters=parameters,
        bfloat16=policy.use_bfloat16,
        versions={name: version(name) for name in ("torch", "transformers", "gymnasium")},
    )
    while channel.wait_for_update():
        began, cpu = time.perf_counter(), time.process_time()
        metrics = agent.step()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        parts = {
            name.removeprefix("seconds_"): value
            for name, value in metrics.items()
            if name.startswith("seconds_")
        }
        channel.done(
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            parts=parts,
            episodes=metrics["episodes"],
            tokens=metrics["episodes"] * metrics["length"],
            optimizer_steps=metrics["optimizer_steps"],
            device_peak=torch.cuda.max_memory_allocated() if policy.device.type == "cuda" else 0,
        )


if __name__ == "__main__":
    main()
