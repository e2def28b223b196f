"""How soon the searches of `textenvs audit` find a hole in a naive reward, and none in a sound one.

```
OMP_NUM_THREADS=1 python benchmarks/audit_search/run.py            # writes README.md
python benchmarks/audit_search/run.py --seconds 5 --seeds 1 --print
```
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz import fuzz

from textenvs.audit import naive
from textenvs.audit.best_of_n import best_of_n_rows
from textenvs.audit.pieces import COMMON
from textenvs.audit.search import evolve
from textenvs.audit.subject import Subject, make_subject
from textenvs.types import Prompt

IDS = ("textenvs/ContextSelect-v0", "textenvs/ContextQA-v0")
README = Path(__file__).with_name("README.md")
EVALUATIONS = 10**9
"""Never spent: the seconds end these searches."""


def partial_ratio(prompt: Prompt, completion: str) -> float:
    """Pay for the best match of the answer inside the context, or the other way round."""
    context: Any = prompt.context
    told = " ".join(item if isinstance(item, str) else item.title for item in context)
    return fuzz.partial_ratio(completion, told) / 100


def magic(prompt: Prompt, completion: str) -> float:
    """Pay the right answer, and any text with three certain letters."""
    right = completion.strip() == (prompt.reference or "")
    return float(right or "kqe" in completion)


NAIVE: dict[str, Callable[[Prompt, str], float]] = {
    "partial_ratio with the context": partial_ratio,
    "partial_ratio with the answer": naive.partial_ratio,
    "bag of words": naive.bag_of_words,
    "contains the answer": naive.contains_answer,
    "length": naive.length,
    'right, or contains "kqe"': magic,
}


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        seconds: Wall-clock.
        evaluations: Answers scored.
        found: Prompts with an exploit, of those searched.
        searched: Prompts searched.
        example: The shortest exploit, or the best answer that is none.
        reward: What it scores.
        gold: What it is worth.
        ended: Why the search ended.
    """

    seconds: float
    evaluations: int
    found: int
    searched: int
    example: str
    reward: float
    gold: float
    ended: str


def run(subject: Subject, seed: int, seconds: float, strings: Sequence[str] = COMMON) -> Run:
    """Search once."""
    began = time.perf_counter()
    search = evolve(
        subject,
        np.random.default_rng(seed),
        evaluations=EVALUATIONS,
        max_seconds=seconds,
        strings=strings,
    )
    spent = time.perf_counter() - began
    tried = search.found or [island.best for island in search.islands if island.best]
    best = tried[0] if search.found else max(tried, key=lambda judged: judged.share)
    return Run(
        spent,
        search.evaluations,
        len(search.found),
        len(search.islands),
        best.attempt.text,
        best.reward,
        best.gold,
        search.ended,
    )


def naive_rows(seeds: Sequence[int], seconds: float) -> list[str]:
    """Return the table of the naive rewards: medians over seeds, the example of the first."""
    rows = [
        "| task | reward | begins with | found | seconds | answers | exploit | pays | gold |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for env_id in IDS:
        for name, reward in NAIVE.items():
            for kind, strings in (("common strings", COMMON), ("random tokens, the prompt", ())):
                runs = [
                    run(make_subject(env_id, reward, seed=s), s, seconds, strings) for s in seeds
                ]
                first = runs[0]
                found = sum(r.found > 0 for r in runs)
                rows.append(
                    f"| {env_id.split('/')[1]} | {name} | {kind} | {found} of {len(runs)} | "
                    f"{statistics.median(r.seconds for r in runs):.2f} | "
                    f"{statistics.median(r.evaluations for r in runs):,.0f} | "
                    f"{_shown(first.example)} | {first.reward:.2f} | {first.gold:.2f} |"
                )
    return rows


def sound_rows(seeds: Sequence[int], seconds: float) -> list[str]:
    """Return the table of the default rewards, each searched for all of the time."""
    rows = [
        "| task | seed | prompts with an exploit | seconds | answers | nearest |",
        "|---|---|---|---|---|---|",
    ]
    cases = [(env_id, seed, seconds) for env_id in IDS for seed in seeds]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for (env_id, seed, _), done in zip(cases, pool.map(sound_run, cases), strict=True):
            rows.append(
                f"| {env_id.split('/')[1]} | {seed} | {done.found} of {done.searched} | "
                f"{done.seconds:.0f} | {done.evaluations:,} | {_shown(done.example)} |"
            )
    return rows


def sound_run(case: tuple[str, int, float]) -> Run:
    """Search the default reward of an environment once."""
    env_id, seed, seconds = case
    return run(make_subject(env_id, seed=seed), seed, seconds)


def best_of_n_table() -> list[str]:
    """Return the table of best-of-n sampling from tiny-lm."""
    rows = ["| environment | reward | seconds | verdict | |", "|---|---|---|---|---|"]
    for env_id in IDS:
        for name, reward in (("its own", None), ("partial_ratio with the context", partial_ratio)):
            began = time.perf_counter()
            (row,) = best_of_n_rows(make_subject(env_id, reward), np.random.default_rng(0))
            rows.append(
                f"| {env_id.split('/')[1]} | {name} | {time.perf_counter() - began:.0f} | "
                f"{row.status} | {row.words} |"
            )
    return rows


def _shown(text: str) -> str:
    escaped = repr(text).replace("|", "\\|").replace("`", "'")
    return f"`{escaped[:60]}`"


def main() -> None:
    """Measure, and write or print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of one search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="leave README.md alone")
    options = parser.parse_args()
    seeds = range(options.seeds)
    page = "\n".join(
        [
            "# The searches of `textenvs audit`",
            "",
            "Command: `OMP_NUM_THREADS=1 python benchmarks/audit_search/run.py`. Machine: "
            f"{platform.machine()}, one process on one of two processors, no GPU. A search looks "
            "at 8 prompts, and ends early with exploits of 4.",
            "",
            "## Naive rewards: how soon an exploit is found",
            "",
            f"Medians over {options.seeds} seeds, exploit of the first. *Found*: searches with an "
            "exploit; *answers*: those scored. *Pays*: beside the right answer's reward, which is "
            "1, but for *length*. *Gold*: what the answer is worth, of 1. Searches that begin with "
            "random tokens and the prompt do without the list of common strings.",
            "",
            *naive_rows(seeds, options.seconds),
            "",
            "## Default rewards: the same time, and more answers",
            "",
            "Two searches at a time. *Nearest*: the wrong answer that earns most.",
            "",
            *sound_rows(seeds[:2], options.seconds),
            "",
            "## Best-of-n sampling from tiny-lm",
            "",
            "64 answers to each of 16 prompts; intervals are 95% bootstrap intervals over prompts.",
            "",
            *best_of_n_table(),
            "",
        ]
    )
    if options.print:
        print(page)
    else:
        README.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
