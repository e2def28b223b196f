"""`EpisodeBatch`: the arrays under both environments, and rewards with more to say."""

from typing import Any

import numpy as np
import pytest

from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError
from textenvs.rewards import BaseReward, RewardResult
from textenvs.rewards.base import Term


class PerToken(BaseReward):
    """Two terms, and a share for each token."""

    name = "per_token"

    def __call__(self, episodes: Any) -> RewardResult:
        one = np.ones(len(episodes))
        terms = {
            "one": Term(one, 2.0, ("scored",) * len(one)),
            "three": Term(3 * one, -1.0, ("scored",) * len(one)),
        }
        spread = [np.full(n, -1.0 / n) for n in (len(e.completion_ids) for e in episodes)]
        return RewardResult(2 * one - 3 * one, terms, spread)


@pytest.fixture
def batch(toy: dict[str, Any]) -> EpisodeBatch:
    """Three rows under way, of prompts 0, 1 and 2."""
    made = EpisodeBatch(**{**toy, "reward": PerToken()}, num_rows=3)
    for row in range(3):
        made.start(row, row)
    return made


def test_rows_move_alone(batch: EpisodeBatch) -> None:
    start, before = batch.num_prompt_columns, batch.observation()
    assert batch.advance(np.array([70, 80]), np.array([2, 0])) is None
    assert batch.advance(np.array([71]), np.array([2])) is None
    assert batch.lengths.tolist() == [1, 0, 2]
    assert batch.input_ids[:, start : start + 2].tolist() == [[80, 0], [0, 0], [70, 71]]
    assert batch.attention_mask[:, start:].sum(1).tolist() == [1, 0, 2]
    assert not before["attention_mask"][:, start:].any(), "an observation is a copy"
    assert batch.completion_ids(2) == [70, 71]


def test_finished_rows_only(batch: EpisodeBatch) -> None:
    eos = batch.tokenizer.eos_id
    batch.advance(np.array([70, 71, 72]))
    finished = batch.advance(np.array([eos, 80, eos]))
    assert finished is not None
    assert finished.rows.tolist() == [0, 2] and finished.rewards.tolist() == [-1.0, -1.0]
    assert batch.over.tolist() == [True, False, True]
    assert [info["completion_ids"] for info in finished.infos] == [[70, eos], [72, eos]]


def test_terms_are_weighted_and_tokens_told(batch: EpisodeBatch) -> None:
    batch.advance(np.array([70, 70, 70]))
    finished = batch.advance(np.full(3, batch.tokenizer.eos_id))
    assert finished is not None
    for info in finished.infos:
        assert info["reward_terms"] == {"one": 2.0, "three": -3.0}
        assert info["reward_raw"] == {"one": 1.0, "three": 3.0}
        assert info["reward_per_token"] == [-0.5, -0.5]


def test_a_restarted_row_is_clean(batch: EpisodeBatch) -> None:
    for _ in range(3):
        batch.advance(np.full(3, 70))
    batch.start(1, 1)
    fresh = EpisodeBatch(**batch.task_arguments(), num_rows=1)
    fresh.start(0, 1)
    assert np.array_equal(batch.input_ids[1], fresh.input_ids[0])
    assert np.array_equal(batch.attention_mask[1], fresh.attention_mask[0])


def test_stop_beats_the_budget_and_the_first_stop_cuts(toy: dict[str, Any]) -> None:
    batch = EpisodeBatch(**{**toy, "max_new_tokens": 3}, num_rows=1, stop=("cd", "bc"))
    batch.start(0, 0)
    finished = None
    for token in batch.tokenizer.encode_completion("abc"):
        finished = batch.advance(np.array([token]))
    assert finished is not None
    assert finished.infos[0]["finish_reason"] == "stop"
    assert finished.infos[0]["completion"] == "a"


def test_padding_and_other_special_tokens_are_no_text(batch: EpisodeBatch) -> None:
    pad, eos = batch.tokenizer.pad_id, batch.tokenizer.eos_id
    batch.advance(np.full(3, pad))
    finished = batch.advance(np.full(3, eos))
    assert finished is not None
    assert finished.infos[0]["completion"] == "" and finished.infos[0]["completion_ids"] == [
        pad,
        eos,
    ]
    assert batch.attention_mask[0, batch.num_prompt_columns] == 1, "an acted padding token is seen"


def test_as_many_prompts_as_texts(batch: EpisodeBatch) -> None:
    with pytest.raises(ConfigError, match="got 2 prompts for 1 texts; give one each"):
        batch.score(["p0", "p1"], ["a"])
