"""Which datasets of reasoning-gym pay for nothing? The checker, on every one of them.

`python benchmarks/reasoning_gym_floor/run.py` (about eight minutes on two idle cores) judges each
dataset in a process of its own, with a limit in seconds, and writes README.md beside this
file. The folder `--runs` keeps what was measured; what is there is not measured again, so a
dataset that took too long can be judged over fewer `--prompts` in a second run.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import textenvs
from textenvs.checker.run import CHECKS, run_check
from textenvs.checker.scores import judged_prompts, mean_score
from textenvs.checker.study import Study
from textenvs.checker.subject import subject_of
from textenvs.errors import ConfigError, PromptError
from textenvs.suite.reasoning_gym_datasets import dataset_names
from textenvs.types import Prompt

HERE = Path(__file__).parent
ID = "textenvs/ReasoningGym-v0"
WIDE = {"max_prompt_tokens": 16_384, "max_new_tokens": 4_096}
WANTED = ("reward", "oracle", "floor")
OPTIONS: dict[str, dict[str, Any]] = {
    "composite": {"config": {"datasets": [{"name": "chain_sum"}, {"name": "leg_counting"}]}}
}
"""What a dataset cannot be made without."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def fitting(name: str) -> tuple[dict[str, Any], list[str]]:
    """Return options with which a dataset can be made, and the default windows it does not fit."""
    options = {"dataset": name, **OPTIONS.get(name, {})}
    misfits: list[str] = []
    while True:
        try:
            gym.make(ID, **options)
            return options, misfits
        except (ConfigError, PromptError) as error:
            tight = "max_prompt_tokens" if isinstance(error, PromptError) else "max_new_tokens"
            if tight in misfits:
                raise
            misfits.append(tight)
            options[tight] = WIDE[tight]


def looked_at(env: Any) -> list[Prompt]:
    """Return the prompts whose lengths and digest are told."""
    return [env.prompts[i] for i in range(100, 108)]


def digest(env: Any) -> str:
    """Return a digest of some prompts and their answers."""
    told = repr([(prompt.text, prompt.reference) for prompt in looked_at(env)])
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()


def judge(name: str, sampled_prompts: int) -> dict[str, Any]:
    """Return what the checker finds on one dataset, as plain data."""
    found: dict[str, Any] = {"name": name, "prompts": sampled_prompts}
    start = time.perf_counter()
    options, found["misfits"] = fitting(name)
    found["make_s"] = time.perf_counter() - start
    env = gym.make(ID, **options).unwrapped
    start = time.perf_counter()
    prompts = looked_at(env)
    found["prompt_s"] = (time.perf_counter() - start) / len(prompts)
    tokenizer = env.tokenizer
    found["prompt_tokens"] = max(len(tokenizer.encode(p.text)) for p in prompts)
    answers = [tokenizer.encode_completion(p.reference) for p in prompts if p.reference is not None]
    found["answer_tokens"] = max(map(len, answers)) + 1 if answers else None
    found["digest"] = digest(env)
    for strict in (False, True):
        study = Study(subject_of(ID, {**options, "strict": strict}), 0, sampled_prompts)
        checks = [check for check in CHECKS if check.name.partition("/")[0] in WANTED]
        rows = [row for check in checks for row in run_check(check, study, {})]
        found["strict" if strict else "raw"] = {
            "faults": [row.name for row in rows if row.status == "fault"],
            "notes": [str(row) for row in rows if row.status == "fault"],
            **paid(study, env if not strict else study.subject.fresh()),
        }
    return found


def paid(study: Study, env: Any) -> dict[str, Any]:
    """Return the mean scores of probes by name, of the oracle, and the share not scored."""
    judged = judged_prompts(study, env)
    scores = np.concatenate([j.scores for j in judged])
    names = dict.fromkeys((p.name, p.kind) for j in judged for p in j.probes)
    oracle = [j.oracle_score for j in judged if j.oracle is not None]
    return {
        "oracle": float(np.mean(oracle)) if oracle else None,
        "unscored": float(np.isnan(scores).mean()),
        "probes": [[name, kind, mean_score(judged, name)] for name, kind in names],
    }


def digests() -> dict[str, str]:
    """Return the digest of every dataset in this process."""
    made = {name: gym.make(ID, **fitting(name)[0]).unwrapped for name in dataset_names()}
    return {name: digest(env) for name, env in made.items()}


