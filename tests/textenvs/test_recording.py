"""Recordings: round trips, torn lines, wrappers in every mode, replay."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit, TransformReward
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textenvs.env import TextEnv
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.recording import (
    EpisodeRecord,
    Header,
    KLRecord,
    RecordingWriter,
    parse_record,
    read_episodes,
)
from textenvs.reference import CausalLMReference
from textenvs.replay import replay
from textenvs.rewards import RewardResult, reward
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.recording import RecordEpisodes, VectorRecordEpisodes
from textenvs.wrappers.reference_kl import ReferenceKL, VectorReferenceKL

ID = "textenvs/ContextSelect-v0"
MODES = list(AutoresetMode)
HEADER = Header("me/Toy-v0", {"n": 3}, {}, "0.1.0")
Actions = Callable[..., np.ndarray]


def one_record(text: str = "ab", *, length: int = 2, **changes: Any) -> EpisodeRecord:
    record = EpisodeRecord(
        prompt_id="p0",
        prompt="Say ab:",
        completion=text,
        completion_ids=tuple(range(length)),
        tokens=("x",) * length,
        finish_reason="eos",
        scored=True,
        reward=0.1,
        task_reward=0.1,
        token_rewards=(0.0,) * (length - 1) + (0.1,),
        reward_terms={"t": 0.1},
        metrics={},
    )
    return dataclasses.replace(record, **changes)


def paired(value: Any) -> Any:
    """Spell a character that Python holds as two surrogates as the one that JSON reads."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if isinstance(value, dict):
        return {paired(key): paired(item) for key, item in value.items()}
    return type(value)(map(paired, value)) if isinstance(value, tuple) else value


texts = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from("\0\u2028\x85\x1b\ud800\udc00"))
)
floats = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def records(draw: st.DrawFn) -> EpisodeRecord:
    length = draw(st.integers(0, 4))
    some = st.lists(floats, min_size=length, max_size=length).map(tuple)
    kl = st.builds(KLRecord, floats, some, some)
    return EpisodeRecord(
        prompt_id=draw(texts),
        prompt=draw(texts),
        completion=draw(texts),
        completion_ids=tuple(draw(st.integers(0, 2**40)) for _ in range(length)),
        tokens=tuple(draw(texts) for _ in range(length)),
        finish_reason=draw(st.sampled_from([None, "eos", "stop", "length"])),
        scored=draw(st.booleans()),
        reward=draw(floats),
        task_reward=draw(st.none() | floats),
        token_rewards=draw(some),
        reward_terms=draw(st.dictionaries(texts.map(paired), floats, max_size=2)),
        metrics=draw(st.dictionaries(texts.map(paired), floats, max_size=2)),
        reward_per_token=draw(st.none() | some),
        kl=draw(st.none() | kl),
        values=draw(st.none() | some),
        logprobs=draw(st.none() | some),
    )


@given(records())
@settings(max_examples=100, deadline=None)
def test_any_record_reads_back_to_the_bit(record: EpisodeRecord) -> None:
    line = record.line()
    assert line.isascii() and line.count(b"\n") == 1 and line.endswith(b"\n")
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    found = parse_record(line)
    for field in dataclasses.fields(EpisodeRecord):
        expected = getattr(record, field.name)
        # repr tells floats apart by their bits, and all NaN as one
        assert repr(getattr(found, field.name)) == repr(paired(expected)), field.name


