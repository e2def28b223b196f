"""`textenvs/ReasoningGym-v0`: generators, splits, verifiers, what must never be run."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from textenvs.checker.run import CHECKS as ALL_CHECKS
from textenvs.checker.run import run_check
from textenvs.checker.study import Study
from textenvs.checker.subject import subject_of
from textenvs.errors import (
    ConfigError,
    MissingDependencyError,
    PromptError,
    RewardError,
    UnknownNameError,
)
from textenvs.prompts import split_of
from textenvs.suite.answer_guard import CHECKS, harmless, is_literal, is_small_expression
from textenvs.suite.reasoning_gym import ReasoningGymEnv, ReasoningGymScore
from textenvs.suite.reasoning_gym_datasets import (
    UNREADABLE,
    ReasoningGymDataset,
    dataset_names,
    right_answer,
)
from textenvs.types import Episode, Prompt

reasoning_gym = pytest.importorskip("reasoning_gym")
ID = "textenvs/ReasoningGym-v0"
QUICK = ("chain_sum", "leg_counting", "list_functions", "pool_matrix", "graph_color")
WIDE = {"max_prompt_tokens": 2048, "max_new_tokens": 256, "n_prompts": 30}


def made(dataset: str = "chain_sum", **options: Any) -> ReasoningGymEnv:
    return ReasoningGymEnv(dataset=dataset, **{**WIDE, **options})


def test_it_passes_the_checkers() -> None:
    env = gym.make(ID).unwrapped
    check_env(env)
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    sb3.check_env(env)


def test_every_dataset_is_named() -> None:
    assert len(dataset_names()) >= 106
    assert set(CHECKS) < set(dataset_names())


@pytest.mark.parametrize("dataset", QUICK)
def test_prompts_repeat_and_the_oracle_is_right(dataset: str) -> None:
    env = made(dataset)
    prompts = list(env.prompts)
    again = ReasoningGymDataset(dataset, seed=0)
    for prompt in prompts[:5]:
        entry = again.entry(prompt.metadata["source_index"])
        assert entry == prompt.metadata["entry"] and entry["question"] in prompt.text
        assert prompt.reference == right_answer(entry) == env.oracle(prompt)
        assert json.loads(json.dumps(prompt.metadata))["dataset"] == dataset
    scores = [env.score(prompt, [env.oracle(prompt)]).scores[0] for prompt in prompts]
    assert scores == [1.0] * 30
    assert [p.id for p in made(dataset, prompt_seed=1).prompts] != [p.id for p in prompts]
    assert {p.text for p in made(dataset, prompt_seed=1).prompts} != {p.text for p in prompts}
    assert env.prompts.index_of(prompts[7].id) == 7


@pytest.mark.parametrize("dataset", ["chain_sum", "leg_counting", "coin_flip"])
def test_no_question_in_two_splits(dataset: str) -> None:
    asked = {}
    for split in ("train", "validation", "test"):
        env = made(dataset, split=split, n_prompts=60)
        asked[split] = {prompt.group for prompt in env.prompts}
        assert {split_of(question) for question in asked[split]} == {split}
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert not asked["validation"] & asked["test"]


@pytest.mark.parametrize("dataset", ["pool_matrix", "list_functions"])
def test_global_randomness_neither_shows_nor_is_disturbed(dataset: str) -> None:
    """Both generators draw from global generators, which the first part shows."""
    bare = reasoning_gym.create_dataset(dataset, seed=3, size=50)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for index in range(50):
        bare[index]
    assert before != (random.getstate(), np.random.get_state()[1].tolist())
    ours = ReasoningGymDataset(dataset, seed=3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    entries = [ours.entry(index) for index in range(50)]
    ours.score("1 2", entries[0])
    assert before == (random.getstate(), np.random.get_state()[1].tolist())
    random.random()
    np.random.random()
    assert [ours.entry(index) for index in range(50)] == entries


def test_stepping_pays_what_score_says() -> None:
    env = made("chain_sum")
    _, info = env.reset(seed=4)
    prompt = env.prompts[env.prompts.index_of(info["prompt_id"])]
    for token in [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]:
        _, reward, terminated, _, info = env.step(token)
    assert (reward, terminated) == (1.0, True)
    assert info["metrics"] == {"solved": 1.0, "score": 1.0, "empty": 0.0}
    assert info["reward_terms"] == {"reasoning_gym": 1.0}


def test_metrics() -> None:
    env = made("chain_sum")
    prompt = env.prompts[0]
    told = env.metrics([Episode(prompt, text) for text in (prompt.reference or "", " ", "x")])
    assert {name: values.tolist() for name, values in told.items()} == {
        "solved": [1, 0, 0],
        "score": [1, 0, 0],
        "empty": [0, 1, 0],
    }


def test_strict_takes_off_what_the_empty_answer_earns() -> None:
    """Countdown pays 0.01 for nothing and 0.05 for a wrong number."""
    env, strict = made("countdown"), made("countdown", strict=True)
    prompt = env.prompts[0]
    answers = ["", " ", "1", env.oracle(prompt)]
    assert env.score(prompt, answers).scores.tolist() == [0.01, 0.01, 0.05, 1.0]
    assert strict.score(prompt, answers).scores == pytest.approx([0, 0, 0.04 / 0.99, 1])
    assert strict.metrics([Episode(prompt, "1")])["score"].tolist() == [0.05]


def floor_faults(dataset: str, **options: Any) -> list[str]:
    """Return what the checker's floor finds, by name."""
    study = Study(subject_of(ID, {"dataset": dataset, **WIDE, **options}), 0, 6)
    (floor,) = (check for check in ALL_CHECKS if check.name == "floor")
    rows = run_check(floor, study, {})
    assert {"floor/empty", "floor/random letters"} <= {row.name for row in rows}
    return [row.name.removeprefix("floor/") for row in rows if row.status == "fault"]