def measure(
    names: list[str], *, prompts: int, limit: float, workers: int
) -> Iterator[dict[str, Any]]:
    """Judge each dataset in a process of its own; say so where it takes too long or breaks."""
    context = multiprocessing.get_context("fork")  # the packages are imported once
    waiting, running = deque(names), {}
    while waiting or running:
        while waiting and len(running) < workers:
            name = waiting.popleft()
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_judge_and_send, args=(writer, name, prompts))
            process.start()
            writer.close()
            running[reader] = (name, process, time.monotonic() + limit)
        soonest = min(deadline for _, _, deadline in running.values())
        ready = multiprocessing.connection.wait(running, max(0.0, soonest - time.monotonic()))
        for reader in list(running):
            name, process, deadline = running[reader]
            if reader in ready:
                yield reader.recv()
            elif time.monotonic() >= deadline:
                process.kill()
                yield {"name": name, "failed": f"over {limit:.0f} s"}
            else:
                continue
            process.join()
            del running[reader]


def _judge_and_send(writer: Any, name: str, prompts: int) -> None:
    try:
        found = judge(name, prompts)
    except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
        found = {"name": name, "failed": f"{type(error).__name__}: {error}"[:200]}
    writer.send(found)


def best(found: dict[str, Any], kinds: tuple[str, ...]) -> tuple[str, float]:
    """Return the best paid probe of some kinds, by mean score."""
    of_kind = [(n, m) for n, k, m in found["probes"] if k in kinds and m is not None and m == m]
    return max(of_kind, key=lambda pair: pair[1], default=("", math.nan))


def names_where(results: list[dict[str, Any]], key: str, kind: str) -> list[str]:
    """Return the datasets whose faults under "raw" or "strict" include one that begins so."""
    return [r["name"] for r in results if any(f.startswith(kind) for f in r[key]["faults"])]


def listing(names: list[str]) -> str:
    """Return names as Markdown, or "none"."""
    return f"{len(names)}: " + ", ".join(f"`{n}`" for n in names) if names else "none"


def report(results: list[dict[str, Any]], *, limit: float) -> str:
    """Return the figures as Markdown."""
    judged = [r for r in results if "failed" not in r]
    prompts = max(r["prompts"] for r in judged)
    fewer = [r["name"] for r in judged if r["prompts"] < prompts]
    clean = {key: [r for r in judged if not r[key]["faults"]] for key in ("raw", "strict")}
    lines = [
        "# What the verifiers of reasoning-gym pay for nothing",
        "",
        f"Command: `python benchmarks/reasoning_gym_floor/run.py --prompts {prompts}`: the checks "
        f"{', '.join(f'`{name}`' for name in WANTED)} of `textenvs.checker` on every dataset, each "
        f"in a process of its own with a limit of {limit:.0f} s, over {prompts} prompts of the "
        "training split.",
        "",
        "Machine: x86_64, two cores, CPU only, shared with other work. reasoning-gym "
        f"{version('reasoning-gym')}, textenvs {textenvs.__version__}, Python "
        f"{sys.version.split()[0]}.",
        "",
        f"Of {len(results)} datasets, {len(clean['raw'])} pass with the verifier as it stands and "
        f"{len(clean['strict'])} with `strict=True`.",
        "",
        *findings(judged),
        f"- Judged over fewer prompts, for their time: {listing(fewer)}.",
        "- Could not be judged: "
        + (", ".join(f"`{r['name']}` ({r['failed']})" for r in results if "failed" in r) or "none")
        + ".",
        "",
        "Columns: the mean score of the right answer; of the best paid blank answer, as it stands "
        "and strict; of random letters; of the best paid constant; of the best paid exploit of the "
        "task or copy; the share of probes not scored; tokens of the longest of 8 prompts and "
        "answers; milliseconds to make a prompt of the training split; the checker's faults.",
        "",
        "| dataset | oracle | blank | blank, strict | letters | constant | exploit | unscored "
        "| tokens | ms | faults |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(r) for r in judged),
        "",
    ]
    return "\n".join(lines)