def test_a_line_torn_at_every_byte_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "whole.jsonl"
    writer = RecordingWriter(path, HEADER)
    written = [one_record(text) for text in ("first", "é\u2028", "third")]
    for record in written:
        writer.append(record)
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 4
    after = one_record("after the crash")
    for cut in range(len(whole) + 1):
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(whole[:cut])
        # A line that lacks its line feed alone is whole.
        kept = written[: max(0, sum(cut >= end for end in ends) - 1)]
        if cut < ends[0]:
            with pytest.raises(ConfigError, match="line 1"):
                read_episodes(torn)
        else:
            header, found = read_episodes(torn)
            assert (header, list(found)) == (HEADER, kept)
        RecordingWriter(torn, HEADER).append(after)
        header, found = read_episodes(torn)
        assert (header, list(found)) == (HEADER, [*kept, after]), cut


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", None),
        (b"some notes", "is kept as it is: this is no JSON"),
        (b'{"update": 1}\n', "must say 'textenvs-episodes'"),
        (HEADER.line().replace(b'"version": 1', b'"version": 2'), "has version 2"),
        (HEADER.line().replace(b'"n": 3', b'"n": 4'), "recorded from me/Toy-v0 {'n': 4}"),
        (HEADER.line().replace(b"0.1.0", b"0.0.9"), "by textenvs 0.0.9"),
    ],
)
def test_a_file_of_something_else_is_kept(
    tmp_path: Path, content: bytes, message: str | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    if message is None:
        RecordingWriter(path, HEADER)
        return
    with pytest.raises(ConfigError, match=f"{message}.*[Rr]ecord to another file"):
        RecordingWriter(path, HEADER)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be recorded to"):
        RecordingWriter(tmp_path, HEADER)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_episodes(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "'prompt' must be a text, got None"),
        ({"completion_ids": [0, -1]}, "'completion_ids' must hold integers from 0"),
        ({"completion_ids": [0, True]}, "'completion_ids' must hold integers from 0"),
        ({"tokens": ["x"]}, "'tokens' must hold 2 values, one a token, got 1"),
        ({"tokens": ["x", 1]}, "'tokens' must hold texts"),
        ({"finish_reason": "tired"}, "'finish_reason' must be one of"),
        ({"reward": "0.1"}, "'reward' must be a number, got '0.1'"),
        ({"reward": 10**400}, "'reward' is too large"),
        ({"scored": 1}, "'scored' must be true or false"),
        ({"reward_terms": {"t": []}}, "'reward_terms.t' must be a number"),
        ({"kl": {"coef": 1.0, "terms": []}}, "the field 'reference_logprob' is missing"),
        ({"values": [0.0]}, "'values' must hold 2 values"),
    ],
)
def test_a_wrong_value_in_the_middle_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "file"
    bad = {**json.loads(one_record().line()), **changes}
    last = one_record("last").line()
    path.write_bytes(HEADER.line() + one_record().line() + json.dumps(bad).encode() + b"\n" + last)
    _, found = read_episodes(path)
    assert next(found) == one_record()
    with pytest.raises(ConfigError, match=f"line 3: {message}"):
        next(found)


@pytest.mark.parametrize("line", [b"{", b"[]", b"[" * 100_000, b"\xff", b""])
def test_garbage_in_the_middle_is_named_with_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(HEADER.line() + line + b"\n" + one_record().line())
    with pytest.raises(ConfigError, match="line 2: .*remove the line to read the rest"):
        list(read_episodes(path)[1])


def say(env: Any, text: str) -> None:
    for token in env.unwrapped.tokenizer.encode_completion(text):
        env.step(token)


