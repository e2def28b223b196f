"""Which rollouts are shown, and how their tokens look."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.report.rollout_view import SHOWN_TOKENS, Rollout, RolloutView, view
from textenvs.benchmark.report.rollouts import (
    MOST_SHOWN,
    PICKS,
    per_pick,
    pick,
    read_recording,
    read_rollouts,
)


def rollout(
    name: str = "p", proxy: float | None = 0.0, gold: float | None = 0.0, **more: Any
) -> Rollout:
    return Rollout(name, "prompt", more.pop("completion", "text"), proxy, gold, **more)


def shown(**more: Any) -> RolloutView:
    return view(rollout(**more), {})


def test_best_worst_and_unearned_are_picked_once() -> None:
    found = [rollout(f"p{i}", proxy=i / 10, gold=i / 10) for i in range(10)]
    found.append(rollout("hack", proxy=5.0, gold=0.05))
    picks = {why: [r.prompt_id for r in kept] for why, kept in pick(found, 2)}
    assert picks["Most reward at least gold"][0] == "hack"
    assert picks["Best"] == ["p9", "p8"]
    assert picks["Worst"] == ["p0", "p1"]
    assert [*picks] == ["Best", "Worst", "Most reward at least gold"]


def test_reward_that_follows_gold_is_no_unearned_reward() -> None:
    found = [rollout(f"p{i}", proxy=float(i), gold=float(i)) for i in range(5)]
    assert "Most reward at least gold" not in dict(pick(found, 2))


def test_without_gold_the_picks_go_by_proxy() -> None:
    found = [rollout(f"p{i}", proxy=float(i), gold=None) for i in range(5)]
    picks = {why: [r.prompt_id for r in kept] for why, kept in pick(found, 1)}
    assert picks == {"Best": ["p4"], "Worst": ["p0"]}


def test_unscored_answers_are_no_worst_ones() -> None:
    found = [rollout("none", None, None), rollout("nan", math.nan, 0.0), rollout("a", 1.0, 1.0)]
    assert {r.prompt_id for _, kept in pick(found, 3) for r in kept} == {"a"}
    assert pick([], 3) == []


def test_a_page_shows_no_more_than_its_cap() -> None:
    for designs in (1, 5, 20, 25, 60, 100):
        assert designs * PICKS * per_pick(designs) <= MOST_SHOWN
    assert per_pick(5_000) == 1


def test_shades_are_thirds_of_the_answers_largest() -> None:
    made = shown(
        completion="abcde",
        tokens=tuple("abcde"),
        token_rewards=(3.0, -3.0, 1.0, 0.4, 0.0),
        token_kl=(0.0, 0.1, 0.6, 0.2, -0.6),
    )
    assert [piece.reward for piece in made.pieces] == [3, -3, 1, 0, 0]
    assert [piece.kl for piece in made.pieces] == [0, 1, 3, 1, 3]
    assert made.pieces[1].classes == "rn3 k1"
    assert made.pieces[0].note == "reward +3, KL +0 nats"


def test_spans_are_marked_to_the_letter() -> None:
    made = shown(
        completion="the old film", tokens=("the ol", "d fi", "lm", ""), spans=((4, 7), (8, 12))
    )
    assert [(piece.text, piece.matched) for piece in made.pieces] == [
        ("the ", False),
        ("ol", True),
        ("d", True),
        (" ", False),
        ("fi", True),
        ("lm", True),
    ]
    assert made.plain == "the old film" and made.cut == ""


def test_spans_that_fit_no_token_are_left_out_and_said() -> None:
    made = shown(completion="abc", tokens=("x", "y"), spans=((0, 1),))
    assert not any(piece.matched for piece in made.pieces)
    assert "matched spans are not known" in made.cut


def test_tokens_of_one_character_are_shown_as_one() -> None:
    made = shown(
        completion="世!",
        tokens=("", "", "世", "!"),
        token_rewards=(1.0, 1.0, 1.0, 0.0),
    )
    assert [piece.text for piece in made.pieces] == ["世", "!"]
    assert made.pieces[0].note == "reward +3"


def test_the_end_of_sequence_carries_its_reward() -> None:
    made = shown(completion="a", tokens=("a", ""), token_rewards=(0.0, 2.0), finish_reason="eos")
    assert [(piece.text, piece.reward) for piece in made.pieces] == [("a", 0), ("<eos>", 3)]


def test_what_a_screen_would_act_on_is_spelled_out() -> None:
    made = shown(completion="", tokens=("\x1b[31m", "\u202eabc", "\x00", "\u200b"))
    assert made.plain == "␛[31m<U+202E>abc␀<U+200B>"


def test_long_answers_and_prompts_are_cut_and_it_is_said() -> None:
    long = view(Rollout("p", "x" * 10_000, "a" * 2_000, 1.0, 1.0, tokens=("a",) * 2_000), {})
    assert len(long.plain) == SHOWN_TOKENS
    assert "600 of 2,000 tokens" in long.cut and "6,000 of 10,000 characters" in long.cut
    bare = view(Rollout("p", "", "a" * 100_000, 1.0, 1.0), {})
    assert len(bare.plain) == 6_000 and "first 6,000 characters" in bare.cut


@pytest.mark.parametrize(
    "line",
    ['{"torn": "li', "[]", "null", "{}", '{"tokens": 3, "spans": [["a"], 5], "gold": [1]}'],
)
def test_damaged_lines_are_survived(tmp_path: Path, line: str) -> None:
    whole = {
        "prompt_id": "p",
        "prompt": "q",
        "completion": "a",
        "tokens": ["a"],
        "token_rewards": [1.0, None],
        "token_kl": ["NaN"],
        "proxy": None,
        "gold": {"correct": 1},
        "spans": [[0, 1]],
    }
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(whole) + "\n" + line)
    found = list(read_rollouts(path, "correct", "seed 0"))
    assert found[0].proxy is None and found[0].gold == 1.0 and found[0].spans == ((0, 1),)
    assert all(view(each, {}).title for each in found[:1])
    assert list(read_recording(path, "correct"))[0].prompt_id == "p"
    assert list(read_rollouts(tmp_path / "absent", None, "")) == []


def test_the_kl_of_a_recording_is_that_of_its_log_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    row: dict[str, Any] = {
        "completion": "ab",
        "tokens": ["a", "b"],
        "completion_ids": [1, 2],
        "logprobs": [-1.0, -2.0],
        "kl": {"coef": 0.5, "reference_logprob": [-1.5, -1.0], "terms": [-0.25, 0.5]},
        "values": [0.1, 0.2],
    }
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "logprobs": None}))
    measured, charged = read_recording(path, None)
    assert measured.token_kl == pytest.approx((0.5, -1.0))
    assert charged.token_kl == pytest.approx((0.5, -1.0))
