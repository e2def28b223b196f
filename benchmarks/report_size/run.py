"""How large is a report of 10,000 recorded episodes, and how long does it take to write?

`python benchmarks/report_size/run.py` makes up a study of 10,000 rollouts and a run of 10,000
episodes, writes their reports, each in a fresh process, and README.md beside this file.
"""

import argparse
import importlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from textenvs.benchmark.report import write_report
from textenvs.benchmark.summary import write_summary

HERE = Path(__file__).parent
MADE_UP = HERE.parent.parent / "tests" / "textenvs"
"""Where the maker of studies is that the tests use too."""

DESIGNS, SEEDS, PROMPTS = 10, 10, 100
EPISODES = DESIGNS * SEEDS * PROMPTS
UPDATES = 500
TOKENS = 64
PROMPT_LETTERS = 1_000
LARGEST_MB, LONGEST_S = 10.0, 20.0
WORDS = ("Duma", " Rocky", " Part", " 2", "\n", " Lawrence", " of", " Arabia", ",", " the", "ing")
TEXT = """# Size of a report

Command: `OMP_NUM_THREADS=1 python benchmarks/report_size/run.py`.

Machine: {machine}

{episodes:,} recorded episodes of {tokens} tokens each, with a reward and a KL for every token and \
prompts of {letters:,} characters: once as a study ({designs} designs, {seeds} seeds, {prompts} \
held-out prompts, 6 evaluations after the first), once as a run of {updates} updates. Numbers and \
words are made up. *Write* is `write_report` in a fresh process, imports included: the page, the \
Markdown and its charts; the study's summary is there already. *Summary* is `write_summary`, \
which a study needs once.

| of | recorded, MB | rollouts shown | page, MB | Markdown and charts, MB | write, s | \
peak memory, MiB | summary, s |
|---|---:|---:|---:|---:|---:|---:|---:|
{rows}

The page keeps {shown}, and says so on the page; a longer answer is cut after 600 tokens.
"""


def make_study(folder: Path) -> float:
    """Write a study and its summary; return the seconds the summary took."""
    sys.path.insert(0, str(MADE_UP))
    made: Any = importlib.import_module("benchmark_data")
    kinds = list(made.DESIGNS.values())
    designs = {f"design {i}": replace(kinds[i % len(kinds)], crashed=()) for i in range(DESIGNS)}
    made.write_study(folder, designs, seeds=range(SEEDS), prompts=PROMPTS)
    generator = random.Random(0)
    for path in sorted(folder.glob("cells/*/rollouts.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps({**row, **answer(generator)}) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    begun = time.perf_counter()
    write_summary(folder)
    return time.perf_counter() - begun


def make_run(folder: Path) -> None:
    """Write a run folder as `textenvs train` leaves it."""
    folder.mkdir()
    generator = random.Random(1)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for i in range(UPDATES):
            names = ("score", "kl", "entropy", "length", "gold/correct", "policy_loss")
            values = {name: generator.random() for name in names}
            file.write(json.dumps({"timesteps": 4096 * i, **values}) + "\n")
    with (folder / "episodes.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps({"format": "textenvs-episodes", "version": 1}) + "\n")
        for i in range(EPISODES):
            made = answer(generator)
            row = {
                "prompt_id": f"train-0-{i}",
                **made,
                "completion_ids": [1] * TOKENS,
                "task_reward": generator.random(),
                "metrics": {"correct": float(generator.random() < 0.4)},
                "logprobs": [-0.5] * TOKENS,
                "kl": {"coef": 0.05, "reference_logprob": made["token_kl"], "terms": [0] * TOKENS},
            }
            file.write(json.dumps(row) + "\n")


def answer(generator: random.Random) -> dict[str, Any]:
    """Return a made-up answer with its tokens and their numbers."""
    tokens = [generator.choice(WORDS) for _ in range(TOKENS)]
    return {
        "prompt": "".join(generator.choices(WORDS, k=PROMPT_LETTERS // 4)),
        "completion": "".join(tokens),
        "tokens": tokens,
        "token_rewards": [generator.gauss(0.0, 1.0) for _ in tokens],
        "token_kl": [generator.expovariate(3.0) for _ in tokens],
        "spans": [[0, 4], [40, 60]],
    }


def measure(folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak MiB of `write_report` in a fresh process."""
    begun = time.perf_counter()
    command = [sys.executable, __file__, "--only", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - begun, float(done.stdout)


def row_of(words: str, folder: Path, recorded: list[Path], summary: float | None) -> str:
    """Measure one report and return its row of the table."""
    seconds, memory = measure(folder)
    page = folder / "report.html"
    beside = [folder / "report.md", *(folder / "report_charts").iterdir()]
    shown = page.read_text(encoding="utf-8").count('<article class="rollout">')
    cells = [
        words,
        f"{megabytes(recorded):.1f}",
        f"{shown} of {EPISODES:,}",
        f"{megabytes([page]):.2f}",
        f"{megabytes(beside):.2f}",
        f"{seconds:.1f}",
        f"{memory:.0f}",
        "" if summary is None else f"{summary:.1f}",
    ]
    if megabytes([page]) > LARGEST_MB or seconds > LONGEST_S:
        raise SystemExit(f"too large or too slow: {' | '.join(cells)}")
    return f"| {' | '.join(cells)} |"


def megabytes(paths: list[Path]) -> float:
    """Return the size of files in millions of bytes."""
    return sum(path.stat().st_size for path in paths) / 1e6


def main() -> None:
    """Measure both reports and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only is not None:
        write_report(given.only)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as place:
        study, run = Path(place) / "study", Path(place) / "run"
        summary = make_study(study)
        rollouts = sorted(study.glob("cells/*/rollouts.jsonl"))
        rows = [row_of("a study", study, rollouts, summary)]
        make_run(run)
        rows.append(row_of("a run", run, [run / "episodes.jsonl"], None))
    text = TEXT.format(
        machine=f"{platform.machine()}, {os.cpu_count()} processors, one thread; "
        f"Python {platform.python_version()}, textenvs {version('textenvs')}, "
        f"jinja2 {version('jinja2')}.",
        episodes=EPISODES,
        tokens=TOKENS,
        letters=PROMPT_LETTERS,
        designs=DESIGNS,
        seeds=SEEDS,
        prompts=PROMPTS,
        updates=UPDATES,
        rows="\n".join(rows),
        shown="at most 12 rollouts a design, 300 in all, and 24 episodes of a run",
    )
    (HERE / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