def test_what_one_environment_records(toy: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "episodes.jsonl"
    env = RecordEpisodes(TextEnv(**toy), path)
    env.reset(options={"prompt_id": "p0"})
    say(env, "z")
    env.reset(options={"prompt_id": "p1"})  # abandons an episode: it is not recorded
    say(env, "aé")
    env.step(env.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    header, found = read_episodes(path)
    assert (header.env_id, header.kwargs, header.objects) == (None, {}, {})
    (record,) = found
    total = 1 + 0.125 * len("abab1")
    assert record == EpisodeRecord(
        prompt_id="p1",
        prompt="abab1",
        completion="aé",
        completion_ids=(*TextEnv(**toy).tokenizer.encode_completion("aé"), 1),
        tokens=("a", "", "é", ""),
        finish_reason="eos",
        scored=True,
        reward=total,
        task_reward=total,
        token_rewards=(0.0, 0.0, 0.0, total),
        reward_terms={"count_a": total},
        metrics={},
    )


def test_what_the_agent_notes_is_recorded(toy: dict[str, Any], tmp_path: Path) -> None:
    env = RecordEpisodes(TextEnv(**toy), tmp_path / "one")
    env.reset(seed=0)
    env.note(value=0.5, logprob=-1.5)
    env.step(70)
    env.step(1)  # nothing noted: what was noted before does not linger
    (record,) = read_episodes(tmp_path / "one")[1]
    assert repr((record.values, record.logprobs)) == "((0.5, nan), (-1.5, nan))"
    venv = VectorRecordEpisodes(TextVectorEnv(**toy, num_envs=2), tmp_path / "two")
    venv.reset(seed=0)
    venv.note(values=[1.0, 2.0])
    venv.step(np.array([1, 70]))
    venv.note(values=np.array([3.0, 4.0]))
    venv.step(np.array([70, 70]))
    venv.step(np.array([70, 1]))
    first, second = read_episodes(tmp_path / "two")[1]
    assert first.values == (1.0,)
    assert repr(second.values) == "(2.0, 4.0, nan)"
    assert first.logprobs is second.logprobs is None
    with pytest.raises(ConfigError, match=r"values must have the shape \(2,\)"):
        venv.note(values=[1.0])


def test_time_limits_are_recorded_unscored(toy: dict[str, Any], tmp_path: Path) -> None:
    env = RecordEpisodes(TimeLimit(TextEnv(**toy), 2), tmp_path / "one")
    env.reset(seed=0)
    say(env, "ab")
    venv = TextVectorEnv(**toy, num_envs=1, max_episode_steps=2, autoreset_mode="SameStep")
    both = VectorRecordEpisodes(venv, tmp_path / "two")
    both.reset(seed=0)
    for token in toy["tokenizer"].encode_completion("ab"):
        both.step(np.array([token]))
    (record,) = read_episodes(tmp_path / "one")[1]
    assert [record] == list(read_episodes(tmp_path / "two")[1])
    assert (record.completion, record.tokens) == ("ab", ("a", "b"))
    assert (record.finish_reason, record.scored, record.task_reward) == (None, False, None)
    assert replay(tmp_path / "one", TextEnv(**toy)).ok


def play(venv: Any, actions: np.ndarray, **words: Any) -> None:
    mode = venv.metadata["autoreset_mode"]
    venv.reset(seed=3)
    for tokens in actions:
        *_, terminated, truncated, _ = venv.step({"token": tokens, **words} if words else tokens)
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            venv.reset(options={"reset_mask": terminated | truncated})


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("mode", MODES)
def test_native_and_sync_write_the_same_bytes(
    mode: AutoresetMode,
    limit: int | None,
    select_options: dict[str, Any],
    random_actions: Actions,
    tmp_path: Path,
) -> None:
    options = {**select_options, "max_episode_steps": limit} if limit else select_options
    native = gym.make_vec(ID, num_envs=3, autoreset_mode=mode, **options)
    sync = gym.make_vec(
        ID,
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **options,
    )
    actions = random_actions(1, (40, 3))
    for name, venv in (("native", native), ("sync", sync)):
        play(VectorRecordEpisodes(venv, tmp_path / name), actions)
    assert (tmp_path / "native").read_bytes() == (tmp_path / "sync").read_bytes()
    header, found = read_episodes(tmp_path / "native")
    assert header.env_id == ID
    assert set(header.kwargs) <= set(select_options)
    kept = list(found)
    assert len(kept) > 15
    assert any(record.finish_reason is None for record in kept) is (limit is not None)
    report = replay(tmp_path / "sync")
    assert (report.episodes, report.equal) == (len(kept), len(kept))


@pytest.mark.parametrize("timing", ["step", "episode"])
@pytest.mark.parametrize("mode", MODES)
def test_kl_is_recorded_and_the_task_reward_replays(
    mode: AutoresetMode,
    timing: str,
    toy: dict[str, Any],
    make_model: Callable[..., Any],
    random_actions: Actions,
    tmp_path: Path,
) -> None:
    reference = CausalLMReference(make_model(seed=3), bfloat16=False)
    venv = TextVectorEnv(**toy, num_envs=3, autoreset_mode=mode)
    shaped = VectorReferenceKL(venv, reference, 0.25, timing=timing, policy_logprob=True)
    words = np.array([-0.5, -1.0, -1.5], np.float32)
    play(VectorRecordEpisodes(shaped, tmp_path / "file"), random_actions(4, (20, 3)), logprob=words)
    found = list(read_episodes(tmp_path / "file")[1])
    assert len(found) > 10
    for record in found:
        assert record.kl is not None and record.task_reward is not None
        assert record.kl.coef == 0.25
        np.testing.assert_allclose(
            record.kl.terms,
            -0.25 * (np.array(record.logprobs) - record.kl.reference_logprob),
        )
        assert record.reward == pytest.approx(record.task_reward + sum(record.kl.terms))
        assert record.reward != record.task_reward
    assert replay(tmp_path / "file", venv).ok


def test_single_kl_equals_vector(
    toy: dict[str, Any], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    reference = CausalLMReference(make_model(seed=3), bfloat16=False)
    env = RecordEpisodes(ReferenceKL(TextEnv(**toy), reference, 0.25), tmp_path / "file")
    env.reset(options={"prompt_id": "p2"})
    say(env, "aba")
    _, paid, *_ = env.step(1)
    (record,) = read_episodes(tmp_path / "file")[1]
    assert (record.reward, record.token_rewards[-1]) == (paid, paid)
    assert record.kl is not None
    assert record.kl.terms == pytest.approx([0.25 * r for r in record.kl.reference_logprob])


def test_another_wrapper_that_changes_the_reward_replays_too(
    toy: dict[str, Any], tmp_path: Path
) -> None:
    env = RecordEpisodes(TransformReward(TextEnv(**toy), lambda r: r / 3 - 1), tmp_path / "file")
    env.reset(seed=1)
    say(env, "ab")
    env.step(1)
    (record,) = read_episodes(tmp_path / "file")[1]
    assert record.task_reward is not None
    assert record.reward == -1 + -1 + (record.task_reward / 3 - 1)
    assert replay(tmp_path / "file", TextEnv(**toy)).ok


@pytest.fixture
def recording(select_options: dict[str, Any], random_actions: Actions, tmp_path: Path) -> Path:
    """A recording of some ten episodes."""
    path = tmp_path / "episodes.jsonl"
    venv = gym.make_vec(ID, num_envs=2, autoreset_mode="SameStep", **select_options)
    play(VectorRecordEpisodes(venv, path), random_actions(2, (20, 2)))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_id", "no-such-prompt"),
        ("prompt", "another text"),
        ("completion", "another answer"),
        ("finish_reason", "stop"),
        ("task_reward", 0.5),
        ("reward", 0.5),
        ("scored", False),
        ("reward_terms", {"context_match": -1.0000000000000002}),
        ("metrics", {}),
        ("completion_ids", None),
    ],
)
def test_a_tampered_line_is_named(recording: Path, field: str, value: Any) -> None:
    lines = recording.read_text().splitlines()
    values = json.loads(lines[4])
    if field == "completion_ids":
        value = [258, *values[field][1:]]  # one token more than the vocabulary has
    lines[4] = json.dumps({**values, field: value})
    assert replay(recording).ok, "the negative control"
    recording.write_text("\n".join(lines) + "\n")
    report = replay(recording)
    assert not report.ok and report.equal == report.episodes - 1
    assert {difference.line for difference in report.differences} == {5}
    assert report.differences[0].what.startswith(field)


def test_zero_and_minus_zero_are_told_apart(toy: dict[str, Any], tmp_path: Path) -> None:
    silent = {**toy, "reward": lambda prompt, completion: 0.0}
    env = RecordEpisodes(TextEnv(**silent), tmp_path / "file")
    env.reset(seed=0)
    env.step(1)
    assert replay(tmp_path / "file", env).ok
    silent["reward"] = lambda prompt, completion: -0.0
    whats = {d.what for d in replay(tmp_path / "file", TextEnv(**silent)).differences}
    assert "task_reward" in whats


def test_an_episode_that_ends_early_or_goes_on_differs(
    recording: Path, toy: dict[str, Any]
) -> None:
    for budget in (2, 30):
        report = replay(recording, options={"max_new_tokens": budget})
        whats = {difference.what for difference in report.differences}
        assert "finish_reason" in whats and not report.ok
        assert ("tokens acted" in whats) is (budget == 2)


@reward(name="letters")
def letters(prompt: Any, completion: str) -> float:
    """Score an answer by its length."""
    return float(len(completion))


def test_another_reward_rescores(recording: Path) -> None:
    report = replay(recording, reward=letters)
    assert report.ok and report.rescored, "scores are no differences when another is asked for"
    lengths = [len(record.completion) for record in read_episodes(recording)[1]]
    means = report.means()
    assert means["reward_terms.letters"] == (None, np.mean(lengths))
    assert means["task_reward"][1] == np.mean(lengths) != means["task_reward"][0]
    json.dumps(report.as_dict(), allow_nan=False)


def test_unscored_episodes_and_spread_rewards_replay(toy: dict[str, Any], tmp_path: Path) -> None:
    def spread(episodes: Any) -> RewardResult:
        scores = [None if not e.completion else 0.1 * len(e.completion_ids) for e in episodes]
        result = RewardResult.from_scores("spread", scores)
        share = [np.full(len(e.completion_ids), 0.1) for e in episodes]
        return RewardResult(result.scores, result.terms, share)

    task = {**toy, "reward": spread, "on_unscored": -2.0}
    env = RecordEpisodes(TextEnv(**task), tmp_path / "file")
    for text in ("", "ab"):
        env.reset(seed=0)
        say(env, text)
        env.step(1)
    empty, full = read_episodes(tmp_path / "file")[1]
    assert (empty.scored, empty.task_reward) == (False, -2.0)
    assert empty.reward_terms == {} and empty.reward_per_token is None
    assert full.reward_per_token == (0.1, 0.1, 0.1)
    assert replay(tmp_path / "file", env).ok


def test_an_object_as_reward_is_named_and_asked_for_again(
    select_options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    env = RecordEpisodes(gym.make(ID, reward=letters, **select_options), path)
    env.reset(seed=0)
    env.step(env.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    header, _ = read_episodes(path)
    assert (header.kwargs, header.objects) == (select_options, {"reward": "FunctionReward"})
    with pytest.raises(ConfigError, match="reward=FunctionReward, an object.*give reward again"):
        replay(path)
    assert replay(path, env).ok
    assert replay(path, reward=letters).means()["reward_terms.letters"] == (0.0, 0.0)


def test_an_environment_that_cannot_be_made_is_named(toy: dict[str, Any], tmp_path: Path) -> None:
    RecordEpisodes(TextEnv(**toy), tmp_path / "nameless")
    with pytest.raises(ConfigError, match="names no environment"):
        replay(tmp_path / "nameless")
    RecordingWriter(tmp_path / "foreign", Header("textenvs/ContextSelct-v0", {}, {}, "0.1.0"))
    with pytest.raises(UnknownNameError, match="Did you mean 'textenvs/ContextSelect-v0'"):
        replay(tmp_path / "foreign")
    with pytest.raises(ConfigError, match="not both"):
        replay(tmp_path / "nameless", TextEnv(**toy), options={"n": 1})


def test_recording_goes_on_in_the_same_file(
    recording: Path, select_options: dict[str, Any]
) -> None:
    before = len(list(read_episodes(recording)[1]))
    env = RecordEpisodes(gym.make(ID, **select_options), recording)
    env.reset(seed=0)
    env.step(env.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    assert len(list(read_episodes(recording)[1])) == before + 1
    with pytest.raises(ConfigError, match="recorded from .*'n_items': 3"):
        RecordEpisodes(gym.make(ID, **{**select_options, "n_items": 2}), recording)


def test_the_spec_of_a_recorded_environment_rebuilds_it(
    select_options: dict[str, Any], tmp_path: Path
) -> None:
    env = RecordEpisodes(gym.make(ID, **select_options), tmp_path / "file")
    assert env.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, RecordEpisodes)
    again.reset(seed=0)
    again.step(again.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    assert replay(tmp_path / "file").episodes == 1


def test_every_field_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "recording.md"
    rows = [r.split("|")[1] for r in page.read_text("utf-8").splitlines() if r.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert names == {field.name for field in dataclasses.fields(EpisodeRecord)}


def test_only_text_environments_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no text environment"):
        RecordEpisodes(gym.make("CartPole-v1"), tmp_path / "file")
    with pytest.raises(ConfigError, match="is no text environment"):
        VectorRecordEpisodes(
            gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"), tmp_path / "file"
        )
    assert not (tmp_path / "file").exists()


@given(seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_tokens_replay(toy: dict[str, Any], seed: int, tmp_path_factory: Any) -> None:
    """Random bytes, most of them no text: what is recorded is what the environment says."""
    path = tmp_path_factory.mktemp("any") / "file"
    venv = TextVectorEnv(**toy, num_envs=4, stop=["z"])
    play(VectorRecordEpisodes(venv, path), np.random.default_rng(seed).integers(0, 258, (12, 4)))
    report = replay(path, venv)
    assert report.ok and report.episodes >= 4
    for record in read_episodes(path)[1]:
        assert "".join(record.tokens) == venv.tokenizer.decode(record.completion_ids)
