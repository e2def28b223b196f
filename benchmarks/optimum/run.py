"""How near do the learners come to the exact optimum of reward minus beta times KL?

`OMP_NUM_THREADS=1 python benchmarks/optimum/run.py --jobs 2 --write` trains every learner of
`learners.py` at every beta and seed and writes README.md beside this file. A run whose result
is in the run folder is not run again; without `--write` the report is printed.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from entropy_bonus import bonus_limit
from learners import ENV, LEARNERS, fresh_policy
from report import Results, report

from agents.policy import CausalLMPolicy
from textenvs.enumeration import Completions
from textenvs.optimum import objective, optimum

HERE = Path(__file__).parent
BETAS = (0.02, 0.05, 0.08)
FIRST_SEED = 10
"""The configurations were chosen on seeds below."""


def measure(name: str, beta: float, seed: int) -> dict[str, float]:
    """Train a learner once and return what its policy is worth, all of it exact.

    Returns:
        `share` of J* and the `normalised` share of the way to it; J of the policy as `j` and
        `j_untrained`, its `reward` and its `kl` in nats; `optimum`, `optimum_reward` and
        `optimum_kl` of the best policy; the share of J* at the `bonus_limit`, see
        `entropy_bonus.py`; `seconds` of processor time in training.
    """
    torch.set_num_threads(1)
    env: Any = gym.make(ENV).unwrapped
    policy = fresh_policy(env.tokenizer.vocab_size, seed, LEARNERS[name].critic)
    reference = policy.reference()
    best = optimum(env.completions, beta, reference)
    limit = bonus_limit(env.completions, reference, beta)
    untrained = value(policy, env.completions, beta, reference)
    began = time.process_time()
    LEARNERS[name].train(policy, reference, beta, seed)
    seconds = time.process_time() - began
    reward = value(policy, env.completions, 0.0, reference)
    j = value(policy, env.completions, beta, reference)
    return {
        "share": j / best,
        "normalised": (j - untrained) / (best - untrained),
        "j": j,
        "j_untrained": untrained,
        "reward": reward,
        "kl": (reward - j) / beta,
        "optimum": float(best),
        "optimum_reward": best.reward,
        "optimum_kl": best.kl,
        "bonus_limit": limit / best,
        "seconds": seconds,
    }


def value(policy: CausalLMPolicy, completions: Completions, beta: float, reference: Any) -> float:
    """Return J of a policy as it is now."""
    current = policy.reference()
    current.bind(completions.prompt_ids.shape[1], completions.vocab_size)
    return objective(completions, current.completion_logprobs, beta, reference)


def kept(folder: Path, name: str, beta: float, seed: int) -> dict[str, float]:
    """Return the result of a run from its file, running it first if there is none."""
    path = folder / f"{name}-{beta:g}-{seed}.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measure(name, beta, seed), indent=2) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def run_all(
    folder: Path, names: Sequence[str], betas: Sequence[float], seeds: Sequence[int], jobs: int
) -> Results:
    """Return every result, with so many runs side by side."""
    cases = list(itertools.product(names, betas, seeds))
    results: Results = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        columns = zip(*((folder, *case) for case in cases), strict=True)
        for (name, beta, seed), result in zip(cases, pool.map(kept, *columns), strict=True):
            print(f"{name} beta {beta:g} seed {seed}: {result['share']:.4f} of J*", flush=True)
            results.setdefault((name, beta), []).append(result)
    return results


def main() -> None:
    """Run the learners and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    parser.add_argument("--betas", nargs="+", type=float, default=list(BETAS))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/optimum"))
    parser.add_argument("--write", action="store_true", help="write README.md")
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    results = run_all(given.runs, given.only, given.betas, seeds, given.jobs)
    command = f"OMP_NUM_THREADS=1 python benchmarks/optimum/run.py --jobs {given.jobs} --write"
    text = report(results, given.betas, seeds, command)
    if given.write:
        (HERE / "README.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