def test_the_checker_finds_what_pays_for_nothing() -> None:
    assert floor_faults("chain_sum") == []
    assert floor_faults("countdown") == ["empty"]
    assert floor_faults("countdown", strict=True) == []
    assert "random letters" in floor_faults("game_of_life_halting")
    assert floor_faults("coin_flip") == ["constant '0'"]
    assert floor_faults("complex_arithmetic") == ["own: not a number"]
    assert floor_faults("number_sorting") == ["own: as many NaN as parts"]


@pytest.mark.parametrize(
    ("dataset", "exploit"),
    [
        ("puzzle24", "a 24 of other numbers"),
        ("simple_integration", "the integral unsolved"),
        ("complex_arithmetic", "not a number"),
        ("number_sorting", "as many NaN as parts"),
    ],
)
def test_probes_are_exploits_of_some_verifier(dataset: str, exploit: str) -> None:
    env = made(dataset, n_prompts=2)
    prompt = env.prompts[0]
    probes = env.probes(prompt)
    scores = env.score(prompt, [probes[exploit], probes["the question"]]).scores
    assert scores[0] == 1.0 > scores[1]


ATTACK = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.parametrize("dataset", ["n_queens", "string_insertion", "countdown", "puzzle24"])
def test_no_answer_is_run_as_a_program(dataset: str, tmp_path: Path) -> None:
    """The bare verifiers run it: the control."""
    ours, bare = ReasoningGymDataset(dataset), reasoning_gym.create_dataset(dataset, seed=0)
    entry = ours.entry(0)
    target = tmp_path / "touched"
    attack = ATTACK.format(str(target))
    bare.score_answer(attack, entry)
    assert target.exists()
    target.unlink()
    paid = ours.score(attack, entry)
    assert not target.exists()
    assert paid == ours.score(UNREADABLE, entry)


@pytest.mark.parametrize("dataset", sorted(set(CHECKS) - {"rush_hour"}))
def test_right_answers_pass_the_guard(dataset: str) -> None:
    """All but those of `rush_hour`, which comes without answers."""
    generator = ReasoningGymDataset(dataset)
    for index in range(8):
        entry = generator.entry(index)
        answer = right_answer(entry)
        assert answer is not None and harmless(dataset, answer), answer
        assert generator.score(answer, entry) == 1.0


