"""SFT and PPO on `textenvs/ContextSelect-v0` with the embedded model, offline, in about a minute.

The wrapper pays the reference's half of the KL, the agent adds its own: the policy learns
the task and stays near the model it was after SFT.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym

import agents
from textenvs.wrappers.reference_kl import VectorReferenceKL


def main() -> None:
    """Train, evaluate on held-out titles before and after, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sft-steps", type=int, default=40)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--n-items", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts to evaluate on")
    parser.add_argument("--out", type=Path, default=Path("runs/train-ppo-example"))
    options = parser.parse_args()

    task = {"n_items": options.n_items, "max_prompt_tokens": 256, "reward": "context-match-f1"}
    policy = agents.CausalLMPolicy.from_pretrained("tiny-lm")
    answers = gym.make("textenvs/ContextSelect-v0", **task)
    agents.sft(policy, answers, agents.SFTConfig(steps=options.sft_steps, learning_rate=3e-4))

    venv = gym.make_vec("textenvs/ContextSelect-v0", num_envs=options.num_envs, **task)
    venv = VectorReferenceKL(venv, policy.reference(), 0.02)
    config = agents.PPOConfig(learning_rate=1e-4, n_epochs=2, gae_lambda=1.0, anneal=False)
    agent = agents.PPO(policy, venv, config, seed=0)

    def report(when: str) -> None:
        measured = agents.evaluate(
            agent, "textenvs/ContextSelect-v0", options.prompts, env_kwargs=task
        )
        for name in ("correct", "listed", "empty", "reward"):
            mean, low, high = measured[name]
            print(f"{when:<7}{name:<8} {mean:6.3f}  [{low:.3f}, {high:.3f}]")

    report("before")
    tokens = options.updates * options.num_envs * 32  # more than are needed
    agent.learn(tokens, lambda metrics: print_update(metrics) < options.updates)
    report("after")
    print(f"saved {agent.save(options.out)}")


def print_update(metrics: Mapping[str, float]) -> float:
    """Print one line an update and return its number; docs/metrics.md explains every metric."""
    print(
        f"update {metrics['update']:.0f}: score {metrics['score']:.2f}, kl {metrics['kl']:.2f}, "
        f"gold correct {metrics['gold/correct']:.2f}, length {metrics['length']:.1f}"
    )
    return metrics["update"]


if __name__ == "__main__":
    main()
