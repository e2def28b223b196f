"""A guarded reward scores as the bare one does, and outlives whatever the reward does.

The processes are real, and `psutil` looks whether any is left behind.
"""

import copy
import gc
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest

from textenvs.env import TextEnv
from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards import (
    BaseReward,
    ContextMatch,
    Gate,
    Guarded,
    Reward,
    RewardResult,
    RunningNormalised,
    reward,
)
from textenvs.rewards.base import checked_result
from textenvs.rewards.guarding import guarded, scoring_process
from textenvs.rewards.results import FAILURES
from textenvs.types import Episode, Item, Prompt

HERE = Path(__file__).parent
PROMPT = Prompt("p", "say", (Item("One", "a"), Item("Two", "b")), metadata={"category": "a"})


def episodes_of(*completions: str) -> list[Episode]:
    return [
        Episode(Prompt(f"p{i}", "say"), text, tuple(range(i + 1)))
        for i, text in enumerate(completions)
    ]


@pytest.fixture
def rewards(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of hostile rewards beside this file; scoring processes find it too."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("hostile_rewards")


@pytest.fixture
def make(rewards: Any) -> Iterator[Callable[..., Guarded]]:
    """Return a maker of guards, which leave no process behind."""
    guards = []
    before = set(children())

    def build(spec: Any = "hostile_rewards:hostile", **options: Any) -> Guarded:
        guards.append(Guarded(spec, **{"timeout_s": 1.0, "on_error": "skip", **options}))
        return guards[-1]

    yield build
    for guard in guards:
        guard.close()
    assert set(children()) <= before


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def await_gone(processes: Sequence[psutil.Process]) -> bool:
    """Wait until processes are dead, or dead but for the parent that has not reaped them."""
    deadline = time.monotonic() + 20
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, processes))


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def same(one: RewardResult, two: RewardResult) -> bool:
    """Whether two results are equal to the bit."""
    return (
        one.scores.tobytes() == two.scores.tobytes()
        and one.scores.dtype == two.scores.dtype
        and list(one.terms) == list(two.terms)
        and all(
            a.score.tobytes() == b.score.tobytes() and (a.weight, a.status) == (b.weight, b.status)
            for a, b in zip(one.terms.values(), two.terms.values(), strict=True)
        )
    )


@reward
def third(prompt: Prompt, completion: str) -> float:
    """A number with no short decimal form."""
    return len(completion) / 3.0 - 1e-17


@pytest.mark.parametrize(
    "spec",
    [
        "context-match",
        ContextMatch(scoring="f1"),
        reward(lambda prompt, completion: len(completion) / 7, name="seventh"),
        0.1 * ContextMatch() - 0.3 * reward(lambda p, c: len(c) / 7, name="seventh"),
    ],
    ids=["name", "object", "lambda", "sum"],
)
def test_scores_are_those_of_the_bare_reward(spec: Any, make: Callable[..., Guarded]) -> None:
    guard = make(spec, on_error="raise", timeout_s=10)
    batch = [Episode(PROMPT, text, (1, 2)) for text in ("One", "", "Two\nOne", "tt é\ud800")]
    for part in (batch, batch[:1], [], batch[::-1]):
        assert same(guard(part), guard.reward(part))
    assert guard.name == guard.reward.name and guard.bounds(PROMPT) == guard.reward.bounds(PROMPT)
    assert guard.term_weights() == guard.reward.term_weights() and not guard.failures


def test_the_comparison_sees_a_bit() -> None:
    """Negative control."""
    one, two = (RewardResult.from_scores("x", [s]) for s in (0.1, np.nextafter(0.1, 1)))
    assert same(one, one) and not same(one, two)


def test_prompts_that_change_under_one_id_are_sent_again(make: Callable[..., Guarded]) -> None:
    guard = make(reward(lambda p, c: float(len(p.text)), name="text"), timeout_s=10)
    for text in ("a", "bbb", "a", "cc"):
        assert guard([Episode(Prompt("same id", text), "")]).scores.tolist() == [len(text)]
    arrays = [Prompt("same id", "dddd", context=np.arange(3)) for _ in range(2)]
    assert [guard([Episode(p, "")]).scores.item() for p in arrays] == [4, 4]


