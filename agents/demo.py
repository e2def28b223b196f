"""`textenvs demo`: base, SFT and PPO on one small model, judged on held-out titles."""

import dataclasses
import time
from typing import Any

import gymnasium as gym
import numpy as np

from agents.command_line.console import Console, metrics_table
from agents.command_line.settings import DEFAULT_ENV, DemoSettings
from agents.config import PPOConfig, SFTConfig
from agents.evaluation import Answer, answer_prompts, bootstrap_mean, summarise
from agents.fine_tuning import sft
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.runs import RunFolder, free_folder
from textenvs.wrappers.reference_kl import VectorReferenceKL

SHOWN = ("correct", "listed", "precision", "recall", "empty", "copied_fraction", "reward")
SFT = SFTConfig(batch_size=32, learning_rate=3e-4)
PPO_SETTINGS = PPOConfig(
    learning_rate=1.5e-4,
    anneal=False,
    n_epochs=2,
    rollout_episodes=128,
    batch_size=64,
    gae_lambda=1.0,
)
KL_COEF = 0.02
ROWS = 128


def run_demo(settings: DemoSettings, console: Console) -> dict[str, Any]:
    """Run the three stages; return the table as nested dicts, and write the run folder.

    Returns:
        Stage -> metric -> [mean, low, high]; "ppo - sft" holds paired differences.
    """
    began = time.perf_counter()
    run = RunFolder(settings.out or free_folder(f"demo-{settings.seed}"), settings)
    options: dict[str, Any] = {
        "corpus": settings.corpus,
        "n_items": settings.n_items,
        "max_prompt_tokens": 48 + 20 * settings.n_items,
        "reward": "context-match-f1",
    }
    policy = CausalLMPolicy.from_pretrained("tiny-lm")
    train = gym.make(DEFAULT_ENV, **options)
    test: Any = gym.make(DEFAULT_ENV, split="test", **options).unwrapped
    answers: dict[str, list[Answer]] = {}

    def judge(stage: str, agent: Any) -> None:
        answers[stage] = answer_prompts(agent, test, settings.prompts_asked)
        interval = summarise(answers[stage])["correct"]
        console.say(
            f"{stage}: correct {interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}] on "
            f"{len(answers[stage])} held-out lists"
        )

    console.say(f"The task: {settings.n_items} titles of {settings.corpus}, one category asked.")
    judge("base", policy)
    _sft(policy, train, settings, run, console)
    judge("SFT", policy)
    policy.save_pretrained(run.path / "checkpoints" / "sft")
    agent = _ppo(policy, settings, options, run, console)
    judge("PPO", agent)

    table = {stage: summarise(given) for stage, given in answers.items()}
    gain = paired_difference(answers["PPO"], answers["SFT"], "correct")
    console.print(metrics_table("Held-out titles, greedy decoding, 95% intervals", table, SHOWN))
    console.say(
        f"PPO minus SFT, correct: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] "
        "(paired over prompts)"
    )
    _show_answers(answers, test, console)
    agent.save(run.checkpoint(agent.num_updates))
    for stage, given in answers.items():
        for answer in given:
            run.log({"stage": stage, **dataclasses.asdict(answer)}, "episodes.jsonl")
    summary = {stage: {n: list(v) for n, v in row.items()} for stage, row in table.items()}
    summary["ppo - sft"] = {"correct": list(gain)}
    seconds = time.perf_counter() - began
    run.finish({**summary, "seconds": seconds})
    console.say(f"Run folder: {run.path} ({seconds:.0f} s)")
    return summary


def paired_difference(new: list[Answer], old: list[Answer], metric: str) -> Any:
    """Return the mean difference of a metric, prompt by prompt, with its interval."""
    pairs = zip(new, old, strict=True)
    return bootstrap_mean(np.array([a.values[metric] - b.values[metric] for a, b in pairs]))


def _sft(
    policy: CausalLMPolicy, env: Any, settings: DemoSettings, run: RunFolder, console: Console
) -> None:
    config = dataclasses.replace(SFT, steps=settings.sft_steps)
    with console.progress("SFT", config.steps) as advance:

        def log(values: Any) -> None:
            run.log({"stage": "sft", **values})
            advance(f"loss {values['loss']:.3f}")

        sft(policy, env, config, seed=settings.seed, log=log)


def _ppo(
    policy: CausalLMPolicy,
    settings: DemoSettings,
    options: dict[str, Any],
    run: RunFolder,
    console: Console,
) -> PPO:
    venv = gym.make_vec(DEFAULT_ENV, num_envs=ROWS, **options)
    shaped = VectorReferenceKL(venv, policy.reference(), KL_COEF)
    agent = PPO(policy, shaped, PPO_SETTINGS, seed=settings.seed)
    with console.progress("PPO", settings.ppo_updates) as advance:

        def log(metrics: Any) -> bool:
            run.log({"stage": "ppo", **metrics})
            advance(
                f"score {metrics['score']:.2f}  correct {metrics['gold/correct']:.2f}  "
                f"KL {metrics['kl']:.2f}"
            )
            return agent.num_updates < settings.ppo_updates

        agent.learn(settings.ppo_updates * ROWS * 1_000, log)
    return agent


def _show_answers(answers: dict[str, list[Answer]], test: Any, console: Console) -> None:
    """Print a few prompts with what each stage said."""
    rows = []
    for i in range(min(3, len(answers["base"]))):
        prompt = test.prompts[i]
        asked = prompt.metadata["category"]
        rows.append((asked, test.oracle(prompt), *(answers[s][i].completion for s in answers)))
    console.side_by_side(("asked for", "right answer", *answers), rows)
