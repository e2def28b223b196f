"""What a set of rankings holds, and how far length alone tells which answer is chosen."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from agents.evaluation import Interval, bootstrap_mean, clustered_mean
from agents.preferences.gold import Gold, agreement
from agents.preferences.rankings import Pair, Ranking, RankingSet, pairs
from textenvs.errors import ConfigError

LENGTH_WARNING = 0.6
"""Above this share of the pairs, the length of an answer tells which one is chosen so often
that a reward model may learn little else."""
Statistics = dict[str, Interval | float | int]


def statistics(
    rankings: Sequence[Ranking],
    *,
    gold: Gold | Sequence[Ranking] | None = None,
    seed: int = 0,
) -> Statistics:
    """Return what the rankings hold, what length tells, and how far a gold standard agrees.

    Lengths are in characters. Intervals are of 95%, over groups or prompts.

    Args:
        rankings: At least one.
        gold: As in `agents.preferences.gold`; None compares with nothing.
        seed: Of the bootstrap.

    Returns:
        - `prompts`, `groups`, `answers`, `pairs`, `tied pairs`: numbers.
        - `answers a ranking`: mean.
        - `longer is chosen`: share of pairs in which the chosen answer is the longer one,
          equal lengths counting 1/2.
        - `length ruler`: accuracy of the better one of the rules "longer is better" and
          "shorter is better".
        - `rank-length correlation`: Spearman's, of worth and length within each ranking, mean
          over rankings; above 0 the better answers are longer. Absent where all lengths tie.
        - `chosen length`, `rejected length`: means over pairs.
        - `gold pairs`, `gold agreement`: pairs in which the gold standard prefers one, and
          the share of them in which it is the chosen one; the share is absent without a pair,
          both without a gold standard.

    Raises:
        ConfigError: if there is no ranking.
    """
    if not rankings:
        raise ConfigError("there is no ranking to describe; give at least one")
    found = pairs(rankings)
    every = sum(len(r.answers) * (len(r.answers) - 1) // 2 for r in rankings)
    told: Statistics = {
        "prompts": len({(r.prompt, r.prompt_id) for r in rankings}),
        "groups": len({pair.group for pair in found}),
        "answers": sum(len(r.answers) for r in rankings),
        "answers a ranking": float(np.mean([len(r.answers) for r in rankings])),
        "pairs": len(found),
        "tied pairs": every - len(found),
        **_lengths(found, seed),
    }
    correlations = [c for c in map(_length_correlation, rankings) if c is not None]
    if correlations:
        told["rank-length correlation"] = bootstrap_mean(np.array(correlations), seed=seed)
    if gold is not None:
        told["gold pairs"], agreed = agreement(rankings, gold, seed=seed)
        if agreed is not None:
            told["gold agreement"] = agreed
    return told


def _lengths(found: Sequence[Pair], seed: int) -> Statistics:
    lengths = np.array([(len(pair.chosen), len(pair.rejected)) for pair in found], float)
    longer = (np.sign(lengths[:, 0] - lengths[:, 1]) + 1) / 2
    chosen_longer = clustered_mean(longer.tolist(), [pair.group for pair in found], seed=seed)
    return {
        "longer is chosen": chosen_longer,
        "length ruler": max(chosen_longer.mean, 1 - chosen_longer.mean),
        "chosen length": float(lengths[:, 0].mean()),
        "rejected length": float(lengths[:, 1].mean()),
    }


def _length_correlation(ranking: Ranking) -> float | None:
    """Return Spearman's correlation of worth and length; None where all lengths are the same."""
    lengths = [len(text) for text in ranking.answers]
    if len(set(lengths)) < 2:
        return None
    worth, length = _centred_ranks([-rank for rank in ranking.ranks]), _centred_ranks(lengths)
    return float(worth @ length / np.sqrt((worth @ worth) * (length @ length)))


def _centred_ranks(values: Sequence[int]) -> np.ndarray:
    """Return float64 [K], the rank of each value less the mean rank; equals share theirs."""
    _, row, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(sizes) - (sizes - 1) / 2
    return np.asarray(ranks[row] - (len(values) + 1) / 2)


def statistics_table(title: str, told: Mapping[str, Interval | float | int]) -> Table:
    """Return the statistics as a table of two columns."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in told.items():
        table.add_row(name, _cell(value))
    return table


def remarks(rankings: Sequence[Ranking], told: Mapping[str, Interval | float | int]) -> list[str]:
    """Return what a reader must know beside the numbers, one sentence each.

    What was left out, what was measured on the way, the notes of a `RankingSet`; and a
    warning where the length of an answer tells which one is chosen.
    """
    said = []
    if isinstance(rankings, RankingSet):
        counted = ", ".join(f"{what} {times}" for what, times in rankings.counts.items())
        said += [f"Left out or merged: {counted}."] if counted else []
        said += [f"{what}: {value:.1%} of pairs." for what, value in rankings.measures.items()]
        said += [f"Note: {note}." for note in rankings.notes]
    ruler = _mean(told["length ruler"])
    if ruler > LENGTH_WARNING:
        word = "longer" if _mean(told["longer is chosen"]) > 0.5 else "shorter"
        said.append(
            f"Warning: the rule that the {word} answer is better would be right in {ruler:.1%} "
            f"of pairs, more than {LENGTH_WARNING:.0%}. A reward model trained on them may learn "
            "length; compare its accuracy with this share."
        )
    return said


def _mean(value: Interval | float | int) -> float:
    return value.mean if isinstance(value, Interval) else value


def _cell(value: Interval | float | int) -> str:
    if isinstance(value, Interval):
        return f"{value.mean:.3f}  [{value.low:.3f}, {value.high:.3f}]"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