@pytest.mark.parametrize(
    ("deed", "kind", "words"),
    [
        ("sleep", "timeout", "took over 1 s"),
        ("hang_in_c", "timeout", "took over 1 s"),
        ("segfault", "crash", "SIGSEGV"),
        ("leave", "crash", "exit code 3"),
        ("allocate", "memory", "memory"),
        ("quit_politely", "exception", "SystemExit: 4"),
        ("fail", "exception", "KeyError: 'no such thing'"),
        ("text", "result", "must return one number"),
        ("inf", "infinite", "infinity"),
    ],
)
def test_only_the_offender_is_lost(
    deed: str, kind: str, words: str, make: Callable[..., Guarded], tmp_path: Path
) -> None:
    kept = tmp_path / "runs" / "quarantine.jsonl"
    guard = make(memory_bytes=1 << 27, quarantine=kept)
    result = checked_result(guard, episodes_of("a", deed, "ccc"))
    np.testing.assert_array_equal(result.scores, [1.0, np.nan, 3.0])
    assert result.failures == {1: kind}
    assert result.terms["hostile"].status == ("scored", kind, "scored")
    assert guard.failures == {kind: 1}
    (record,) = map(json.loads, kept.read_text().splitlines())
    assert words in record.pop("error")
    assert record == {
        "reward": "hostile",
        "kind": kind,
        "prompt_id": "p1",
        "completion": deed,
        "finish_reason": "eos",
    }
    assert guard(episodes_of("dddd")).scores.tolist() == [4.0]


def test_nan_is_unscored_unless_that_is_a_failure(make: Callable[..., Guarded]) -> None:
    batch = episodes_of("a", "nan", "none")
    result = make()(batch)
    assert result.terms["hostile"].status == ("scored", "unscored", "unscored")
    assert not result.failures
    strict = make(allow_unscored=False)
    assert strict(batch).failures == {1: "nan", 2: "nan"} and strict.failures == {"nan": 2}


def test_declared_bounds_are_held_to(rewards: Any, make: Callable[..., Guarded]) -> None:
    guard = make(rewards.Bounded())
    result = guard(episodes_of("a", "four", "ccc"))
    assert result.failures == {1: "range"} and guard.failures == {"range": 1}
    np.testing.assert_array_equal(result.scores, [1.0, np.nan, 3.0])


def test_raise_names_episode_kind_and_remedy(make: Callable[..., Guarded]) -> None:
    guard = make(on_error="raise")
    with pytest.raises(
        RewardError, match=r"'hostile' failed \(crash\) .*'segfault'.*'p1'.*on_error"
    ):
        guard(episodes_of("a", "segfault", "ccc", "sleep"))
    assert guard.failures == {"crash": 1}, "the search ends at the first offender"
    assert guard(episodes_of("a")).scores.tolist() == [1.0]


def test_a_stated_value_stands_in_a_term_of_its_own(make: Callable[..., Guarded]) -> None:
    guard = make(on_error=-2)
    good = checked_result(guard, episodes_of("a", "bb"))
    assert good.scores.tolist() == [1.0, 2.0] and guard.bounds(PROMPT) == (-np.inf, np.inf)
    assert {name: term.score.tolist() for name, term in good.terms.items()} == {
        "hostile": [1.0, 2.0],
        "hostile.failed": [0.0, 0.0],
    }
    mixed = checked_result(0.5 * guard + third, episodes_of("a", "fail"))
    assert mixed.scores.tolist() == [0.5 + third(episodes_of("a")).scores[0], -1.0 + 4 / 3]
    assert mixed.failures == {1: "exception"}
    assert mixed.terms["hostile.failed"].weighted.tolist() == [0.0, -1.0]
    alone = checked_result(make(on_error=7.0), episodes_of("fail"))
    assert alone.scores.tolist() == [7.0] and list(alone.terms) == list(good.terms)


def test_bounds_hold_the_stated_value(rewards: Any, make: Callable[..., Guarded]) -> None:
    assert make(rewards.Bounded(), on_error=-1.0).bounds(PROMPT) == (-1.0, 3.0)
    assert make(rewards.Bounded(), on_error=5).bounds(PROMPT) == (0.0, 5.0)
    assert make(rewards.Bounded()).bounds(PROMPT) == (0.0, 3.0)


def test_algebra_keeps_the_failures(make: Callable[..., Guarded]) -> None:
    guard = make()
    batch = episodes_of("a", "fail", "ccc")
    for combined in (
        0.5 * guard + third,
        guard.clip(0, 2),
        Gate(lambda prompt, completion: True, guard),
    ):
        result = checked_result(combined, batch)
        assert result.failures == {1: "exception"}, combined.name
        assert np.isnan(result.scores).tolist() == [False, True, False]


