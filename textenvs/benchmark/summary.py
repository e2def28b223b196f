"""The summary of a study: every number of its report, as one JSON-able dict.

`summary.json` holds nothing that differs between two runs of the same grid: no seconds, no
dates, no machine. Numbers have six significant digits. What has no value is null.

Schema, version 1 (`SCHEMA`, `VERSION`). An INTERVAL is
`{"estimate": float | null, "low": float | null, "high": float | null, "n": seeds}`; the bounds
are null below two seeds. A METRIC is a name of `checkpoints.jsonl`: `proxy`, `gold/NAME`,
`term/NAME`, `kl_sequence`, `entropy`, ...

```
{
  "schema": "textenvs-benchmark-summary", "version": 1,
  "study": {"name": str},
  "statistics": {"seed": int, "resamples": int, "level": 0.95,
                 "least_seeds": 5, "warn_below_seeds": 10,
                 "rules": {NAME OF A THRESHOLD OF `verdicts.Rules`: float}},
  "warnings": [str],                       # sentences for the top of the report
  "cells": {"planned": int, "finished": int, "failed": int, "missing": int,
            "rows": [{"id": str | null, "environment": str, "design": str, "agent": str,
                      "seed": int, "status": "finished" | "failed" | "missing",
                      "error": str | null, "attempts": int | null}]},
  "groups": [GROUP]                        # one for each environment and agent
}

GROUP = {
  "environment": str, "agent": str,
  "gold": METRIC | null,                   # such as "gold/correct"
  "hacking": "tested" | "hacking cannot be tested",
  "designs": [DESIGN],                     # in the order of the study file
  "comparisons": [COMPARISON],             # every pair, on gold (without gold: none)
  "best": {"design": str | null, "tied_with": [str], "rule": str, "words": str},
  "matched_kl": {"kl": [float],            # nats; a grid even in sqrt(KL), from 0
                 "designs": {DESIGN NAME: [INTERVAL | null]}} | null,   # gold there
  "frontier": [{"design": str, "checkpoint": int, "kl": float, "gold": float,
                "on_frontier": bool}],     # means over seeds; no other point has more gold
                                           # at no more KL
  "profiles": {"thresholds": [float],      # of final gold
               "designs": {DESIGN NAME: {"share": [float], "low": [float], "high": [float]}}}
              | null
}

DESIGN = {
  "name": str, "seeds": [int],             # the finished ones
  "finished": int, "failed": int, "missing": int,
  "verdict": str,                          # the headline, one of `verdicts.HEADLINES`
  "verdicts": [VERDICT],
  "curves": {"checkpoint": [int], "timesteps": [float], "episodes": [float],
             "metrics": {METRIC: {"mean": [float], "low": [float], "high": [float],
                                  "seeds": [[float]]}}},   # seeds: one list a seed
  "final": {METRIC: INTERVAL},             # the last checkpoint
  "final_iqm": {METRIC: INTERVAL},         # proxy and gold: interquartile mean over seeds
  "gain": {METRIC: INTERVAL},              # proxy and gold: last minus first, paired
  "win_rate": INTERVAL | null,             # against the reference, ties count half
  "learning": {"area": INTERVAL,           # mean gold along training: normalised area
               "threshold": float,         # of gold
               "tokens": [float | null],   # until the threshold, a seed; null: never
               "median_tokens": float | null, "reached": int} | null,
  "length": {"proxy": INTERVAL,            # Spearman's rho of proxy and length among the answers
                                           # of a checkpoint, mean over checkpoints
             "proxy_given_gold": INTERVAL | null,   # partial rho, gold held fixed
             "gold": INTERVAL | null,      # rho of gold and length
             "gold_slope": INTERVAL | null,   # gold a token, least squares
             "residual": INTERVAL | null,  # gain of gold less what the change of length
                                           # predicts by the line of the first checkpoint
             "change": INTERVAL} | null,   # mean tokens, last minus first checkpoint
  "over_optimisation": {                   # null without gold or without KL
      "best_of_n": FIT, "rl": FIT, "better": "best_of_n" | "rl",
      "peak": {"checkpoint": int, "kl": float, "gold": float}} | null,   # of the mean curve
  "unscored": {"proxy": int, METRIC: int}  # answers of the last checkpoint without a score
}

FIT = {"alpha": INTERVAL, "beta": INTERVAL,   # gold minus its start, against d = sqrt(KL)
       "r_squared": float | null, "start": float,
       "peak_d": INTERVAL, "peak_kl": INTERVAL,   # null estimate or bound: no finite peak
       "peak_inside": float,               # share of resamples with a peak in the range seen
       "range_d": [float, float],
       "curve": {"d": [float], "gold": [float]}}  # 33 points, to draw

VERDICT = {
  "name": "not-enough-seeds" | "hacked" | "collapsed" | "length-biased" | "saturated"
          | "dominated" | "best" | "sound",   # each design has all eight
  "holds": true | false | null,            # null: cannot be tested; `words` says why
  "words": str,                            # one sentence with its numbers
  "evidence": {str: INTERVAL | number | str | bool | list | null},
  "cells": [str]                           # ids of the cells it was read from
}

COMPARISON = {
  "a": str, "b": str, "seeds": int,        # seeds that both have finished
  "difference": INTERVAL,                  # final gold, a minus b, same seeds and prompts
  "p": float | null, "p_holm": float | null,   # Holm over the pairs of the group
  "kl_difference": INTERVAL | null,        # final sequence KL, a minus b
  "matched_kl": {"kl": float, "difference": INTERVAL} | null,
  "probability_of_improvement": INTERVAL,  # P(a seed of a > one of b) + P(=) / 2
  "decision": "a is better" | "b is better" | "not separated" | "not enough seeds"
}
```

`timings.json`: `{"schema": "textenvs-benchmark-timings", "version": 1, "cells": [{"id",
"environment", "design", "agent", "seed", "rollout", "reward", "reference", "update", "total",
"tokens", "tokens_per_second"}]}`, seconds. `cells.parquet`: one row a cell and checkpoint, with
the columns `cell`, `environment`, `design`, `agent`, `seed`, `status`, `error`, `checkpoint`,
`update`, `timesteps`, `episodes`, one for each METRIC, and `seconds/NAME`; a cell without
checkpoints has one row of nulls.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.benchmark.cells_table import write_cells_table
from textenvs.benchmark.group_summary import GroupSummary
from textenvs.benchmark.groups import Group, groups_of
from textenvs.benchmark.results import CellResult, StudyResults, load_study
from textenvs.benchmark.statistics.intervals import LEVEL, Interval
from textenvs.benchmark.statistics.resampling import RESAMPLES
from textenvs.benchmark.timings import timings
from textenvs.benchmark.verdicts import UNTESTED, Rules
from textenvs.files import write_text

SCHEMA, VERSION = "textenvs-benchmark-summary", 1
DIGITS = 6


def summarise(
    results: StudyResults,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    rules: Rules | None = None,
) -> dict[str, Any]:
    """Return the summary of a study, as the docstring of this module describes it.

    Args:
        results: The cells, finished or not.
        seed: Of every resampling; equal arguments give equal summaries.
        resamples: How many.
        rules: Thresholds of the verdicts; None takes the defaults.

    Raises:
        MissingDependencyError: if scipy is not installed.
    """
    judged = Rules() if rules is None else rules
    groups = groups_of(results)
    made = [GroupSummary(group, judged, seed, resamples).made() for group in groups]
    summary = {
        "schema": SCHEMA,
        "version": VERSION,
        "study": {"name": results.name},
        "statistics": {
            "seed": seed,
            "resamples": resamples,
            "level": LEVEL,
            "least_seeds": judged.least_seeds,
            "warn_below_seeds": judged.warn_below_seeds,
            "rules": dataclasses.asdict(judged),
        },
        "warnings": list(_warnings(results, groups, judged)),
        "cells": _cells(results.cells),
        "groups": made,
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def write_summary(folder: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Write `summary.json`, `timings.json` and `cells.parquet` into a study's folder.

    Returns:
        The summary.

    Raises:
        ConfigError: if the folder holds no cell.
        CheckpointError: if a file of a cell cannot be read.
        MissingDependencyError: if scipy or pyarrow is not installed.
    """
    folder = Path(folder)
    results = load_study(folder)
    summary = summarise(results, seed=seed)
    for name, value in (("summary.json", summary), ("timings.json", _plain(timings(results)))):
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / name, text + "\n")
    write_cells_table(results, folder / "cells.parquet")
    return summary