def findings(judged: list[dict[str, Any]]) -> list[str]:
    """Return what is worth knowing of the datasets, one item a line, with their names."""
    guessed = names_where(judged, "raw", "floor/constant") + _others(judged)
    full = [
        f"`{r['name']}` ({name.removeprefix('own: ')}: {mean:.2f})"
        for r in judged
        for name, mean in [best(r["raw"], ("letters", "constant", "task"))]
        if mean >= 0.9
    ]
    lists = {
        "Pay for an empty or white-space answer": names_where(judged, "raw", "floor/empty"),
        "The same with `strict=True`": names_where(judged, "strict", "floor/empty"),
        "Pay random letters too much": names_where(judged, "raw", "floor/random letters"),
        "Pay some constant, copy or exploit more than a third of the way from noise to the right "
        "answer (many of them have few distinct answers, so that a guess is often right)": guessed,
        "Fail on some probe (raise, or return NaN)": [
            r["name"] for r in judged if r["raw"]["unscored"] > 0
        ],
        "Give no right answer, so that the ceiling is unchecked": [
            r["name"] for r in judged if r["raw"]["oracle"] is None
        ],
        "Pay their own right answer less than 1": names_where(judged, "raw", "oracle/ceiling"),
        "Right answer is not what its tokens say": names_where(judged, "raw", "oracle/budget"),
        "Prompts do not fit 512 tokens of `tiny-lm`": [
            r["name"] for r in judged if "max_prompt_tokens" in r["misfits"]
        ],
        "Right answers do not fit 32 tokens": [
            r["name"] for r in judged if "max_new_tokens" in r["misfits"]
        ],
        "Take over 0.1 s to make a prompt": [r["name"] for r in judged if r["prompt_s"] > 0.1],
        "Depend on the hash seed of the process (set `PYTHONHASHSEED` to repeat them elsewhere)": [
            r["name"] for r in judged if not r["repeats"]
        ],
    }
    return [
        f"- Pay at least 0.9 for an answer made without solving: {', '.join(full) or 'none'}.",
        *(f"- {words}: {listing(names)}." for words, names in lists.items()),
    ]


def _others(judged: list[dict[str, Any]]) -> list[str]:
    """Return the datasets with another fault of the floor than a constant, a blank or noise."""
    constant = set(names_where(judged, "raw", "floor/constant"))
    both = names_where(judged, "raw", "floor/own") + names_where(judged, "raw", "floor/copy")
    return [name for name in dict.fromkeys(both) if name not in constant]


def _row(found: dict[str, Any]) -> str:
    raw, strict = found["raw"], found["strict"]
    constant, exploit = best(raw, ("constant",)), best(raw, ("task", "copy"))
    oracle = "none" if raw["oracle"] is None else f"{raw['oracle']:.2f}"
    answer = "?" if found["answer_tokens"] is None else found["answer_tokens"]
    cells = [
        f"`{found['name']}`",
        oracle,
        f"{best(raw, ('empty',))[1]:.3f}",
        f"{best(strict, ('empty',))[1]:.3f}",
        f"{best(raw, ('letters',))[1]:.3f}",
        f"{constant[1]:.3f} ({constant[0].removeprefix('constant ')})" if constant[1] else "0",
        f"{exploit[1]:.3f} ({exploit[0].removeprefix('own: ')})" if exploit[1] else "0",
        f"{raw['unscored']:.0%}",
        f"{found['prompt_tokens']} + {answer}",
        f"{1000 * found['prompt_s']:.1f}",
        ", ".join(fault.removeprefix("floor/") for fault in raw["faults"]) or "none",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Judge every dataset and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16, help="prompts judged a dataset")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a dataset")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/reasoning_gym_floor"))
    parser.add_argument("--digests", action="store_true", help="print a digest of each dataset")
    given = parser.parse_args()
    if given.digests:
        print(json.dumps(digests()))
        return
    if os.environ.get("PYTHONHASHSEED") != "0":  # read when Python starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    given.runs.mkdir(parents=True, exist_ok=True)
    kept = given.runs / "results.jsonl"
    results: dict[str, dict[str, Any]] = {}
    if kept.is_file():
        rows = map(json.loads, kept.read_text(encoding="utf-8").splitlines())
        results = {row["name"]: row for row in rows if "failed" not in row}
    names = [name for name in dataset_names() if name not in results]
    other = subprocess.Popen(
        [sys.executable, __file__, "--digests"],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
    )
    with kept.open("a", encoding="utf-8") as file:
        options = {"prompts": given.prompts, "limit": given.limit, "workers": given.workers}
        for found in measure(names, **options):
            results[found["name"]] = found
            file.write(json.dumps(found) + "\n")
            file.flush()
    elsewhere = json.loads(other.communicate()[0])
    for name, found in results.items():
        found["repeats"] = found.get("digest") == elsewhere[name]
    ordered = [results[name] for name in sorted(results)]
    text = report(ordered, limit=given.limit)
    (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