def test_shares_of_tokens_survive(make: Callable[..., Guarded]) -> None:
    def letters(episodes: Sequence[Episode]) -> list[list[float]]:
        assert not any(episode.completion == "bad" for episode in episodes)
        return [[0.5] * len(episode.completion_ids) for episode in episodes]

    bare = reward(letters, name="letters", per_token=True)
    good, bad = episodes_of("a", "b", "c"), episodes_of("a", "b", "bad")
    guard = make(bare, on_error=-1.0)
    expected, found = bare(good).per_token, guard(good).per_token
    assert expected is not None and found is not None
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    rescued = checked_result(guard, bad).per_token
    assert rescued is not None
    assert [row.tolist() for row in rescued] == [[0.5], [0.5, 0.5], [0.0, 0.0, -1.0]]


def test_a_batch_that_fails_only_as_a_whole_is_counted(make: Callable[..., Guarded]) -> None:
    guard = make("hostile_rewards:only_alone", on_error="raise")
    with pytest.warns(RuntimeWarning, match="'only_alone' failed on a batch of 2"):
        assert guard(episodes_of("a", "bb")).scores.tolist() == [1.0, 2.0]
    assert guard(episodes_of("a", "bb")).scores.tolist() == [1.0, 2.0], "the warning is given once"
    assert guard.failures == {"batch": 2}


