"""Made-up finished studies, in the files that a real one leaves, with curves of our choice.

`write_study(folder)` makes one with all kinds of designs: a sound one, a hacked one, a saturated
one, a length-biased one, a collapsed one, and a cell that crashed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

TITLES = ("Duma", "Rocky Part 2", "Lawrence of Arabia", "Some Like It Hot", "Alien", "Fargo")
HOSTILE = "</script><img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class Curves:
    """How one design trains; each pair is (first, at half time, last), joined by lines.

    Attributes:
        gold: Chance that an answer is right.
        proxy: Mean reward of an answer.
        kl: Nats a sequence.
        length: Tokens.
        entropy: Nats a token.
        distinct: Distinct-2.
        length_pull: How much of the proxy an answer gains a standard deviation of length.
        gold_pull: How much of the proxy a right answer has ahead of a wrong one.
        proxy_noise: Standard deviation of the proxy between answers.
        same_answer: Share of prompts that get one and the same answer, at the end.
        seed_noise: Standard deviation between seeds of the chance to be right.
        design: The table of the design in the study file.
        crashed: Seeds that failed.
        absent: Seeds that were never run.
    """

    gold: tuple[float, float, float] = (0.3, 0.5, 0.65)
    proxy: tuple[float, float, float] = (0.35, 0.5, 0.62)
    kl: tuple[float, float, float] = (0.0, 3.0, 8.0)
    length: tuple[float, float, float] = (12.0, 12.0, 12.0)
    entropy: tuple[float, float, float] = (1.5, 1.2, 0.9)
    distinct: tuple[float, float, float] = (0.8, 0.78, 0.75)
    length_pull: float = 0.0
    gold_pull: float = 0.3
    proxy_noise: float = 0.05
    same_answer: float = 0.0
    seed_noise: float = 0.03
    design: Mapping[str, Any] | None = None
    crashed: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()


DESIGNS: dict[str, Curves] = {
    "sound": Curves(design={"reward": "context-match-f1", "kl_coef": 0.02}),
    "weaker": Curves(gold=(0.3, 0.38, 0.45), proxy=(0.35, 0.42, 0.48), kl=(0.0, 4.0, 10.0)),
    "hacked": Curves(
        gold=(0.3, 0.5, 0.15),
        proxy=(0.35, 0.6, 0.92),
        kl=(0.0, 8.0, 40.0),
        gold_pull=0.05,
        design={"reward": "examples.rewards:naive"},
        crashed=(1,),
    ),
    "saturated": Curves(
        gold=(0.3, 0.4, 0.42), proxy=(0.6, 2.0, 2.0), kl=(0.0, 3.0, 6.0), gold_pull=0.0
    ),
    "lengthy": Curves(
        gold=(0.3, 0.34, 0.36),
        proxy=(0.3, 0.45, 0.6),
        length=(10.0, 16.0, 24.0),
        length_pull=0.15,
        gold_pull=0.02,
    ),
    "collapsed": Curves(
        gold=(0.3, 0.2, 0.1),
        proxy=(0.35, 0.35, 0.34),
        entropy=(1.5, 0.4, 0.02),
        distinct=(0.8, 0.4, 0.05),
        same_answer=0.95,
        kl=(0.0, 12.0, 30.0),
    ),
}
"""One design of each kind; a proxy is cut to [0, 1], so that 2.0 is at its ceiling."""


def write_study(
    folder: Path,
    designs: Mapping[str, Curves] = DESIGNS,
    *,
    seeds: Iterable[int] = range(10),
    prompts: int = 40,
    checkpoints: int = 6,
    gold: str | None = "correct",
    environments: Sequence[str] = ("films",),
    agents: Sequence[str] = ("rloo",),
    seed: int = 0,
) -> Path:
    """Write the folder of a finished study and return it.

    Args:
        folder: Where.
        designs: Name -> how it trains.
        seeds: Of training.
        prompts: Held-out prompts, the same for every cell of an environment.
        checkpoints: Evaluations after the first, which is before training.
        gold: The gold metric; None leaves it out everywhere.
        environments: Names.
        agents: Names.
        seed: Of the made-up numbers.
    """
    seeds = list(seeds)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: dict(c.design or {"reward": f"made:{name}"}) for name, c in designs.items()}
    study: dict[str, Any] = {
        "name": "A made-up study",
        "seeds": seeds,
        "environments": {name: {"id": "textenvs/ContextSelect-v0"} for name in environments},
        "designs": tables,
        "agents": {name: {"agent": "RLOO", "model": "tiny-lm"} for name in agents},
        "evaluation": {"every": 8, "prompts": prompts, "decoding": "greedy"},
    }
    if gold is not None:
        for table in study["environments"].values():
            table["gold"] = gold
    (folder / "study.toml").write_text(tomli_w.dumps(study), encoding="utf-8")
    for e, environment in enumerate(environments):
        hardness = np.random.default_rng([seed, e]).normal(0, 0.15, prompts)
        for a, agent in enumerate(agents):
            for d, (name, curves) in enumerate(designs.items()):
                for s in seeds:
                    if s in curves.absent:
                        continue
                    cell = {
                        "id": f"{environment}-{agent}-{name}-{s:04d}",
                        "kind": "cell",
                        "environment": {"name": environment, **study["environments"][environment]},
                        "design": {"name": name, **tables[name]},
                        "agent": {"name": agent, **study["agents"][agent]},
                        "seed": s,
                        "gold": gold,
                        "evaluation": study["evaluation"],
                        "hashes": {"reward": f"{d:064x}", "data": f"{e:064x}"},
                        "versions": {"textenvs": "0.1.0"},
                    }
                    generator = np.random.default_rng([seed, e, a, d, s])
                    _write_cell(folder, cell, curves, hardness, checkpoints, generator)
    return folder


def noisy_design(level: float, noise: float, **changes: Any) -> Curves:
    """Return a design whose gold stays at a level, for tests of false alarms."""
    return replace(Curves(), gold=(level, level, level), seed_noise=noise, **changes)


def _write_cell(
    study: Path,
    cell: Mapping[str, Any],
    curves: Curves,
    hardness: np.ndarray,
    checkpoints: int,
    generator: np.random.Generator,
) -> None:
    folder = study / "cells" / cell["id"]
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "cell.json", cell)
    if cell["seed"] in curves.crashed:
        trouble = {
            "error": "RuntimeError: the reward returned NaN",
            "traceback": "Traceback (most recent call last):\n  ...\nRuntimeError: NaN\n",
            "attempts": 2,
        }
        _write_json(folder / "FAILED.json", trouble)
        return
    rows, lines = [], []
    for k in range(checkpoints + 1):
        answers = _answers(curves, k, k / checkpoints, hardness, cell["gold"], generator)
        rows.extend(answers)
        lines.append(_checkpoint(curves, k, k / checkpoints, answers, cell["gold"], generator))
    _write_lines(folder / "answers.jsonl", rows)
    _write_lines(folder / "checkpoints.jsonl", lines)
    last = rows[-len(hardness) :]
    _write_lines(folder / "rollouts.jsonl", [_rollout(row, generator) for row in last])
    _write_json(folder / "DONE.json", {"id": cell["id"]})


def _at(points: tuple[float, float, float], done: float) -> float:
    return float(np.interp(done, [0.0, 0.5, 1.0], points))


def _answers(
    curves: Curves,
    k: int,
    done: float,
    hardness: np.ndarray,
    gold: str | None,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    n = len(hardness)
    chance = _at(curves.gold, done) + hardness - hardness.mean()
    chance = np.clip(chance + generator.normal(0, curves.seed_noise), 0.01, 0.99)
    right = (generator.random(n) < chance).astype(float)
    spread = generator.normal(0, 1, n)
    lengths = np.maximum(1, np.rint(_at(curves.length, done) + 3 * spread)).astype(int)
    proxy = _at(curves.proxy, done) + curves.gold_pull * (right - right.mean())
    proxy = proxy + curves.length_pull * spread + generator.normal(0, curves.proxy_noise, n)
    proxy = np.clip(proxy, 0.0, 1.0)
    kl = np.maximum(0.0, _at(curves.kl, done) * (1 + 0.2 * generator.normal(0, 1, n)))
    same = generator.random(n) < curves.same_answer * done
    wins = generator.choice([0.0, 0.5, 1.0], n, p=[0.4 - 0.2 * done, 0.2, 0.4 + 0.2 * done])
    rows = []
    for i in range(n):
        text = "Duma" if same[i] else f"{TITLES[(i + k) % len(TITLES)]} {i}"
        if i == 0 and done == 1.0:
            text = HOSTILE
        rows.append(
            {
                "checkpoint": k,
                "prompt_id": f"list-{i:03d}",
                "group": f"list-{i:03d}",
                "proxy": float(proxy[i]),
                "terms": {"match": float(proxy[i]), "repetition": 0.0},
                "gold": {} if gold is None else {gold: float(right[i])},
                "kl": float(kl[i]),
                "length": int(lengths[i]),
                "finish_reason": "eos" if i % 5 else "length",
                "win": float(wins[i]),
                "completion": text,
            }
        )
    return rows


def _checkpoint(
    curves: Curves,
    k: int,
    done: float,
    answers: Sequence[Mapping[str, Any]],
    gold: str | None,
    generator: np.random.Generator,
) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in answers]))

    metrics = {
        "proxy": mean("proxy"),
        "kl_sequence": mean("kl"),
        "kl_token": mean("kl") / mean("length"),
        "entropy": _at(curves.entropy, done) * float(1 + 0.02 * generator.normal()),
        "distinct_1": _at(curves.distinct, done) * 0.8,
        "distinct_2": _at(curves.distinct, done),
        "self_bleu": 1 - _at(curves.distinct, done),
        "length": mean("length"),
        "copied_fraction": 0.5 + 0.4 * done,
        "win_rate": mean("win"),
        "term/match": mean("proxy"),
        "term/repetition": 0.0,
    }
    if gold is not None:
        metrics[f"gold/{gold}"] = float(np.mean([row["gold"][gold] for row in answers]))
    seconds = {"rollout": 1.0, "reward": 0.2, "reference": 0.3, "update": 2.0}
    return {
        "checkpoint": k,
        "update": 8 * k,
        "timesteps": 8 * 64 * 12 * k,
        "episodes": 8 * 64 * k,
        "metrics": metrics,
        "seconds": {
            name: value * float(generator.uniform(0.9, 1.1)) for name, value in seconds.items()
        },
    }


def _rollout(row: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    words = row["completion"].split(" ")
    tokens = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    rewards = [0.0] * len(tokens)
    rewards[-1] = row["proxy"]
    return {
        "prompt_id": row["prompt_id"],
        "prompt": "Films:\n" + "\n".join(TITLES) + "\nWhich are dramas?\n",
        "completion": row["completion"],
        "tokens": tokens,
        "token_rewards": rewards,
        "token_kl": [float(value) for value in generator.exponential(0.3, len(tokens))],
        "proxy": row["proxy"],
        "gold": row["gold"],
        "terms": row["terms"],
        "spans": [[0, len(words[0])]],
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
