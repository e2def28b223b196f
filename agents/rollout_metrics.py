"""What a rollout's final infos say, as metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def term_metrics(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each reward term, weighted and raw, and how often it was scored.

    Args:
        infos: The final info of each scored episode.

    Returns:
        For each term that any of them scored: `reward/NAME`, the mean over all episodes of
        what it added to the total (nothing where its gate was shut); `reward_raw/NAME`, the
        mean score of the episodes it scored; `reward_scored/NAME`, their share.
    """
    metrics = {}
    for name in dict.fromkeys(name for info in infos for name in info["reward_raw"]):
        weighted = [info["reward_terms"].get(name, 0.0) for info in infos]
        raw = [info["reward_raw"][name] for info in infos if name in info["reward_raw"]]
        metrics[f"reward/{name}"] = float(np.mean(weighted))
        metrics[f"reward_raw/{name}"] = float(np.mean(raw))
        metrics[f"reward_scored/{name}"] = len(raw) / len(infos)
    return metrics


def failure_counts(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how many episodes a guarded reward failed on, in all and by kind.

    Args:
        infos: The final info of each episode.
    """
    kinds = Counter(info["reward_failure"] for info in infos if "reward_failure" in info)
    by_kind = {f"failures/{kind}": float(count) for kind, count in sorted(kinds.items())}
    return {"failures": float(kinds.total()), **by_kind}
