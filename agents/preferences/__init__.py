"""Preferences: ranked answers, how they are built, read, split and described."""

from agents.preferences.context import REJECTED, from_context
from agents.preferences.files import read_rankings, write_rankings
from agents.preferences.gold import agreement, gold_metric, oracle_notes
from agents.preferences.judged import from_judge
from agents.preferences.rankings import (
    Pair,
    Ranking,
    RankingSet,
    pairs,
    places,
    split_by_group,
)
from agents.preferences.samples import Sampled, from_samples, sample_answers
from agents.preferences.summary import remarks, statistics, statistics_table

__all__ = [
    "REJECTED",
    "Pair",
    "Ranking",
    "RankingSet",
    "Sampled",
    "agreement",
    "from_context",
    "from_judge",
    "from_samples",
    "gold_metric",
    "oracle_notes",
    "pairs",
    "places",
    "read_rankings",
    "remarks",
    "sample_answers",
    "split_by_group",
    "statistics",
    "statistics_table",
    "write_rankings",
]
