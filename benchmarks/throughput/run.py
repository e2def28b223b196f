"""Our PPO against TRL 1.12.0's `PPOTrainer` and against one-row-per-action updating.

`python benchmarks/throughput/run.py --write` measures every case and writes `results.json`
and README.md beside this file. Each side is a process that is prepared once; they take
turns, one update each, so that whatever slows the machine slows both. `--cases defaults`
measures one case; `--tune` looks for TRL's fastest batch sizes first.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases import CASES, TUNED, Case, Side, trl
from material import RANDOM_LLAMA, write_material
from protocol import Worker
from report import write_report
from trl_environment import trl_python

from textenvs.models import cache_folder

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PROMPTS = 512


def main() -> None:
    """Measure what was asked for, keep the rest of `results.json` as it is."""
    options = arguments()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results.setdefault("cases", {})
    results.setdefault("tuning", {})
    results["machine"] = {
        "processor": processor(),
        "count": os.cpu_count(),
        "threads": options.threads,
        "device": options.device,
        "model": options.model,
    }
    for name in options.cases:
        if options.tune and name in TUNED:
            results["tuning"][name] = tune(CASES[name], TUNED[name], options)
        elif not options.tune:
            results["cases"][name] = measure(CASES[name], options)
    if options.write:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write_report(results, HERE / "README.md")
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(write_report(results, Path(folder) / "README.md"))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repetitions", type=int, default=7, help="updates that count, a side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="OMP_NUM_THREADS")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--model", default=RANDOM_LLAMA, help="or smollm2-135m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-other", action="store_true", help="leave the other rivals out")
    parser.add_argument("--tune", action="store_true", help="try TRL's batch sizes instead")
    parser.add_argument("--write", action="store_true", help="write results.json and README.md")
    cache = cache_folder() / "benchmarks"
    parser.add_argument("--trl-venv", type=Path, default=cache / "trl-1.12.0")
    parser.add_argument("--material", type=Path, default=cache / "throughput")
    return parser.parse_args()


def processor() -> str:
    """Return the processor's name and what it can do with bfloat16, where Linux says so."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.machine()
    said = dict(
        (part.strip() for part in line.split(":", 1))
        for line in info.read_text(encoding="utf-8").splitlines()
        if ":" in line
    )
    flags = set(said.get("flags", "").split()) & {"avx512f", "avx512_bf16", "amx_bf16"}
    name = said.get("model name", platform.machine())
    return f"{name} ({', '.join(sorted(flags))})" if flags else name


def start(case: Case, side: Side, options: argparse.Namespace) -> Worker:
    """Start the worker of a side."""
    material = write_material(
        options.material, options.model, case.prompt_tokens, PROMPTS, options.seed
    )
    settings = {
        **case.settings(side),
        "folder": str(material),
        "device": options.device,
        "seed": options.seed,
    }
    python = trl_python(options.trl_venv) if side.in_trl else sys.executable
    return Worker(python, HERE / side.script, settings, options.threads)


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Let the sides of a case take turns; the first turn warms up and does not count.

    Returns:
        `sides`: for each its label, what its worker said when ready, and of each update.
    """
    others = case.others[:1] if options.first_other else case.others
    sides = (case.ours, *others)
    workers: list[Worker] = []
    updates: list[list[dict[str, Any]]] = [[] for _ in sides]
    try:
        for side in sides:
            workers.append(start(case, side, options))
        for turn in range(options.repetitions + 1):
            for side, worker, made in zip(sides, workers, updates, strict=True):
                said = worker.update()
                print(
                    f"{case.title} | {side.label} | turn {turn}: {said['seconds']:.2f} s",
                    flush=True,
                )
                if turn:
                    made.append(said)
    finally:
        for worker in workers:
            worker.close()
    return {
        "sides": [
            {"label": side.label, "settings": side.settings, **worker.hello, "updates": made}
            for side, worker, made in zip(sides, workers, updates, strict=True)
        ],
    }


def tune(case: Case, sizes: tuple[int, ...], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time TRL at several batch sizes, one worker after the other.

    Returns:
        For each: `bf16`, `batch` (of training and rollout alike), `seconds`, `cpu_seconds`
        and `peak` of its best update.
    """
    found = []
    for bf16 in (False, True):
        for size in sizes:
            worker = start(case, trl(size, size, bf16=bf16), options)
            try:
                worker.update()
                made = [worker.update() for _ in range(options.repetitions)]
            finally:
                worker.close()
            best = min(made, key=lambda said: said["seconds"])
            kept = {name: best[name] for name in ("seconds", "cpu_seconds", "parts", "peak")}
            found.append({"bf16": bf16, "batch": size, **kept})
            print(f"TRL, bf16 {bf16}, batch {size}: {best['seconds']:.2f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
