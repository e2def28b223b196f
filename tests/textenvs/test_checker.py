"""The checker names each fault, and finds none where there is none."""

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textenvs
from textenvs.checker import Report, Row, check
from textenvs.checker.contract import check_contract
from textenvs.checker.play import differing, global_randomness
from textenvs.checker.probes import context_copies, probe_answers
from textenvs.checker.scores import judged_prompts, mean_score
from textenvs.checker.study import Study
from textenvs.checker.subject import subject_of
from textenvs.curriculum import GrowingShare
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.types import Item, Prompt

MODES = [mode.name for mode in gym.vector.AutoresetMode]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of broken environments beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("broken_envs")


def faults(report: Report) -> set[str]:
    return {row.name for row in report.failures}


def words_of(report: Report, name: str) -> str:
    return next(row.words for row in report.rows if row.name == name)


FAULTS: dict[str, tuple[set[str], str]] = {
    "LeakyPadding": ({"leaks/padding"}, "'otter'"),
    "LeakyKey": ({"leaks/keys"}, "'answer'"),
    "LeakyPrompt": ({"leaks/prompt"}, "it shows 'otterOf otter and elk"),
    "ForgetsTokens": ({"leaks/completion"}, "after token 1"),
    "OnePromptAlone": ({"determinism/seeds"}, "32 seeds draw the one prompt 'p0' of 10"),
    "NoReplay": ({"replay/episode"}, "the replay of"),
    "ScoresOtherwise": ({"replay/score"}, "stepping '' paid -0.5, score() says -1"),
    "NoPromptId": ({"info/keys"}, "lacks 'prompt_id'"),
    "SetInInfo": ({"info/json"}, "set is not JSON serializable"),
    "OtherCompletion": ({"info/completion"}, "'otter, surely'"),
    "OtherTerms": ({"info/terms"}, "add up to 40"),
    "BudgetTruncates": ({"info/end"}, "'length' was truncated"),
    "BatchDependentReward": ({"company"}, "in a batch of 13 and -0.5 alone"),
    "OutOfBounds": ({"reward/bounds"}, "20,000 letters scores 2 on 'p0', outside [-1, 1]"),
    "RaisesOnOddText": ({"reward/odd text"}, "raises on NUL: ValueError: embedded null byte"),
    "FailingOracle": ({"oracle/ceiling"}, "on 10 of 10 prompts: 'elk' scores -0.5"),
    "LongOracle": ({"oracle/budget"}, "takes 14 tokens, but the episode ends after 6"),
    "RewardForEmpty": ({"floor/empty"}, "the empty answer ('') scores 1"),
    "RewardForNoise": ({"floor/random letters"}, "random letters score 1 on average"),
    "RewardForYes": ({"floor/constant 'yes'"}, "83% of the way from noise to the oracle"),
    "RewardForCopies": ({"floor/copy of the prompt", "floor/copy of the context"}, "100%"),
    "OwnProbe": ({"floor/own: agreement", "floor/constant 'yes'"}, "scores 0.75"),
    "Raises": ({"playable"}, "raised KeyError: 'no such file'"),
    "Endless": ({"playable"}, "an episode of 4096 tokens did not end"),
    "RendersNothing": ({"render/ansi", "render/html"}, "returned None, not text"),
    "LeakyForeign": ({"leaks/padding"}, "instead of padding"),
}
"""Class of an environment with one fault -> the rows that name it, and words of the first."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_nothing_else_is(name: str, broken: Any) -> None:
    report = check(getattr(broken, name)())
    rows, words = FAULTS[name]
    assert faults(report) == rows, str(report)
    assert words in report.failures[0].words
    assert not report.ok


SEEN_TWICE = {
    "TextSpace": {"spaces/kinds", "leaks/keys"},
    "OutsideItsSpace": {"spaces/observations"},
    "GlobalRandomReset": {"determinism/one instance", "determinism/two instances"},
    "UnsteadyPrompts": {"determinism/prompts", "info/prompt"},
    "SharedObservation": {"sharing/later calls", "sharing/writing"},
    "CachedInfo": {"sharing/writing"},
    "SharedPrompt": {"sharing/writing"},
    "JitteringReward": {
        "determinism/one instance",
        "determinism/two instances",
        "determinism/score",
    },
}
"""Faults that the checkers of Gymnasium and of Stable-Baselines3 may see as well."""


@pytest.mark.parametrize("name", SEEN_TWICE)
def test_a_fault_that_other_checkers_see_is_named_by_ours_too(name: str, broken: Any) -> None:
    report = check(getattr(broken, name)())
    assert {row for row in faults(report) if not row.startswith("contract/")} == SEEN_TWICE[name]


@pytest.mark.parametrize("by_id", [True, False])
def test_several_faults_at_once_are_each_named(by_id: bool, broken: Any) -> None:
    """Leaky observation, reward for the empty answer, unseeded randomness, shared arrays."""
    report = check("broken/Many-v0" if by_id else broken.Many())
    assert {"leaks/padding", "floor/empty", "determinism/one instance"} <= faults(report)
    assert {"sharing/later calls", "sharing/writing"} <= faults(report)
    assert {row.check for row in report.failures} == {
        "contract",
        "leaks",
        "determinism",
        "sharing",
        "floor",
    }


def test_a_sound_environment_passes_whole(broken: Any) -> None:
    report = check("broken/Sound-v0")
    assert report.ok
    assert [row.name for row in report.rows if row.status != "ok"] == ["splits"]
    assert check(broken.SoundEnv()).ok
    # The same sample finds faults in its neighbours, so that passing means something.
    assert words_of(report, "floor/constant 'yes'").startswith("scores -0.5 on average, 0%")


@pytest.mark.parametrize(
    ("env_id", "rows"),
    [
        (
            "broken/OtherVector-v0",
            {f"batch/native {mode.name}" for mode in gym.vector.AutoresetMode},
        ),
        ("broken/Ungrouped-v0", {"groups"}),
        ("broken/NeverMade-v0", {"made"}),
    ],
)
def test_faults_of_an_id(env_id: str, rows: set[str], broken: Any) -> None:
    report = check(env_id)
    assert faults(report) == rows
    if rows == {"made"}:
        assert report.failures[0].words == (
            "it cannot be made: RuntimeError: the server does not answer"
        )


def test_a_vector_environment_is_compared_with_single_ones(broken: Any) -> None:
    venv = broken.make_other_vector(num_envs=2, autoreset_mode="SAME_STEP")
    report = check(venv)
    assert faults(report) == {"batch/given SAME_STEP"}
    assert "reward is 0.0 and then 1.0" in report.failures[0].words
    sharing = check(broken.make_sharing_vector(num_envs=2))
    assert faults(sharing) == {"batch/given NEXT_STEP"}
    assert sharing.failures[0].words.startswith("'input_ids' of two calls is one array")
    assert check(broken.make_sound_vector(num_envs=2)).ok
    grouped = check(broken.make_sound_vector(num_envs=2, samples_per_prompt=2))
    assert grouped.ok and "batch/given" in {row.name for row in grouped.rows}


def test_wrappers_are_taken_off_and_told(broken: Any) -> None:
    env = gym.wrappers.TimeLimit(broken.SoundEnv(), 3)
    report = check(env)
    assert report.ok
    assert words_of(report, "playable/wrappers").startswith("TimeLimit taken off")
    assert "playable/wrappers" not in {row.name for row in check("broken/Sound-v0").rows}


def test_a_vector_environment_of_one_mode_is_compared_in_that_mode(broken: Any) -> None:
    report = check("broken/OneMode-v0")
    assert {row.name for row in report.rows if "native" in row.name} == {"batch/native SAME_STEP"}
    assert report.ok, str(report)


def test_a_time_limit_is_compared_with_a_time_limit(broken: Any) -> None:
    report = check("broken/Limited-v0")
    assert report.ok
    assert {row.name for row in report.rows if row.check == "batch"} == {
        f"batch/sync {mode}" for mode in MODES
    }


def test_a_foreign_environment_skips_what_it_does_not_have(broken: Any) -> None:
    report = check(broken.Foreign())
    assert report.ok
    skipped = {row.check for row in report.rows if row.status == "skipped"}
    assert skipped == {
        *("replay", "company", "reward", "oracle", "floor", "splits", "groups", "render")
    }
    assert "no method `score(prompt, texts)`" in words_of(report, "floor")
    compared = {row.name for row in report.rows if row.check == "batch"}
    assert compared == {f"batch/sync {mode}" for mode in MODES}
    by_id = check("broken/Foreign-v0")
    assert by_id.ok
    assert words_of(by_id, "splits") == "the environment has no option `split`"


def test_a_reward_without_bounds_is_a_note(broken: Any) -> None:
    report = check(broken.Unbounded())
    assert report.ok
    assert {row.name: row.status for row in report.rows}["reward/bounds"] == "note"
    empty = words_of(report, "floor/the empty answer")
    assert empty.startswith("scores -1 on average, -33%")


def test_a_curriculum_and_a_lone_prompt_are_notes(broken: Any) -> None:
    scheduled = check(broken.SoundEnv(curriculum=GrowingShare()))
    assert scheduled.ok and "curriculum" in words_of(scheduled, "determinism/seeds")
    alone = check(broken.SoundEnv(prompts=broken.make_prompts(["otter"])))
    assert alone.ok and "one prompt alone" in words_of(alone, "determinism/seeds")


@pytest.fixture
def registered(broken: Any) -> Any:
    """Registers an environment whose prompts are given by split; forgets it after the test."""
    name = "checker-test/Split-v0"

    def register(**splits: Any) -> str:
        sizes = {"max_prompt_tokens": 32, "max_new_tokens": 6}
        textenvs.register(name, prompts=splits, reward=broken.Repeats(), **sizes)
        return name

    yield register
    textenvs.unregister(name)


def test_splits_that_overlap_are_named(registered: Any, broken: Any) -> None:
    words = broken.WORDS
    env_id = registered(
        train=broken.make_prompts(words[:6], "a"),
        validation=broken.make_prompts(words[6:8], "b"),
        test=broken.make_prompts(words[5:6] + words[8:], "c"),
    )
    report = check(env_id)
    assert faults(report) == {"splits/groups", "splits/texts"}
    assert words_of(report, "splits/groups") == (
        "1 groups of the train split are in the test split too: 'raven'"
    )


def test_splits_apart_are_sound(registered: Any, broken: Any) -> None:
    words = broken.WORDS
    env_id = registered(
        train=broken.make_prompts(words[:6], "a"),
        validation=broken.make_prompts(words[6:8], "b"),
        test=broken.make_prompts(words[8:], "c"),
    )
    report = check(env_id)
    assert report.ok
    assert words_of(report, "splits/sizes") == "6 train, 2 validation, 2 test"
    assert check(gym.make(env_id)).to_dict()["counts"]["ok"] > 40


def test_a_missing_split_is_a_fault(registered: Any, broken: Any) -> None:
    report = check(registered(train=broken.make_prompts()))
    assert faults(report) == {"splits"}
    assert "'validation'" in report.failures[0].words


def test_splits_that_are_the_same_prompts_are_a_note(registered: Any, broken: Any) -> None:
    prompts = broken.make_prompts()
    report = check(registered(train=prompts, validation=prompts, test=prompts))
    assert report.ok
    assert {row.name: row.status for row in report.rows}["splits/overlap"] == "note"


def test_a_users_mistake_is_raised(broken: Any) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'broken/Sound-v0'"):
        check("broken/Sond-v0")
    with pytest.raises(UnknownNameError, match="Did you mean 'n_items'"):
        check("textenvs/ContextSelect-v0", n_itmes=3)
    with pytest.raises(ConfigError, match=r"the options \['n_items'\] need an id"):
        check(broken.SoundEnv(), n_items=3)
    with pytest.raises(ConfigError, match="is no environment"):
        check(17)
    with pytest.raises(ConfigError, match="is no TextVectorEnv"):
        check(gym.vector.SyncVectorEnv([broken.SoundEnv]))
    with pytest.raises(ConfigError, match="sampled_prompts must be at least 1"):
        check(broken.SoundEnv(), sampled_prompts=0)
    with pytest.raises(ConfigError, match="'no_such_module:a/B-v0' cannot be imported"):
        check("no_such_module:a/B-v0")


def test_stable_baselines3_is_optional(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    study = Study(subject_of(broken.SoundEnv(), {}), 0, 4)
    assert [(row.name, row.status) for row in check_contract(study)] == [
        ("contract/gymnasium", "ok"),
        ("contract/stable-baselines3", "skipped"),
    ]


def test_the_report(broken: Any) -> None:
    report = check(broken.RewardForYes(), sampled_prompts=3)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["ok"] is False
    assert told["counts"]["fault"] == 1 == len(report.failures)
    assert len(told["rows"]) == len(report.rows) == sum(told["counts"].values())
    row = report.failures[0]
    assert isinstance(row, Row)
    assert (row.name, row.check, row.status) == ("floor/constant 'yes'", "floor", "fault")
    assert str(row).startswith("floor/constant 'yes': scores 0.75")
    assert "fault   floor/constant 'yes'" in str(report)


def test_the_same_seed_gives_the_same_report_and_leaves_no_trace(broken: Any) -> None:
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    env = broken.SoundEnv()
    env.reset(seed=1)
    before = env.batch.state_dict(), env.np_random.bit_generator.state
    first = check(env, seed=1)
    assert (random.random(), np.random.random()) == expected
    assert (env.batch.state_dict(), env.np_random.bit_generator.state) == before
    assert first == check(env, seed=1)
    assert first.rows != check(env, seed=2).rows


def test_global_randomness_is_put_back() -> None:
    random.seed(5)
    before = random.getstate()
    with global_randomness(1):
        one = random.random(), np.random.random()
    with global_randomness(1):
        assert (random.random(), np.random.random()) == one
    with pytest.raises(KeyError), global_randomness(2):
        assert random.random() != one[0]
        raise KeyError
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 3.0}]}, "a[1]['b'] is 2.0 and then 3.0"),
        ({"a": 1}, {}, "a is there only the first time"),
        ({"a": [1]}, {"a": [1, 2]}, "a is [1] and then [1, 2]"),
        ({"a": float("nan")}, {"a": float("nan")}, None),
        ({"a": None, "b": [()]}, {"b": [()], "a": None}, None),
    ],
)
def test_differences_are_put_in_words(one: Any, two: Any, words: str | None) -> None:
    assert differing(one, two) == words


def test_probes_of_a_prompt() -> None:
    prompt = Prompt("p", "Which?", (Item("Heat", "drama"), Item("Up", "family")))
    generator = np.random.default_rng(0)
    probes = {p.name: p for p in probe_answers(prompt, generator, {"all": "Heat, Up"})}
    assert probes["copy of the context"].text == "Heat drama\nUp family"
    assert probes["copy of the context's first fields"].text == "Heat\nUp"
    assert probes["copy of the prompt"].text == "Which?"
    assert (probes["own: all"].kind, probes["own: all"].text) == ("task", "Heat, Up")
    assert probes["the empty answer"].text == ""
    assert probes["random letters"].text.replace(" ", "").isalpha()
    assert context_copies(None) == {}
    assert context_copies("A passage.") == {"copy of the context": "A passage."}
    assert context_copies(["a", "b"]) == {"copy of the context": "a\nb"}
    assert context_copies({"x": "a", "y": 2}) == {"copy of the context": "a\n2"}


def test_means_are_over_prompts(broken: Any) -> None:
    env = broken.RewardForCopies()
    judged = judged_prompts(Study(subject_of(env, {}), 0, 5), env)
    assert len(judged) == 5
    assert mean_score(judged, "the empty answer") == -1.0
    assert mean_score(judged, "copy") == 1.0
    assert mean_score(judged, "letters") == -0.5
    assert np.isnan(mean_score(judged, "no such probe"))
    assert all(j.oracle_score == 1.0 for j in judged)


def test_importing_the_checker_needs_no_torch() -> None:
    code = (
        "import sys, textenvs.checker; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'stable_baselines3')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
