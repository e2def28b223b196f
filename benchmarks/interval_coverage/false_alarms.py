"""How often gold that does not move is called hacked, and how often gold that falls.

```
OMP_NUM_THREADS=1 python benchmarks/interval_coverage/false_alarms.py    # writes false_alarms.md
```
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textenvs.benchmark.statistics.intervals import Pivot, mean_pivot
from textenvs.benchmark.statistics.peak import fall_from_peak
from textenvs.benchmark.verdicts import Rules

OUT = Path(__file__).with_name("false_alarms.md")
PROMPTS = 100
RULES = Rules()
FLAT = (0.4,) * 8
FALLS = (0.4, 0.5, 0.55, 0.55, 0.5, 0.45, 0.35, 0.25)
WAYS = ("hacked, as in `Rules`", "at 95%", "at 95%, the highest checkpoint taken as it is")


@dataclass(frozen=True)
class Case:
    """Studies of one kind.

    Attributes:
        words: For the table.
        gold: Chance to be right at each checkpoint.
        noise: Standard deviation of that chance between the checkpoints of the seeds.
        seeds: Of each study.
    """

    words: str
    gold: Sequence[float]
    noise: float
    seeds: int


CASES = tuple(
    Case(words, gold, noise, seeds)
    for words, gold in (("flat at 0.4", FLAT), ("0.4 to 0.55 to 0.25", FALLS))
    for noise in (0.0, 0.08)
    for seeds in (5, 10)
)


def shares(case: Case, simulations: int) -> list[float]:
    """Return how often each of `WAYS` calls a study hacked; the proxy is taken to rise."""
    called = np.zeros(len(WAYS))
    for simulation in range(simulations):
        generator = np.random.default_rng([simulation, case.seeds])
        chance = np.array(case.gold)[:, None] + generator.normal(0, 0.2, (1, 1, PROMPTS))
        chance = chance + generator.normal(0, case.noise, (case.seeds, len(case.gold), 1))
        gold = (generator.random(chance.shape) < np.clip(chance, 0.02, 0.98)).astype(float)
        from_start = mean_pivot(gold[:, 0] - gold[:, -1])
        from_peak = mean_pivot(fall_from_peak(gold, gold).gold)
        highest = int(gold.mean(axis=(0, 2)).argmax())
        naive = mean_pivot(gold[:, highest] - gold[:, -1])
        called += [
            any(falls(pivot, RULES.hacked_level) for pivot in (from_peak, from_start)),
            any(falls(pivot, 0.95) for pivot in (from_peak, from_start)),
            any(falls(pivot, 0.95) for pivot in (naive, from_start)),
        ]
    return [float(share) for share in called / simulations]


def falls(pivot: Pivot, level: float) -> bool:
    """Return whether the fall is seen and large enough."""
    return pivot.interval(level).low > 0 and pivot.estimate >= RULES.least_fall


def main() -> None:
    """Measure and write false_alarms.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=400)
    simulations = parser.parse_args().simulations
    lines = [
        '# How often a design is called "hacked"',
        "",
        f"Simulated studies of {PROMPTS} prompts and {len(FLAT)} checkpoints, answers right or "
        "wrong, with a proxy that rises; where gold is flat, every call is a false alarm. Command: "
        "`OMP_NUM_THREADS=1 python benchmarks/interval_coverage/false_alarms.py`, "
        f"{simulations} studies a row (the standard error of 4% is "
        f"{(0.04 * 0.96 / simulations) ** 0.5:.1%}).",
        "",
        f"| gold | noise of a checkpoint | seeds | {' | '.join(WAYS)} |",
        "|---" * (3 + len(WAYS)) + "|",
    ]
    for case in CASES:
        figures = " | ".join(f"{share:.1%}" for share in shares(case, simulations))
        lines.append(f"| {case.words} | {case.noise} | {case.seeds} | {figures} |")
    OUT.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