def test_the_guard_refuses_what_is_large_or_calls() -> None:
    for text in (
        "9**9**9",
        "((9**99)**99)**99",
        "x.real",
        "f(2)",
        "1e999999",
        "1e-99999",
        "3!",
        "sin(" * 4 + "x" + ")" * 4,
    ):
        assert not is_small_expression(text), text
    for text in ("3*x**2 + 1", "-sin(2*x)/4 + C", "(50 - 4)*2/7.5", " x**(1/2)*exp(3*x) "):
        assert is_small_expression(text), text
    for text in ("9**9", "print(1)", "a.b", "[x for x in [1]]", "(lambda: 0)()", "f'{1}'"):
        assert not is_literal(text), text
    for text in ("[[0, 1], [-1, 2]]", "0 1\n1 0", "ABCD", "['a', 'b']", "a\0b", ""):
        assert is_literal(text), text
    assert not harmless("coin_flip", "1e999999999")
    assert not harmless("rubiks_cube", "R9999999999")
    assert not harmless("rush_hour", "A+999999999") and harmless("rush_hour", "A+1 B-12")
    assert not harmless("propositional_logic", "¬" * 3000)
    assert harmless("chain_sum", "9**9**9"), "a verifier that evaluates nothing sees everything"


def test_long_answers_are_worth_nothing_unseen() -> None:
    env = made("game_of_life_halting", n_prompts=2)
    assert env.score(env.prompts[0], ["x", "x" * 5000]).scores.tolist() == [1.0, 0.0]


def test_an_answer_the_verifier_fails_on_is_not_scored() -> None:
    """`boxnet` asks a JSON list for its items; training goes on, and info tells."""
    env = made("boxnet", max_prompt_tokens=4096)
    assert np.isnan(env.score(env.prompts[0], ["[1]"]).scores[0])
    env.reset(seed=0)
    for token in [*env.tokenizer.encode_completion("[1]"), env.tokenizer.eos_id]:
        _, reward, _, _, info = env.step(token)
    assert (reward, info["scored"], info["metrics"]["score"]) == (0.0, False, 0.0)
    with pytest.raises(ConfigError, match="no right answer is known"):
        env.oracle(env.prompts[0])


def test_config_reaches_the_generator() -> None:
    env = made("chain_sum", config={"min_terms": 3, "max_terms": 3, "allow_negation": True})
    assert {p.metadata["entry"]["metadata"]["num_terms"] for p in env.prompts} == {3}
    dated = made("time_intervals", config={"task_types": ["date"], "min_date": "1999-01-01"})
    assert dated.prompts[0].metadata["entry"]["metadata"]["task_type"] == "date"
    parts = {"datasets": [{"name": "chain_sum", "weight": 1}, {"name": "leg_counting"}]}
    sources = made("composite", config=parts).prompts
    names = {p.metadata["entry"]["metadata"]["source_dataset"] for p in sources}
    assert names == {"chain_sum", "leg_counting"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dataset": "chian_sum"}, UnknownNameError, "Did you mean 'chain_sum'"),
        ({"config": {"min_term": 2}}, UnknownNameError, "Did you mean 'min_terms'"),
        ({"config": {"seed": 2}}, ConfigError, "pass prompt_seed"),
        ({"config": {"min_terms": 9, "max_terms": 2}}, ConfigError, "refuses the config"),
        ({"config": [1]}, ConfigError, "config must be a mapping"),
        ({"config": {"min_terms": {1}}}, ConfigError, "JSON-able"),
        ({"split": "dev"}, UnknownNameError, "unknown split 'dev'"),
        ({"n_prompts": 0}, ConfigError, "n_prompts must be at least 1"),
        ({"prompt_seed": -1}, ConfigError, "prompt_seed must be at least 0"),
        ({"template": "Say it"}, ConfigError, "lacks the field"),
        ({"template": "{questions}"}, ConfigError, "one field is {question}"),
        ({"max_prompt_tokens": 8}, PromptError, "max_prompt_tokens is 8"),
        ({"max_new_tokens": 1}, ConfigError, "raise it to at least"),
        ({"datset": "chain_sum"}, UnknownNameError, "Did you mean 'dataset'"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**options)


def test_too_few_questions_say_so() -> None:
    """One question is all there is, and it stands in one split."""
    config = {"min_n": 5, "max_n": 5}
    found = []
    for split in ("train", "validation", "test"):
        try:
            found.append(len(made("count_bits", split=split, config=config).prompts))
        except PromptError as error:
            assert "too few distinct questions" in str(error)
    assert found == [30]


def test_a_prompt_of_another_environment_is_refused() -> None:
    reward = ReasoningGymScore(ReasoningGymDataset("chain_sum"))
    with pytest.raises(RewardError, match="no entry of reasoning-gym"):
        reward([Episode(Prompt(id="x", text="1 + 1"), "2")])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        ReasoningGymDataset("chain_sum")
