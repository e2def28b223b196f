"""Random tokenizers, prompts, budgets and action streams never break an invariant."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from textenvs.env import TextEnv
from textenvs.tokenization import FileTokenizer
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv
from textenvs.vector_infos import row_info

LETTERS = "abc \n.é漢🙂"
TEXTS = st.text(alphabet=LETTERS, max_size=20)
CORPORA = st.lists(TEXTS, min_size=1, max_size=12)
SPECIALS = st.permutations(["<eos>", "<pad>", "<other>"])


@st.composite
def tokenizers_(draw: Any) -> FileTokenizer:
    """Draw a tokenizer: byte-level or metaspace BPE, its merges learnt from random text.

    The special tokens stand in any order; padding may be EOS itself.
    """
    if draw(st.booleans()):
        backend = Tokenizer(models.BPE(byte_fallback=False))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=draw(st.booleans()))
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend = Tokenizer(models.BPE(unk_token="<other>"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        alphabet = list(LETTERS)
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + draw(st.integers(4, 40)),
        special_tokens=draw(SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(draw(CORPORA), trainer)
    config = {"eos_token": "<eos>", "pad_token": draw(st.sampled_from(["<pad>", "<eos>", None]))}
    with tempfile.TemporaryDirectory() as folder:
        backend.save(str(Path(folder) / "tokenizer.json"))
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        return FileTokenizer(folder)


@st.composite
def tasks(draw: Any) -> dict[str, Any]:
    """Draw the arguments of an environment whose prompts fit."""
    tokenizer = draw(tokenizers_())
    prompts = [
        Prompt(f"id{i}", text)
        for i, text in enumerate(draw(st.lists(TEXTS, min_size=1, max_size=5)))
    ]
    longest = max(len(tokenizer.encode(prompt.text)) for prompt in prompts)
    return {
        "prompts": prompts,
        "reward": lambda prompt, completion: len(completion) - len(prompt.text),
        "tokenizer": tokenizer,
        "max_prompt_tokens": max(1, longest) + draw(st.integers(0, 3)),
        "max_new_tokens": draw(st.integers(1, 6)),
        "stop": draw(st.lists(st.text(LETTERS, min_size=1, max_size=3), max_size=2)),
    }


TASKS, SEEDS = tasks(), st.integers(0, 2**32 - 1)
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def actions_of(seed: int, tokenizer: FileTokenizer, shape: Any) -> np.ndarray:
    """Return tokens, every fifth the EOS token."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(tokenizer.vocab_size, size=shape)
    return np.where(generator.random(shape) < 0.2, tokenizer.eos_id, tokens)


@QUICK
@given(task=TASKS, seed=SEEDS)
def test_an_episode_keeps_its_word(task: dict[str, Any], seed: int) -> None:
    env = TextEnv(**task)
    tokenizer, start = env.tokenizer, task["max_prompt_tokens"]
    for episode in range(3):
        observation, info = env.reset(seed=seed if episode == 0 else None)
        prompt = env.prompts[env.prompts.index_of(info["prompt_id"])]
        assert env.observation_space.contains(observation) and info["prompt"] == prompt.text
        read = observation["input_ids"][observation["attention_mask"] == 1].tolist()
        assert read == tokenizer.encode(prompt.text)
        acted: list[int] = []
        for action in actions_of(seed + episode, tokenizer, task["max_new_tokens"]).tolist():
            before = {key: value.copy() for key, value in observation.items()}
            earlier = observation
            observation, reward, terminated, truncated, info = env.step(action)
            acted.append(action)
            column = start + len(acted) - 1
            changed = np.zeros(len(before["input_ids"]), bool)
            changed[column] = True
            assert env.observation_space.contains(observation) and truncated is False
            assert observation["input_ids"][column] == action
            assert (
                observation["attention_mask"][column] == 1 and before["attention_mask"][column] == 0
            )
            for key, value in before.items():
                assert np.array_equal(observation[key][~changed], value[~changed])
                assert np.array_equal(earlier[key], value), "an observation never changes later"
            if terminated:
                break
            assert reward == 0.0 and info == {} and action != tokenizer.eos_id
            text = tokenizer.decode(acted)
            assert not any(stop in text for stop in task["stop"])
        assert terminated
        check_ending(task, acted, float(reward), info, prompt)
        assert float(env.score(prompt, [info["completion"]]).scores[0]) == reward


