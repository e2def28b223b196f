"""The workers that update one row an action: `RowPerActionPPO`, or unmodified SB3 PPO."""

import time
from importlib.metadata import version
from typing import Any

from one_row_per_action import RowPerActionPPO
from project_side import load
from protocol import Channel, settings
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from agents.sb3 import CausalLMActorCriticPolicy
from textenvs.bridges.sb3 import SB3VecEnv


class RolloutEnd(BaseCallback):
    """Notes when Stable-Baselines3 has collected its rollout."""

    def __init__(self) -> None:
        """Start with nothing noted."""
        super().__init__()
        self.at = 0.0

    def _on_rollout_end(self) -> None:
        self.at = time.perf_counter()

    def _on_step(self) -> bool:
        return True


class SB3Agent:
    """`stable_baselines3.PPO` on the same policy and environment, the reference left out."""

    def __init__(self, policy: Any, env: Any, given: dict[str, Any]) -> None:
        """Build the agent; one rollout is one episode a row."""
        self.given, self.end = given, RolloutEnd()
        self.agent = PPO(
            CausalLMActorCriticPolicy,
            SB3VecEnv(env.unwrapped),
            policy_kwargs={"model": policy},
            n_steps=given["new_tokens"],
            batch_size=given["batch_rows"],
            n_epochs=given["epochs"],
            learning_rate=given["learning_rate"],
            gamma=1.0,
            seed=given["seed"],
            device=given["device"],
        )

    def step(self) -> dict[str, float]:
        """Make one rollout and one update."""
        given, began = self.given, time.perf_counter()
        actions = given["episodes"] * given["new_tokens"]
        self.agent.learn(actions, self.end, reset_num_timesteps=False)
        return {
            "seconds_rollout": self.end.at - began,
            "seconds_update": time.perf_counter() - self.end.at,
            "episodes": given["episodes"],
            "actions": actions,
            "optimizer_steps": given["epochs"] * actions / given["batch_rows"],
        }


def main() -> None:
    """Load, then make an update for every line on standard input."""
    channel, given = Channel(), settings()
    policy, env = load(given)
    if given["sb3"]:
        agent: Any = SB3Agent(policy, env, given)
    else:
        agent = RowPerActionPPO(
            policy,
            env,
            epochs=given["epochs"],
            batch_rows=given["batch_rows"],
            learning_rate=given["learning_rate"],
            seed=given["seed"],
        )
    channel.ready(versions={name: version(name) for name in ("torch", "stable_baselines3")})
    while channel.wait_for_update():
        began, cpu = time.perf_counter(), time.process_time()
        said = agent.step()
        channel.done(
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu,
            parts={"rollout": said["seconds_rollout"], "update": said["seconds_update"]},
            episodes=said["episodes"],
            tokens=said["actions"],
            optimizer_steps=said["optimizer_steps"],
            device_peak=0,
        )


if __name__ == "__main__":
    main()