def test_a_batch_costs_a_bounded_time(
    make: Callable[..., Guarded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "MOST_RESCUES", 2)
    guard = make(quarantine=tmp_path / "kept.jsonl")
    result = guard(episodes_of("a", *["leave"] * 3, "eeeee"))
    assert result.failures == {1: "crash", 2: "crash", 3: "given_up", 4: "given_up"}
    assert guard.failures == {"crash": 2, "given_up": 2}
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2, "4 is not to blame"


def test_answers_are_cut(make: Callable[..., Guarded]) -> None:
    guard = make(max_chars=3)
    assert guard(episodes_of("a", "bbb", "cccc")).scores.tolist() == [1.0, 3.0, 3.0]
    assert guard.cut == 1
    assert make(max_chars=None)(episodes_of("x" * 30_000)).scores.tolist() == [30_000.0]


def test_the_first_call_may_load(rewards: Any, make: Callable[..., Guarded]) -> None:
    guard = make(rewards.SlowToLoad(), load_s=20.0)
    assert guard(episodes_of("a")).scores.tolist() == [1.0]
    hasty = make(rewards.SlowToLoad(), on_error="raise")
    with pytest.raises(RewardError, match=r"\(timeout\).*load_s gives a model time"):
        hasty(episodes_of("a"))


def test_an_interrupt_ends_the_process_and_what_it_started(
    make: Callable[..., Guarded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = make(timeout_s=60)
    begun = tmp_path / "begun"
    monkeypatch.setenv("HOSTILE_BEGUN", str(begun))
    started: list[psutil.Process] = []

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.02)
        started.extend(children())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        guard(episodes_of("hang_with_children"))
    assert len(started) == 3 and await_gone(started)
    assert guard(episodes_of("a", "bb")).scores.tolist() == [1.0, 2.0], "no answer is left over"


def test_the_process_is_kept_and_dies_with_the_guard(make: Callable[..., Guarded]) -> None:
    before = set(children())
    guard = Guarded("hostile_rewards:hostile")
    guard(episodes_of("a"))
    began = set(children()) - before
    assert len(began) == 2, "the supervisor and the worker"
    guard(episodes_of("bb"))
    assert set(children()) - before == began
    del guard
    gc.collect()
    assert await_gone(list(began))
    with make() as guard:
        guard(episodes_of("a"))
        began = set(children()) - before
        assert began
    assert await_gone(list(began))
    assert guard(episodes_of("a")).scores.tolist() == [1.0], "a closed guard starts again"


@pytest.mark.parametrize("victim", ["supervisor", "worker"])
def test_a_process_killed_from_outside_is_replaced(
    victim: str, make: Callable[..., Guarded]
) -> None:
    guard = make()
    guard(episodes_of("a"))
    supervisor = next(p for p in children() if "scoring_worker" in " ".join(p.cmdline()))
    (worker,) = supervisor.children()
    (supervisor if victim == "supervisor" else worker).kill()
    assert await_gone([worker]), "a worker does not outlive its supervisor"
    with pytest.warns(RuntimeWarning, match="failed on a batch of 2"):
        assert guard(episodes_of("a", "bb")).scores.tolist() == [1.0, 2.0]


def run_script(program: str, **environment: str) -> "subprocess.Popen[str]":
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from textenvs.rewards import Guarded\n"
        "from textenvs.types import Episode, Prompt\n"
        f"{program}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("deed", ["hang_in_c", "hang_with_children"])
def test_nothing_survives_a_parent_that_is_killed(deed: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    program = (
        "guard = Guarded('hostile_rewards:hostile', timeout_s=600)\n"
        f"guard([Episode(Prompt('p', 'say'), {deed!r})])"
    )
    with run_script(program, HOSTILE_BEGUN=str(begun)) as parent:
        while not begun.exists() and parent.poll() is None:
            time.sleep(0.02)
        left = psutil.Process(parent.pid).children(recursive=True)
        assert len(left) == (3 if deed == "hang_with_children" else 2) and all(map(alive, left))
        parent.kill()
    assert await_gone(left)


def test_nothing_survives_though_a_fork_of_the_parent_does(tmp_path: Path) -> None:
    """The fork holds the guard's end of the connection open."""
    begun = tmp_path / "begun"
    program = (
        "import os, time\n"
        "guard = Guarded('hostile_rewards:hostile', timeout_s=600)\n"
        "guard([Episode(Prompt('p', 'say'), 'x')])\n"
        "os.fork() or time.sleep(600)\n"
        "guard([Episode(Prompt('p', 'say'), 'hang_in_c')])"
    )
    with run_script(program, HOSTILE_BEGUN=str(begun)) as parent:
        while not begun.exists() and parent.poll() is None:
            time.sleep(0.02)
        direct = psutil.Process(parent.pid).children()
        (fork,) = (p for p in direct if "scoring_worker" not in " ".join(p.cmdline()))
        left = [p for child in direct if child != fork for p in (child, *child.children())]
        assert len(left) == 2
        parent.kill()
        assert await_gone(left) and alive(fork)
        fork.kill()


def test_nothing_survives_the_end_of_the_program() -> None:
    program = (
        "import psutil\n"
        "guard = Guarded(lambda prompt, completion: 2.5)\n"
        "class Context: size = 3\n"
        "print(guard([Episode(Prompt('p', 'say', Context()), 'x')]).scores)\n"
        "print(*(p.pid for p in psutil.Process().children(recursive=True)))\n"
    )
    with run_script(program) as parent:
        assert parent.stdout is not None
        scores, pids = parent.stdout.read().splitlines()
    assert scores == "[2.5]", "a function and a class of the main program are sent by value"
    assert len(pids.split()) == 2
    assert not any(map(psutil.pid_exists, map(int, pids.split())))


def test_copies_and_forks_have_processes_of_their_own(
    make: Callable[..., Guarded], toy: dict[str, Any]
) -> None:
    guard = make(timeout_s=20)
    assert guard(episodes_of("a")).scores.tolist() == [1.0]
    began = set(children())
    twin = copy.deepcopy(guard)
    assert twin(episodes_of("bb")).scores.tolist() == [2.0]
    twin.close()
    venv = gym.vector.AsyncVectorEnv([lambda: TextEnv(**{**toy, "reward": guard})] * 2)
    venv.reset(seed=0)
    eos = toy["tokenizer"].eos_id
    letter = toy["tokenizer"].encode_completion("b")[0]
    venv.step(np.array([letter, letter]))
    _, rewards, *_ = venv.step(np.array([eos, eos]))
    assert rewards.tolist() == [1.0, 1.0]
    inside = set(children())
    assert len(inside) == 2 + 2 * 3, "each environment has a supervisor and a worker"
    assert guard(episodes_of("a")).scores.tolist() == [1.0] and began <= set(children())
    venv.close()
    assert await_gone(list(inside - began))


def test_a_fork_that_never_asks_holds_nothing_up(
    make: Callable[..., Guarded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a copy of the guard's end of the connection."""
    monkeypatch.setattr(scoring_process, "KILL_S", 3600)
    guard = make(timeout_s=20)
    guard(episodes_of("a"))
    began = children()
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    fork.start()
    closing = threading.Thread(target=guard.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive() and await_gone(began)
    fork.kill()
    fork.join()


def test_the_environment_leaves_skipped_episodes_out(
    make: Callable[..., Guarded], toy: dict[str, Any]
) -> None:
    """A guard that skips need not be told a second time; other NaN still raises."""
    tokenizer = toy["tokenizer"]
    for word, options, failure in (
        ("fail", {}, "exception"),
        ("none", {"on_unscored": "skip"}, None),
        ("fail", {"on_unscored": -3.0}, "exception"),
    ):
        task = {**toy, "max_new_tokens": 8, "reward": make(), **options}
        env = TextEnv(**task)
        env.reset(seed=0)
        for token in tokenizer.encode_completion(word):
            env.step(token)
        _, paid, terminated, _, info = env.step(tokenizer.eos_id)
        assert terminated and not info["scored"] and info.get("reward_failure") == failure
        assert paid == (-3.0 if "on_unscored" in options and failure else 0.0)
    with pytest.raises(RewardError, match="did not score the completion 'none'"):
        env = TextEnv(**{**toy, "max_new_tokens": 8, "reward": make()})
        env.reset(seed=0)
        for token in (*tokenizer.encode_completion("none"), tokenizer.eos_id):
            env.step(token)


def test_counts_are_state(make: Callable[..., Guarded]) -> None:
    guard, other = make(max_chars=10), make()
    guard(episodes_of("fail", "x" * 20))
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.failures == {"exception": 1} and other.cut == 1
    other(episodes_of("fail"))
    assert other.failures["exception"] == 2


def test_what_a_reward_has_learnt_outlives_its_process(make: Callable[..., Guarded]) -> None:
    bare = RunningNormalised(reward(lambda p, c: float(len(c)), name="letters"))
    guard = make(copy.deepcopy(bare), timeout_s=20)
    batches = [episodes_of("a", "bb"), episodes_of("cccc", "dd"), episodes_of("eeee")]
    assert same(guard(batches[0]), bare(batches[0]))
    guard.close()
    assert same(guard(batches[1]), bare(batches[1]))
    resumed = make(RunningNormalised(bare.reward), timeout_s=20)
    resumed(batches[0])
    resumed.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    expected = bare(batches[2])
    assert same(guard(batches[2]), expected) and same(resumed(batches[2]), expected)


def test_a_batch_that_fails_teaches_nothing(rewards: Any, make: Callable[..., Guarded]) -> None:
    """Each of the others is learnt from once; terms add up though the weights have moved."""
    moving = RunningNormalised(third)
    guard = make(moving + reward(rewards.hostile), timeout_s=20)
    result = checked_result(guard, episodes_of("a", "fail", "ccccc", "dd"))
    assert result.failures == {1: "exception"} and guard.failures == {"exception": 1}
    assert moving.moments.count == 3


def test_a_reward_that_cannot_be_sent_says_so(make: Callable[..., Guarded]) -> None:
    lock = threading.Lock()
    guard = make(lambda prompt, completion: float(lock.locked()))
    with pytest.raises(ConfigError, match="the reward cannot be sent to a scoring process"):
        guard(episodes_of("a"))


def test_a_reward_that_cannot_start_says_so(
    make: Callable[..., Guarded], monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("made_up")
    module.Absent = Absent
    monkeypatch.setitem(sys.modules, "made_up", module)
    monkeypatch.setattr(Absent, "__module__", "made_up")
    guard = make(Absent())
    with pytest.raises(ConfigError, match="'absent' cannot be guarded: .*ModuleNotFoundError"):
        guard(episodes_of("a"))


class Absent(BaseReward):
    """A reward of a module that scoring processes cannot import."""

    name = "absent"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        raise NotImplementedError


def test_a_quarantine_that_cannot_be_written_does_not_end_the_run(
    make: Callable[..., Guarded], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    guard = make(quarantine=tmp_path / "file" / "kept.jsonl")
    with pytest.warns(RuntimeWarning, match="failed episodes are counted, but not kept"):
        guard(episodes_of("fail"))
    guard(episodes_of("fail"))
    assert guard.failures == {"exception": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s must be a number above 0, got 0"),
        ({"timeout_s": float("inf")}, "timeout_s must be a number above 0"),
        ({"load_s": -1}, "load_s must be a number at least 0, got -1"),
        ({"on_error": "ignore"}, "on_error must be .* got 'ignore'"),
        ({"on_error": float("nan")}, "on_error must be"),
        ({"on_error": True}, "on_error must be"),
        ({"memory_bytes": 0}, "memory_bytes must be a whole number of at least 1"),
        ({"max_chars": 2.5}, "max_chars must be a whole number of at least 1, or None"),
        ({"quarantine": HERE}, "quarantine must be a file"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Guarded("context-match", **options)


def test_unknown_names_are_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match="context-match"):
        Guarded("context-mach")


def test_every_kind_is_documented() -> None:
    page = (HERE.parent.parent / "docs" / "guarded.md").read_text(encoding="utf-8")
    assert all(f"| `{kind}` |" in page for kind in (*FAILURES, "batch"))
    assert isinstance(Guarded("context-match"), Reward)