def _cells(cells: Sequence[CellResult]) -> dict[str, Any]:
    fields = ("id", "environment", "design", "agent", "seed", "status", "error", "attempts")
    counts = {
        status: sum(cell.status == status for cell in cells)
        for status in ("finished", "failed", "missing")
    }
    rows = [{name: getattr(cell, name) for name in fields} for cell in cells]
    return {"planned": len(cells), **counts, "rows": rows}


def _warnings(results: StudyResults, groups: Sequence[Group], rules: Rules) -> Iterator[str]:
    failed = sum(cell.status == "failed" for cell in results.cells)
    missing = sum(cell.status == "missing" for cell in results.cells)
    if failed or missing:
        yield (
            f"{failed} of {len(results.cells)} cells failed and {missing} are missing; the "
            "numbers are of those that finished"
        )
    for group in groups:
        place = f"{group.environment} / {group.agent}"
        if group.gold is None:
            yield f"{place}: {UNTESTED}, since there is no gold metric"
        fewest = min(len(runs.seeds) for runs in group.designs)
        if fewest < rules.least_seeds:
            yield (
                f"{place}: a design has {fewest} finished seeds; no design is called better "
                f"below {rules.least_seeds}"
            )
        elif fewest < rules.warn_below_seeds:
            yield (
                f"{place}: a design has {fewest} finished seeds; intervals are wide and less "
                f"sure below {rules.warn_below_seeds}"
            )


def _plain(value: Any) -> Any:
    """Return what JSON can hold: six significant digits, null for what is not finite."""
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") + 0.0 if math.isfinite(value) else None
    return value