def check_ending(
    task: dict[str, Any], acted: list[int], reward: float, info: dict[str, Any], prompt: Prompt
) -> None:
    tokenizer = task["tokenizer"]
    reason, at_eos = info["finish_reason"], acted[-1] == tokenizer.eos_id
    text = tokenizer.decode(acted[:-1] if at_eos else acted)
    stops = [text.find(stop) for stop in task["stop"] if stop in text]
    assert info["completion_ids"] == acted
    assert (reason == "eos") == at_eos
    if reason == "stop":
        assert stops and info["completion"] == text[: min(stops)]
    else:
        assert info["completion"] == text
    if reason == "length":
        assert len(acted) == task["max_new_tokens"] and not stops
    assert (
        reward == len(info["completion"]) - len(prompt.text) == sum(info["reward_terms"].values())
    )


@QUICK
@given(
    task=TASKS,
    seed=SEEDS,
    mode=st.sampled_from(list(AutoresetMode)),
    groups=st.sampled_from([(1, 1), (3, 1), (2, 2), (4, 2), (6, 3)]),
)
def test_a_batch_keeps_its_word(
    task: dict[str, Any], seed: int, mode: AutoresetMode, groups: tuple[int, int]
) -> None:
    rows, per_prompt = groups
    venv = TextVectorEnv(**task, num_envs=rows, autoreset_mode=mode, samples_per_prompt=per_prompt)
    start, budget = task["max_prompt_tokens"], task["max_new_tokens"]
    begun: dict[int, list[str]] = {row: [] for row in range(rows)}
    observation, infos = venv.reset(seed=seed)
    note_prompts(begun, infos, rows)
    over, lengths = np.zeros(rows, bool), np.zeros(rows, int)
    for tokens in actions_of(seed, venv.tokenizer, (4 * budget, rows)):
        if mode is AutoresetMode.DISABLED and over.any():
            observation, infos = venv.reset(options={"reset_mask": over.copy()})
            note_prompts(begun, infos, rows)
            for first in range(0, rows, per_prompt):
                members = slice(first, first + per_prompt)
                assert not over[members].all() or len(set(infos["prompt_id"][members])) == 1
            lengths[over], over = 0, np.zeros(rows, bool)
        waiting = over if mode is AutoresetMode.NEXT_STEP else np.zeros(rows, bool)
        observation, rewards, terminated, truncated, infos = venv.step(tokens)
        note_prompts(begun, infos, rows)
        assert venv.observation_space.contains(observation) and not truncated.any()
        assert not (waiting & terminated).any() and not rewards[waiting].any()
        lengths = np.where(waiting, 0, lengths + 1)
        finals = infos.get("final_info", {}) if mode is AutoresetMode.SAME_STEP else infos
        for row in np.flatnonzero(terminated).tolist():
            assert len(row_info(finals, row)["completion_ids"]) == lengths[row] <= budget
        assert not rewards[~terminated].any()
        if mode is AutoresetMode.SAME_STEP:
            lengths = np.where(terminated, 0, lengths)
        assert observation["attention_mask"][:, start:].sum(1).tolist() == lengths.tolist()
        over = terminated
    if mode is AutoresetMode.DISABLED:
        return  # there a group that is reset as a whole shares again, as seen above
    for first in range(0, rows, per_prompt):
        group = [begun[row] for row in range(first, first + per_prompt)]
        assert all(len(set(prompts)) == 1 for prompts in zip(*group, strict=False))


def note_prompts(begun: dict[int, list[str]], infos: dict[str, Any], rows: int) -> None:
    """Keep the prompt ids of the rows that have begun an episode."""
    for row in range(rows):
        found = row_info(infos, row).get("prompt_id")
        if found is not None:
            begun[row].append(found)


@QUICK
@given(task=TASKS, seed=SEEDS)
def test_a_saved_environment_goes_on(task: dict[str, Any], seed: int) -> None:
    """Through JSON, in the middle of an episode, single and vector alike."""
    for made in (TextEnv, TextVectorEnv):
        env, other = made(**task), made(**task)
        env.reset(seed=seed)
        tokens = actions_of(seed, task["tokenizer"], (12, 1))
        cut = seed % 6
        for action in tokens[:cut]:
            advance(env, action)
        other.load_state_dict(json.loads(json.dumps(env.state_dict())))
        for action in tokens[cut:]:
            assert advance(env, action) == advance(other, action)


def advance(env: Any, action: np.ndarray) -> str:
    """Step, resetting a single environment that is over; return what it says as text."""
    if isinstance(env, TextVectorEnv):
        return str(env.step(action))
    if env.batch.over[0]:
        return str(env.reset())
    return str(env.step(int(action[0])))
