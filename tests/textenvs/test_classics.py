"""The classics without a download: counting, dates, walks through a graph."""

import itertools
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import ConfigError, PromptError, UnknownNameError
from textenvs.prompts import SPLITS
from textenvs.suite.dates import WORDINGS, DatesEnv, date_of, in_words
from textenvs.suite.increasing_numbers import IncreasingNumbersEnv, published_score
from textenvs.suite.random_walks import Graph, RandomWalksEnv, random_graph
from textenvs.types import Prompt

ENVS = [IncreasingNumbersEnv, DatesEnv, RandomWalksEnv]
BUILT = [make(n_prompts=1) for make in ENVS]


def scores_of(env: Any, prompt: Prompt, texts: list[str]) -> list[float]:
    return env.score(prompt, texts).scores.tolist()


# What all have in common


@pytest.mark.parametrize("make", ENVS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_solves_every_prompt_within_the_budget(make: Any, split: str) -> None:
    env = make(split=split)
    for i in range(0, len(env.prompts), max(1, len(env.prompts) // 25)):
        prompt = env.prompts[i]
        env.reset(options={"prompt_id": prompt.id})
        ids = [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]
        for token in ids:
            _, reward, terminated, truncated, info = env.step(token)
        assert (reward, terminated, truncated) == (1.0, True, False)
        assert info["finish_reason"] == "eos"


@pytest.mark.parametrize("make", ENVS)
def test_probes_and_empty_answers_earn_little(make: Any) -> None:
    env = make(split="test")
    prompts = [env.prompts[i] for i in range(min(60, len(env.prompts)))]
    assert not any(scores_of(env, p, ["", " \n"])[k] for p in prompts for k in (0, 1))
    for name in env.probes(prompts[0]):
        paid = [scores_of(env, p, [env.probes(p)[name]])[0] for p in prompts]
        assert np.mean(paid) < 0.3, name


@pytest.mark.parametrize("make", ENVS)
def test_no_group_is_in_two_splits(make: Any) -> None:
    groups = {}
    for split in SPLITS:
        env = make(split=split)
        groups[split] = {env.prompts[i].group for i in range(len(env.prompts))}
    for one, two in itertools.combinations(SPLITS, 2):
        assert not groups[one] & groups[two]
    assert len(groups["train"]) > 5 * len(groups["test"]) > 0 or make is DatesEnv


@pytest.mark.parametrize("make", ENVS)
def test_prompts_repeat_and_the_seed_changes_their_order(make: Any) -> None:
    first = [make(prompt_seed=s).prompts[i].text for s in (0, 0, 1) for i in range(5)]
    assert first[:5] == first[5:10] != first[10:]
    env = make(n_prompts=3)
    assert len(env.prompts) == 3
    assert [env.prompts.index_of(env.prompts[i].id) for i in range(3)] == [0, 1, 2]


@given(text=st.text(max_size=60))
def test_any_text_scores_within_the_bounds(text: str) -> None:
    for env in BUILT:
        (score,) = scores_of(env, env.prompts[0], [text])
        assert 0 <= score <= 1


# IncreasingNumbers


def test_counting_by_hand() -> None:
    env = IncreasingNumbersEnv(n_numbers=4, max_step=5)
    prompt = Prompt("p", "", metadata={"start": 20})
    paid = {
        "21 22 23 24": 1.0,
        "25 30 35 40": 1.0,
        "21\n22 23\t24 25": 1.0,
        "21 22": 0.5,
        "26 27 28 29": 0.0,  # the first step is too wide
        "21 22 28 29": 0.5,
        "21 22 22 23": 0.5,
        "21 22 23 24 24": 0.8,
        "21 22 and so on it goes": 2 / 7,
        "20 21 22 23": 0.0,
        "+21 22": 0.0,
        "21, 22": 0.0,
        "21 2_2": 0.25,
        "21 ２２": 0.25,
        "2" * 5000: 0.0,
        "nan inf": 0.0,
    }
    assert dict(zip(paid, scores_of(env, prompt, list(paid)), strict=True)) == paid
    free = IncreasingNumbersEnv(n_numbers=4, max_step=None)
    assert scores_of(free, prompt, ["100 200 300 400"]) == [1.0]


def test_counting_metrics() -> None:
    env = IncreasingNumbersEnv(n_numbers=2)
    prompt = Prompt("p", "", metadata={"start": 20})
    texts = ["21 22", "21 x 22", "5 6", ""]
    metrics = env.metrics(env.batch.episodes([prompt] * 4, texts))
    assert metrics["counted"].tolist() == [2, 1, 0, 0]
    assert metrics["numbers"].tolist() == [1, pytest.approx(2 / 3), 1, 0]
    assert metrics["solved"].tolist() == [1, 0, 0, 0]
    assert metrics["published"].tolist() == [1, pytest.approx(2 / 3), 1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2 3", 0.75),
        ("1", 0.25),
        ("3 2 1", 0.25),
        ("a 1 b 2", 0.5),
        ("1 2 3 4 5 6", 1.0),
        ("", 0.0),
        ("1e3 nan 5", 0.25),
    ],
)
def test_the_published_score(text: str, expected: float) -> None:
    assert published_score(text.split(), 4) == expected


# Dates


def test_dates_by_hand() -> None:
    env = DatesEnv()
    prompt = Prompt("p", "", metadata={"date": "2021-07-14"})
    paid = {
        "2021-07-14": 1.0,
        " 2021-07-14\n": 1.0,
        "2021-07-15": 0.6,
        "2021-08-14": 0.6,
        "1999-07-14": 0.9,
        "1999-07-15": 0.5,
        "1999-01-01": 0.1,
        "2021-02-30": 0.0,
        "2021-13-14": 0.0,
        "0000-07-14": 0.0,
        "2021-7-14": 0.0,
        "20210714": 0.0,
        "２０２１-07-14": 0.0,
        "2021-07-14 2021-07-15": 0.0,
    }
    found = dict(zip(paid, scores_of(env, prompt, list(paid)), strict=True))
    assert found == pytest.approx(paid)
    assert found["2021-07-14"] == 1.0


def test_dates_metrics() -> None:
    env = DatesEnv()
    prompt = Prompt("p", "", metadata={"date": "2021-07-14"})
    texts = ["2021-07-14", "2021-07-01", "9999-99-99", "so 2021-07-14 it is", ""]
    metrics = env.metrics(env.batch.episodes([prompt] * 5, texts))
    assert metrics["exact"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["valid"].tolist() == [1, 1, 0, 0, 0]
    assert metrics["day"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["month"].tolist() == metrics["year"].tolist() == [1, 1, 0, 0, 0]
    assert metrics["published"].tolist() == [1, 1, 1, 1, 0]


def test_wordings() -> None:
    told = [in_words(date(2021, 7, 1), wording) for wording in WORDINGS]
    assert told == ["1 July 2021", "July 1, 2021", "Thursday, 1 July 2021", "the 1st of July 2021"]
    days = {11: "11th", 12: "12th", 13: "13th", 21: "21st", 22: "22nd", 23: "23rd", 30: "30th"}
    assert {day: in_words(date(2021, 7, day), "{ordinal}") for day in days} == days


def test_the_words_say_the_reference() -> None:
    env = DatesEnv(first_year=2024, last_year=2024, split="test")
    for i in range(50):
        prompt = env.prompts[i]
        asked = date_of(prompt.reference or "")
        assert asked is not None and asked.year == 2024
        assert prompt.text.rstrip().endswith(in_words(asked, prompt.metadata["wording"]))


# RandomWalks

SQUARE = Graph({"A": "BD", "B": "C", "C": "A", "D": "A"})
"""A -> B -> C -> A, and A <-> D."""


def test_shortest_paths_by_hand() -> None:
    assert SQUARE.edges == ["AB", "AD", "BC", "CA", "DA"]
    assert SQUARE.shortest_paths("A") == {"A": "A", "B": "AB", "D": "AD", "C": "ABC"}
    assert SQUARE.shortest_paths("D")["C"] == "DABC"
    assert SQUARE.is_walk("ADABC") and SQUARE.is_walk("A")
    assert not SQUARE.is_walk("BA") and not SQUARE.is_walk("") and not SQUARE.is_walk("A>B")
    assert SQUARE.legal_steps("ABA") == 1


def test_shortest_paths_are_shortest() -> None:
    """Against every walk of a small graph, listed."""
    graph = random_graph(6, 0.25, np.random.default_rng(3))
    for start in graph.successors:
        found = graph.shortest_paths(start)
        for goal in graph.successors:
            lengths = [
                length
                for length in range(1, 7)
                for rest in itertools.product(graph.successors, repeat=length - 1)
                if graph.is_walk(walk := start + "".join(rest)) and walk[-1] == goal
            ]
            assert (goal in found) == bool(lengths)
            if lengths:
                assert graph.is_walk(found[goal]) and len(found[goal]) == min(lengths)


def test_every_node_has_a_way_out() -> None:
    for seed in range(20):
        graph = random_graph(8, 0.02, np.random.default_rng(seed))
        assert all(others and node not in others for node, others in graph.successors.items())
    assert random_graph(8, 0.2, np.random.default_rng(1)) == random_graph(
        8, 0.2, np.random.default_rng(1)
    )
    assert RandomWalksEnv(task_seed=1).prompts[0] != RandomWalksEnv().prompts[0]


def test_optimality_by_hand() -> None:
    """With a limit of 10 nodes and a shortest path of s: (10 - l) / (10 - s)."""
    env = RandomWalksEnv()
    prompt = env.prompts[0]
    path = env.oracle(prompt)
    start, goal = path[0], path[-1]
    assert prompt.text == f"{start}>{goal}:"
    graph = env.reward.graph  # type: ignore[attr-defined]
    back = graph.shortest_paths(goal)
    detours = [path[:i] + graph.shortest_paths(path[i])[x] for i in (0,) for x in back]
    loops = [w + graph.shortest_paths(w[-1])[goal][1:] for w in detours if goal in back]
    loops = [w for w in loops if len(path) < len(w) < 10]
    assert loops, "the graph must allow a detour"
    for walk in loops:
        expected = (10 - len(walk)) / (10 - len(path))
        assert scores_of(env, prompt, [walk]) == [pytest.approx(expected)]
    assert scores_of(env, prompt, [path, path + "!", path[1:], start + goal]) == [1, 0, 0, 0]
    metrics = env.metrics(env.batch.episodes([prompt] * 3, [path, loops[0], start]))
    assert metrics["arrived"].tolist() == [1, 1, 0]
    assert metrics["optimal"].tolist() == [1, 0, 0]
    assert metrics["legal_steps"].tolist() == [1, 1, 0]
    assert metrics["length"].tolist() == [len(path), len(loops[0]), 1]


def test_edges_can_be_shown() -> None:
    env = RandomWalksEnv(show_edges=True)
    prompt = env.prompts[0]
    graph = env.reward.graph  # type: ignore[attr-defined]
    assert prompt.text == ",".join(graph.edges) + ";" + RandomWalksEnv().prompts[0].text
    assert prompt.context == tuple(graph.edges)
    observation, _ = env.reset(options={"prompt_id": prompt.id})
    assert (
        env.tokenizer.decode(observation["input_ids"][: len(prompt.text)].tolist()) == prompt.text
    )


def test_neighbours_are_not_asked_for() -> None:
    for split in SPLITS:
        env = RandomWalksEnv(split=split)
        graph = env.reward.graph  # type: ignore[attr-defined]
        for i in range(len(env.prompts)):
            asked = env.prompts[i].metadata
            assert asked["goal"] not in graph.successors[asked["start"]] + asked["start"]
            assert 3 <= asked["shortest"] <= 9


# Mistakes


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (IncreasingNumbersEnv, {"n_numbers": 1}, ConfigError, "n_numbers must be at least 2"),
        (IncreasingNumbersEnv, {"max_step": 0}, ConfigError, "max_step must be at least 1, got 0"),
        (IncreasingNumbersEnv, {"max_start": 9}, ConfigError, "max_start must be at least 10"),
        (IncreasingNumbersEnv, {"n_prompts": 10**6}, PromptError, "the train split has 719"),
        (IncreasingNumbersEnv, {"max_start": 10, "split": "test"}, ConfigError, "raise max_start"),
        (DatesEnv, {"first_year": 999}, ConfigError, "first_year must be between 1000 and 9999"),
        (DatesEnv, {"first_year": 2100}, ConfigError, "2100 is after last_year 2099"),
        (DatesEnv, {"n_prompts": 0}, PromptError, "must be at least 1, got 0"),
        (DatesEnv, {"n_prompts": "3"}, PromptError, "n_prompts must be at least 1, got '3'"),
        (RandomWalksEnv, {"n_nodes": 27}, ConfigError, "n_nodes must be between 4 and 26"),
        (RandomWalksEnv, {"p_edge": 1.0}, ConfigError, "p_edge must be between 0 and 1, got 1.0"),
        (
            RandomWalksEnv,
            {"n_nodes": 4, "p_edge": 0.99},
            ConfigError,
            "no pair of nodes at a distance",
        ),
        (RandomWalksEnv, {"n_prompts": 0}, PromptError, "n_prompts must be at least 1, got 0"),
        (RandomWalksEnv, {"split": "dev"}, UnknownNameError, "split"),
        (RandomWalksEnv, {"show_edge": True}, UnknownNameError, "'show_edges'"),
    ],
)
def test_bad_options(
    make: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**options)
