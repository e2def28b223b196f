"""The report of `run.py`: tables of how near each learner comes to the exact optimum."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from learners import ENV, LEARNERS, MODEL, TOKENS, Learner
from scipy import stats

PACKAGES = ("gymnasium", "numpy", "torch", "transformers", "stable-baselines3")
Result = dict[str, float]
Results = dict[tuple[str, float], list[Result]]
"""(Learner, beta) -> what `run.measure` returned for each seed."""


def interval(values: Sequence[float], digits: int = 4) -> str:
    """Return the mean with its 95% Student interval."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return f"{mean:.{digits}f}"
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def machine() -> str:
    """Return the machine and the packages in words."""
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, CPU only, "
        f"{torch.get_num_threads()} thread a run. "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    )


def column(runs: Sequence[Result], name: str) -> list[float]:
    """Return one figure of every seed."""
    return [run[name] for run in runs]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def optimum_rows(results: Results, betas: Sequence[float]) -> list[list[str]]:
    """Return what the optimum is at each beta: means over the seeds' references."""
    rows = []
    for beta in betas:
        runs = next(runs for (_, b), runs in results.items() if b == beta)
        names = ("optimum", "optimum_reward", "optimum_kl", "j_untrained", "bonus_limit")
        rows.append([f"{beta:g}", *(f"{np.mean(column(runs, n)):.4f}" for n in names)])
    return rows


def mean_rows(results: Results, figure: str, betas: Sequence[float]) -> list[list[str]]:
    """Return a row for each learner: a figure's mean and interval at each beta."""
    return [
        [learner.label, *(interval(column(results[name, beta], figure)) for beta in betas)]
        for name, learner in LEARNERS.items()
        if all((name, beta) in results for beta in betas)
    ]


def seed_rows(results: Results, seeds: Sequence[int]) -> list[list[str]]:
    """Return a row for each run."""
    figures = ("share", "normalised", "reward", "kl", "seconds")
    digits = dict(zip(figures, (4, 4, 4, 3, 0), strict=True))
    return [
        [LEARNERS[name].label, f"{beta:g}", str(seed)]
        + [f"{run[f]:.{digits[f]}f}" for f in figures]
        for (name, beta), runs in results.items()
        for seed, run in zip(seeds, runs, strict=True)
    ]


def verdict(learner: Learner, shares: Sequence[float]) -> str:
    """Return whether the means at all betas are what is asked."""
    if learner.needed is None:
        return "-"
    word = "reached" if min(shares) >= learner.needed else "not reached"
    return f"at least {learner.needed:.2f}: {word}"


def verdict_rows(results: Results, betas: Sequence[float]) -> list[list[str]]:
    """Return settings and verdict of each learner."""
    rows = []
    for name, learner in LEARNERS.items():
        if not all((name, beta) in results for beta in betas):
            continue
        shares = [float(np.mean(column(results[name, beta], "share"))) for beta in betas]
        settings = ", ".join(f"`{key}={value!r}`" for key, value in learner.settings.items())
        rows.append([learner.label, f"{min(shares):.4f}", verdict(learner, shares), settings])
    return rows


def report(results: Results, betas: Sequence[float], seeds: Sequence[int], command: str) -> str:
    """Return the whole report as Markdown."""
    model = ", ".join(f"`{key}={value}`" for key, value in MODEL.items())
    heads = [f"beta {beta:g}" for beta in betas]
    lines: list[Any] = [
        "# How near to the exact optimum",
        "",
        f"Command: `{command}`.",
        "",
        f"Machine: {machine()}.",
        "",
        f"`{ENV}` is small enough to list every completion, so both the objective "
        "J(pi) = E[r - beta log(pi / pi_ref)] of a trained policy and its maximum J* are known "
        "exactly, without sampling (`textenvs.optimum`). Each learner starts from a randomly "
        f"initialised GPT-2 ({model}; float32), which is the reference as well, and acts "
        f"{TOKENS:,} tokens. A seed decides the initial weights and all chance of the training. "
        "A learner has one configuration for all beta; it was chosen on seeds below 10, and the "
        f"seeds shown are {seeds[0]} to {seeds[-1]}.",
        "",
        "## The optimum",
        "",
        "Means over the seeds. J of the untrained policy is its reward: its KL is 0.",
        "",
        *table(
            ["beta", "J*", "its reward", "its KL, nats", "J untrained", "limit of the bonus / J*"],
            optimum_rows(results, betas),
        ),
        "",
        "## J / J*",
        "",
        "Means over seeds, with 95% Student intervals.",
        "",
        *table(["learner", *heads], mean_rows(results, "share", betas)),
        "",
        "## Share of the way",
        "",
        "(J - J untrained) / (J* - J untrained), which is 0 for a policy that learned nothing.",
        "",
        *table(["learner", *heads], mean_rows(results, "normalised", betas)),
        "",
        "## Settings and least mean of J / J*",
        "",
        *table(["learner", "least mean", "needed", "settings"], verdict_rows(results, betas)),
        "",
        "## Notes",
        "",
        *NOTES,
        "",
        "## Every run",
        "",
        "Reward and KL are exact expectations of the trained policy; seconds are processor time.",
        "",
        *table(
            ["learner", "beta", "seed", "J / J*", "share of the way", "reward", "KL", "seconds"],
            seed_rows(results, seeds),
        ),
        "",
    ]
    return "\n".join(lines)


NOTES = (
    "- The three beta are where J* can be told from its neighbours. Up to 0.05 the optimum is all "
    "but one answer a prompt, and what is hard is to find the best one: an untrained policy says "
    "it once in a thousand times, and a run that settles on the second best answer to one of the "
    "four prompts ends near 0.93 of J*. At 0.08 the optimum gives up reward for a smaller KL, so "
    "the probabilities of many answers have to be right. Above, it spreads over hundreds of "
    "answers, and this network is the limit: at 0.1, 150 steps of Adam along the exact gradient "
    "of J, without any sampling, came to 0.98 to 0.99 of J*. These beta were settled on after PPO "
    "had stayed between 0.97 and 0.985 of J* at 0.1, on the seeds used for tuning.",
    "- PPO has a critic of its own. With the shared one, and the same settings otherwise, one of "
    "five seeds (5 to 9) at beta 0.02 ended at 0.931, the others between 0.996 and 0.998. "
    "Whitening moves the advantages by a constant and divides them by one number a rollout; the "
    "KL is among what is divided, so where J is highest does not change. `gae_lambda=1`, because "
    "any other value is biased by a critic that is wrong.",
    '- GRPO is made to maximise J by `kl_in="reward"`, `kl_estimator="k1"`, '
    '`scale_rewards="none"` and `loss_type="dr_grpo"`. Its defaults, the paper\'s, maximise '
    "something else: dividing by a group's deviation charges the KL at another rate in every "
    "group, a token of a long answer counts less, and k3 in the loss follows the gradient of "
    "KL(pi_ref || pi) at each state, blind to what a token does to the KL of later ones. They "
    "are listed to show by how much.",
    "- Stable-Baselines3 is unmodified, on the same network and critic as PPO. The environment "
    "pays beta log pi_ref(a_t | s_t) with each token, and `ent_coef=beta` stands for the "
    "policy's half, -beta log pi. That is not the same: the entropy bonus is the gradient of the "
    "entropy at the states visited, while its returns hold no entropy, so a token earns nothing "
    "for the freedom it leaves to later ones. What a policy that is free at every state would "
    "come to under this rule is computed exactly (`entropy_bonus.py`) and stands in the first "
    "table as the limit of the bonus: here it costs less than 0.1% of J*.",
)
