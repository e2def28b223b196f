"""TRL's trainers on text environments, and what they are told."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textenvs
from textenvs.bridges.trl import prompt_dataset, reward_function
from textenvs.curriculum import GrowingShare
from textenvs.env import TextEnv
from textenvs.errors import (
    ConfigError,
    DoubleCountingError,
    MissingDependencyError,
    TokenizerError,
    UnknownNameError,
)
from textenvs.models import load_causal_lm, model_folder
from textenvs.reference import CausalLMReference
from textenvs.tokenization import FileTokenizer, load_tokenizer
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.reference_kl import ReferenceKL, VectorReferenceKL

ID = "textenvs/ContextSelect-v0"
Maker = Callable[..., Any]


def letters(tokenizer: Any, text: str, *, eos: bool = True) -> list[int]:
    return tokenizer.encode_completion(text) + [tokenizer.eos_id] * eos


def call(env: Any, texts: Sequence[str], prompt_id: str, **given: Any) -> list[float | None]:
    """Judge texts by their tokens, as a trainer would."""
    tokenizer = env.unwrapped.tokenizer
    ids = [letters(tokenizer, text) for text in texts]
    return reward_function(env)(
        prompts=["unused"] * len(texts),
        completions=list(texts),
        completion_ids=ids,
        prompt_id=[prompt_id] * len(texts),
        **given,
    )


# Rewards.


def test_rewards_are_those_of_score(select_options: dict[str, Any]) -> None:
    env = gym.make(ID, **select_options, reward="context-match-f1")
    prompt = env.unwrapped.prompts[3]
    texts = [env.unwrapped.oracle(prompt)[:5], "t1", ""]
    scores = env.unwrapped.score(prompt, texts).scores.tolist()
    assert call(env, texts, prompt.id) == scores
    by_id = reward_function(ID, **select_options, reward="context-match-f1")
    told = by_id(completions=texts, prompt_id=[prompt.id] * 3, split=["train"] * 3)
    assert told == scores
    right = env.unwrapped.oracle(prompt)
    assert by_id(completions=[right], prompt_id=[prompt.id]) == [1.0]


@pytest.mark.parametrize(
    ("stop", "unreached"), [((), set()), (("ta",), set()), (("ab", "b", "ta"), {"length"})]
)
def test_tokens_are_judged_as_the_environment_would_end_them(
    toy: dict[str, Any],
    random_actions: Callable[..., np.ndarray],
    stop: Sequence[str],
    unreached: set[str],
) -> None:
    env = TextEnv(**{**toy, "max_new_tokens": 6}, stop=stop)
    function = reward_function(env)
    told: dict[str, list[Any]] = {}
    tokens = random_actions(0, (40, 9)).tolist()  # three longer than the budget
    env.reset(seed=0)
    expected: list[tuple[float, str]] = []
    asked = []
    for row in tokens:
        _, begun = env.reset()
        asked.append(begun["prompt_id"])
        for token in row:
            _, reward, terminated, _, info = env.step(token)
            if terminated:
                expected.append((reward, info["finish_reason"]))
                break
    texts = [env.tokenizer.decode(row) for row in tokens]
    rewards = function(
        completions=texts, completion_ids=tokens, prompt_id=asked, log_extra=told.__setitem__
    )
    assert rewards == [reward for reward, _ in expected]
    assert told["finish_reason"] == [reason for _, reason in expected]
    assert told["prompt_id"] == asked
    assert ("stop" in told["finish_reason"]) == bool(stop)
    assert set(told["finish_reason"]) - {"stop"} == {"eos", "length"} - unreached


def test_what_the_trainer_cuts_off_counts_as_cut_off(toy: dict[str, Any]) -> None:
    env, told = TextEnv(**toy), {}
    ids = [letters(env.tokenizer, "aa", eos=False), letters(env.tokenizer, "aa")]
    reward_function(env)(
        completions=["aa", "aa"],
        completion_ids=ids,
        prompt_id=["p0", "p0"],
        log_extra=told.__setitem__,
    )
    assert told["finish_reason"] == ["length", "eos"]


def test_texts_are_judged_up_to_a_stop_string(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, stop=("b",))
    plain = reward_function(env)(completions=["aa", "aabaa"], prompt_id=["p0", "p0"])
    assert plain[0] == plain[1] == env.score("p0", ["aa"]).scores[0]
    messages = [[{"role": "assistant", "content": text}] for text in ("aa", "aabaa")]
    assert reward_function(env)(completions=messages, prompt_id=["p0", "p0"]) == plain


def test_thoughts_of_a_chat_parser_are_judged_with_the_tokens(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    parsed = [[{"role": "assistant", "content": "a", "thinking": "aaa"}]]
    ids = [letters(env.tokenizer, "aaaa")]
    rewards = reward_function(env)(completions=parsed, completion_ids=ids, prompt_id=["p0"])
    assert rewards == env.score("p0", ["aaaa"]).scores.tolist()


def unsure(prompt: Prompt, completion: str) -> float:
    return math.nan if completion == "b" else 1.0


def test_none_where_the_reward_did_not_score(toy: dict[str, Any]) -> None:
    told: dict[str, float] = {}
    env = TextEnv(**{**toy, "reward": unsure})
    assert call(env, ["a", "b"], "p0", log_metric=told.__setitem__) == [1.0, None]
    assert told["scored"] == 0.5 and told["reward/unsure"] == 1.0
    skipping = TextEnv(**{**toy, "reward": unsure}, on_unscored="skip")
    assert call(skipping, ["b"], "p0", log_metric=told.__setitem__) == [None]
    stated = TextEnv(**{**toy, "reward": unsure}, on_unscored=-2.0)
    assert call(stated, ["a", "b"], "p0") == [1.0, -2.0]


def test_terms_and_gold_metrics_are_logged(select_options: dict[str, Any]) -> None:
    env = gym.make(ID, **select_options)
    prompt = env.unwrapped.prompts[0]
    texts = [env.unwrapped.oracle(prompt), ""]
    told: dict[str, float] = {}
    function = reward_function(env)
    rewards = function(completions=texts, prompt_id=[prompt.id] * 2, log_metric=told.__setitem__)
    assert function.__name__ == "ContextSelect-v0"
    assert told["reward/context_match"] == pytest.approx(np.mean(rewards))
    golds = env.unwrapped.metrics(env.unwrapped.batch.episodes([prompt] * 2, texts))
    assert told["gold/correct"] == pytest.approx(np.mean(golds["correct"])) == 0.5
    assert told["scored"] == 1.0 and told["cut"] == 0.0


def test_going_on_after_the_end_is_logged(toy: dict[str, Any]) -> None:
    told: dict[str, float] = {}
    env = TextEnv(**toy)
    ids = [letters(env.tokenizer, "a" * 9), letters(env.tokenizer, "a")]
    texts = ["a" * 9, "a"]
    reward_function(env)(
        completions=texts,
        completion_ids=ids,
        prompt_id=["p0", "p0"],
        log_metric=told.__setitem__,
    )
    assert told["cut"] == 0.5
    assert reward_function(env).max_new_tokens == 5


# What is refused.


def test_a_kl_in_the_environment_is_refused(toy: dict[str, Any], make_model: Maker) -> None:
    shaped = ReferenceKL(TextEnv(**toy), CausalLMReference(make_model()), 0.1)
    with pytest.raises(DoubleCountingError, match="leave the KL to the trainer's beta"):
        reward_function(shaped)
    with pytest.raises(DoubleCountingError, match="beta"):
        prompt_dataset(shaped)
    with pytest.raises(DoubleCountingError, match="beta"):
        reward_function(ID, reference="tiny-lm", kl_coef=0.1)
    venv = VectorReferenceKL(TextVectorEnv(**toy, num_envs=2), CausalLMReference(make_model()), 0.1)
    with pytest.raises(DoubleCountingError, match="beta"):
        reward_function(venv)


def test_a_coefficient_of_0_is_no_kl(toy: dict[str, Any], select_options: dict[str, Any]) -> None:
    assert reward_function(ID, **select_options, reference="tiny-lm", kl_coef=0.0)
    venv = gym.make_vec(ID, num_envs=2, **select_options)
    assert reward_function(venv).__name__ == "ContextSelect-v0"


def test_unknown_names_are_met_with_near_ones(toy: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'textenvs/ContextSelect-v0'"):
        reward_function("textenvs/ContextSelct-v0")
    with pytest.raises(UnknownNameError, match="Did you mean 'n_items'"):
        reward_function(ID, n_item=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'p1'"):
        call(TextEnv(**toy), ["a"], "p1x")
    with pytest.raises(UnknownNameError, match="Did you mean 'train'"):
        prompt_dataset(ID, "tain")


def test_columns_are_asked_for_by_name(toy: dict[str, Any]) -> None:
    function = reward_function(TextEnv(**toy))
    with pytest.raises(ConfigError, match="no column 'prompt_id'.*remove_unused_columns=False"):
        function(prompts=["ab0"], completions=["a"], completion_ids=[[1]])
    with pytest.raises(ConfigError, match="got 1 values of 'prompt_id' for 2"):
        function(completions=["a", "a"], prompt_id=["p0"])
    with pytest.raises(ConfigError, match="a text or a list of messages, got 3"):
        function(completions=[3], prompt_id=["p0"])


def test_only_text_environments(toy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="id of a text environment"):
        reward_function(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="id of a text environment"):
        reward_function(None)
    with pytest.raises(ConfigError, match=r"\['n_items'\] go with an id"):
        reward_function(TextEnv(**toy), n_items=3)


# Tokenizers.


def test_other_tokens_are_refused_or_judged_by_text(
    toy: dict[str, Any], byte_folder: Path, tmp_path: Path
) -> None:
    env, told = TextEnv(**toy), {}
    tiny = load_tokenizer("tiny-lm")
    ids = [letters(tiny, "aaaa aaaa"), letters(tiny, "aaaa", eos=False)]
    columns = {"completions": ["aaaa aaaa", "aaaa"], "completion_ids": ids, "prompt_id": ["p0"] * 2}
    with pytest.raises(TokenizerError, match="processing_class="):
        reward_function(env)(**columns)
    through_text = reward_function(env, processing_class="tiny-lm")
    assert through_text.through_text
    rewards = through_text(**columns, log_extra=told.__setitem__)
    assert rewards == env.score("p0", ["aaaa aaaa", "aaaa"]).scores.tolist()
    assert told["finish_reason"] == ["eos", "length"]
    same = reward_function(env, processing_class=FileTokenizer(byte_folder))
    assert not same.through_text


def test_a_transformers_tokenizer_is_known_for_the_same(select_options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("tiny-lm"))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    options = {**select_options, "tokenizer": "tiny-lm"}
    assert not reward_function(ID, processing_class=tokenizer, **options).through_text


# Prompts.


def test_the_dataset_holds_what_is_asked(select_options: dict[str, Any]) -> None:
    dataset = prompt_dataset(ID, "test", max_prompts=5, **select_options)
    source = gym.make(ID, split="test", **select_options).unwrapped.prompts
    assert len(dataset) == 5 and len(prompt_dataset(ID, **select_options)) == 50
    for i, row in enumerate(dataset):
        prompt = source[i]
        assert (row["prompt"], row["prompt_id"]) == (prompt.text, prompt.id)
        assert (row["split"], row["reference"]) == ("test", prompt.reference)
        assert json.loads(row["context"]) == [list(item) for item in prompt.context]
        assert json.loads(row["metadata"]) == dict(prompt.metadata)


def test_one_function_serves_every_split(select_options: dict[str, Any]) -> None:
    function = reward_function(ID, **select_options)
    rows = [*prompt_dataset(ID, max_prompts=1, **select_options)]
    rows += [*prompt_dataset(ID, "test", max_prompts=1, **select_options)]
    columns = {key: [row[key] for row in rows] for key in ("prompt_id", "split")}
    assert function(completions=[row["reference"] for row in rows], **columns) == [1.0, 1.0]
    of_train = reward_function(gym.make(ID, **select_options))
    with pytest.raises(ConfigError, match="holds the prompts of the split 'train', but 'test'"):
        of_train(completions=["", ""], **columns)
    of_test = gym.make(ID, split="test", **select_options)
    assert prompt_dataset(of_test)[0]["split"] == "test"


def test_conversations_stay_messages(byte_folder: Path, tmp_path: Path, toy: Any) -> None:
    folder = tmp_path / "chat"
    folder.mkdir()
    for file in byte_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}>")
    env = TextEnv(**{**toy, "tokenizer": str(folder), "max_prompt_tokens": 12}, chat=True)
    row = prompt_dataset(env, max_prompts=1)[0]
    assert row["prompt"] == [{"role": "user", "content": "ab0"}]
    assert row["prompt_id"] == "p0"
    long = {**toy, "tokenizer": str(folder), "max_prompt_tokens": 4, "overlong": "truncate"}
    with pytest.raises(ConfigError, match="renders it in full.*at least 6"):
        prompt_dataset(TextEnv(**long, chat=True))


def test_prompts_are_cut_where_the_environment_cuts_them(toy: dict[str, Any]) -> None:
    env = TextEnv(**{**toy, "max_prompt_tokens": 4}, overlong="truncate")
    assert prompt_dataset(env)["prompt"][:3] == ["ab0", "bab1", "bab2"]


def test_a_curriculum_is_the_order_of_the_rows(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, curriculum=GrowingShare(0.2, 1.0, episodes=20))
    asked = [env.reset(seed=3)[1]["prompt_id"]]
    asked += [env.reset()[1]["prompt_id"] for _ in range(6)]
    assert prompt_dataset(env, seed=3)["prompt_id"][:] == asked
    assert asked[0] == "p0" and prompt_dataset(env, seed=4)["prompt_id"][:] != asked


def test_datasets_is_asked_for(monkeypatch: pytest.MonkeyPatch, toy: dict[str, Any]) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="datasets"):
        prompt_dataset(TextEnv(**toy))
    with pytest.raises(ConfigError, match="max_prompts must be"):
        monkeypatch.undo()
        prompt_dataset(TextEnv(**toy), max_prompts=0)


# Trainers.


def train(algorithm: str, env_id: str, folder: Path, **options: Any) -> Any:
    """Train for two steps and return the trainer."""
    trl = pytest.importorskip("trl")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("tiny-lm"))
    function = reward_function(env_id, processing_class=tokenizer, **options)
    config = getattr(trl, f"{algorithm}Config")(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=function.max_new_tokens,
        learning_rate=1e-3,
        beta=0.05,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = getattr(trl, f"{algorithm}Trainer")(
        load_causal_lm("tiny-lm"),
        reward_funcs=function,
        args=config,
        train_dataset=prompt_dataset(env_id, max_prompts=16, **options),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def vowels(prompt: Prompt, completion: str) -> float:
    return sum(letter in "aeiou" for letter in completion)


@pytest.fixture
def of_ones_own() -> Iterator[None]:
    prompts = [f"The {i}th film of the year is" for i in range(20)]
    textenvs.register("test/Vowels-v0", prompts, vowels, max_new_tokens=4)
    yield
    textenvs.unregister("test/Vowels-v0")


@pytest.mark.usefixtures("of_ones_own")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        (ID, {"n_items": 4, "max_prompt_tokens": 128, "reward": "context-match-f1"}),
        ("test/Vowels-v0", {}),
    ],
    ids=["ContextSelect", "Vowels"],
)
def test_trl_trains(algorithm: str, env_id: str, options: Any, tmp_path: Path) -> None:
    trainer = train(algorithm, env_id, tmp_path, **options)
    steps = [line for line in trainer.state.log_history if "reward" in line]
    name = env_id.rpartition("/")[2]
    assert len(steps) == 2
    for line in steps:
        assert line[f"rewards/{name}/mean"] == pytest.approx(line["reward"])
        assert line["scored"] == 1.0 and line["cut"] == 0.0 and math.isfinite(line["loss"])
        assert any(key.startswith("gold/") for key in line) == (env_id == ID)
    before = load_causal_lm("tiny-lm").state_dict()
    after = trainer.model.state_dict()
    assert any(not np.array_equal(before[key], after[key]) for key in before)


def test_the_adapter_is_there_when_asked_for() -> None:
    assert textenvs.bridges.trl.reward_function is reward_function


def test_judging_an_id_imports_nothing_heavy() -> None:
    code = (
        "import sys, textenvs\n"
        f"function = textenvs.bridges.trl.reward_function({ID!r}, n_prompts=2)\n"
        "print(len(function(completions=[''], prompt_id=['train-0-0'])))\n"
        "print([name for name in ('trl', 'datasets', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["1", "[]"]
