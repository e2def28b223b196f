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
        names = ("optimum", "optimum_reward", "optimum_kl", "j_untrained")
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
        "A learner has one configuration for all beta; it was chosen on seeds 0 to 2, and the "
        f"seeds shown are {seeds[0]} to {seeds[-1]}.",
        "",
        "## The optimum",
        "",
        "Means over the seeds. J of the untrained policy is its reward: its KL is 0.",
        "",
        *table(
            ["beta", "J*", "its reward", "its KL, nats", "J untrained"],
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
    "- Whitening (PPO) moves the advantages by a constant and divides them by one number a "
    "rollout. The KL is among what is divided, so neither changes where J is highest. "
    "`gae_lambda=1` because a critic that is wrong biases any other value.",
    '- GRPO is asked to maximise J by `kl_in="reward"`, `kl_estimator="k1"`, '
    '`scale_rewards="none"` and `loss_type="dr_grpo"`. Its defaults, the paper\'s, do not: '
    "dividing by a group's deviation charges the KL at another rate in every group, and k3 in "
    "the loss pulls along the gradient of KL(pi_ref || pi), token by token, blind to what a "
    "token does to the KL of later ones. They are listed to show by how much.",
    "- Stable-Baselines3 is unmodified. The environment pays beta log pi_ref(a_t | s_t) with "
    "each token; `ent_coef=beta` stands for the policy's half, -beta log pi. It is not the "
    "same: the entropy bonus is the gradient of the entropy at the states that were visited, "
    "and the returns do not contain the entropy that follows a token. So it converges to a "
    "policy that weighs later freedom too little, and J* is not its optimum. Its shares say "
    "how far that is, together with what its training lacks.",
)
