"""`textenvs/Instruct-v0`: three formats, dialogues, budgets, templates."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs.conversations import chatterbot, load_conversations
from textenvs.errors import (
    ConfigError,
    CorpusError,
    MissingDependencyError,
    TokenizerError,
    UnknownNameError,
)
from textenvs.prompts import normalise, split_of
from textenvs.suite.instruct import InstructEnv
from textenvs.types import Episode

ID = "textenvs/Instruct-v0"
ALPACA = [
    {"instruction": f"Add one to {i}.", "input": "Be brief." * (i % 2), "output": f"It is {i + 1}."}
    for i in range(40)
]
HH = [
    {
        "chosen": f"\n\nHuman: Hi {i}\n\nAssistant: Yes?\n\nHuman: What is {i}?"
        f"\n\nAssistant: A number:\n\n{i}.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Go away.",
    }
    for i in range(40)
]
CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": f"Say {i}"},
            {"role": "assistant", "content": f"{i}!"},
        ]
    }
    for i in range(40)
]


def similar(corpus: Any, **options: Any) -> InstructEnv:
    return InstructEnv(corpus=corpus, **options)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_formats_are_detected(suffix: str, tmp_path: Path) -> None:
    expected = {
        "alpaca": ("Add one to 1.\n\nBe brief.", "It is 2."),
        "hh": ("What is 1?", "A number:\n\n1."),
        "chat": ("Say 1", "1!"),
    }
    for name, rows in (("alpaca", ALPACA), ("hh", HH), ("chat", CHAT)):
        path = tmp_path / f"{name}{suffix}"
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]")
        conversations = load_conversations(str(path))
        assert len(conversations) == 40
        question, answer = expected[name]
        assert conversations[1].messages[-1] == {"role": "user", "content": question}
        assert conversations[1].answers == (answer,)
    assert [m["role"] for m in load_conversations(HH)[1].messages] == ["user", "assistant", "user"]


def test_no_format_fits() -> None:
    for rows, words in (
        ([{"question": "a", "answer": "b"}], r"of no format.*\['answer', 'question'\]"),
        (["text"], "of no format"),
        ([], "has no row"),
        ([ALPACA[0], {"instruction": None}], "row 1 .* not in the alpaca format"),
        ([ALPACA[0], {"prompt": "x"}], "row 1 .* not in the alpaca format"),
        ([{"instruction": " ", "output": "x"}], "row 0 .* asks nothing"),
        ([{"chosen": "Human: a"}], "row 0 .* not in the hh format.*must begin with"),
        ([{"chosen": "\n\nHuman: a"}], "row 0 .* not in the hh format"),
        ([{"messages": [{"role": "user"}]}], "row 0 .* not in the chat format"),
        ([{"messages": []}], "row 0 .* asks nothing"),
    ):
        with pytest.raises(CorpusError, match=words):
            load_conversations(rows)
    with pytest.raises(UnknownNameError, match="Did you mean 'chatterbot'"):
        load_conversations("chaterbot")
    with pytest.raises(ConfigError, match="there is no file"):
        load_conversations("absent.jsonl")


def test_answers_to_one_question_are_put_together() -> None:
    rows = [
        {"instruction": "Hello?", "output": "Yes."},
        {"instruction": " HELLO? ", "output": "No."},
        {"instruction": "Hello?", "output": "Yes."},
        {"instruction": "Hello?", "output": ""},
    ]
    (only,) = load_conversations(rows)
    assert only.answers == ("Yes.", "No.")


def test_dialogues_are_text_as_hh_writes_them() -> None:
    env = similar(HH)
    prompt = env.prompts[0]
    i = int(prompt.context.removeprefix("What is ").rstrip("?"))
    assert prompt.text == HH[i]["chosen"].removesuffix(f" A number:\n\n{i}.")
    assert prompt.reference == f"A number:\n\n{i}." and prompt.messages is None
    assert similar(CHAT).prompts[0].text.startswith("\n\nSystem: Be kind.\n\nHuman: Say ")


def test_chat_template(byte_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((byte_folder / name).read_bytes())
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
    (tmp_path / "chat_template.jinja").write_text(template)
    env = similar(CHAT, chat=True, tokenizer=str(tmp_path))
    prompt = env.prompts[0]
    assert prompt.text == f"<system>Be kind.<user>{prompt.context}<answer>"
    assert prompt.messages is not None and [m["role"] for m in prompt.messages] == [
        "system",
        "user",
    ]
    assert similar(CHAT, tokenizer=str(tmp_path)).prompts[0].text.endswith("\n\nAssistant:")
    with pytest.raises(TokenizerError, match="has no chat template"):
        similar(CHAT, chat=True, tokenizer=str(byte_folder))


def test_splits_are_by_the_first_question() -> None:
    seen: set[str] = set()
    for split in ("train", "validation", "test"):
        prompts = gym.make(ID, split=split).unwrapped.prompts  # type: ignore[attr-defined]
        here = {normalise(prompt.group) for prompt in prompts}
        assert len(here) > 40 and not here & seen
        seen |= here
    follow_up = [
        {"messages": [{"role": "user", "content": "Tell me."}, *more]}
        for more in ([], [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B?"}])
    ]
    groups = {
        p.group for p in similar(follow_up, answers="any", split=split_of("Tell me.")).prompts
    }
    assert groups == {"Tell me."}


def test_the_default_is_solved_by_its_oracle_within_the_budget() -> None:
    env = gym.make(ID, split="test").unwrapped
    assert isinstance(env, InstructEnv)
    for prompt in list(env.prompts)[:20]:
        env.reset(options={"prompt_id": prompt.id})
        for token in [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]:
            _, reward, over, _, info = env.step(token)
        assert over and info["finish_reason"] == "eos" and reward > 0.99
        assert info["metrics"]["exact"] == 1.0


def test_probes_earn_little() -> None:
    env = InstructEnv(split="test")
    prompts = list(env.prompts)
    for name in env.probes(prompts[0]):
        episodes = [Episode(p, env.probes(p)[name]) for p in prompts]
        assert env.reward(episodes).scores.mean() < 0.2, name
    copies = [Episode(p, p.text) for p in prompts]
    assert env.reward(copies).scores.mean() < 0.1


def test_answers_that_fit() -> None:
    rows = [*ALPACA, {"instruction": "Count.", "output": "1 2 3 " * 30}]
    kept = {
        p.context for s in ("train", "validation", "test") for p in similar(rows, split=s).prompts
    }
    every = {
        p.context
        for s in ("train", "validation", "test")
        for p in similar(rows, split=s, answers="any").prompts
    }
    assert every - kept == {"Count."}
    with pytest.raises(ConfigError, match="none of the 41 conversations.*answers='any'"):
        similar(rows, max_new_tokens=2)
    with pytest.raises(UnknownNameError, match="Did you mean 'fit'"):
        similar(rows, answers="fits")


def test_gold_metrics() -> None:
    env = similar(ALPACA)
    prompt = env.prompts[0]
    metrics = env.metrics([Episode(prompt, prompt.reference or ""), Episode(prompt, "It, it!")])
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "rouge_l": [1.0, pytest.approx(2 / 5)],
        "exact": [1.0, 0.0],
        "copied": [0.0, 0.0],
        "distinct_1": [1.0, 0.5],
        "length_words": [3.0, 2.0],
    }
    unanswered = similar([{"instruction": "Why?"}] * 1, answers="any", split=split_of("Why?"))
    got = unanswered.metrics([Episode(unanswered.prompts[0], "a")])
    assert got["rouge_l"].tolist() == got["exact"].tolist() == [0.0]


def test_chatterbot() -> None:
    conversations = chatterbot()
    assert len(conversations) > 700
    by_question = {c.messages[0]["content"]: c.answers for c in conversations}
    assert "Python." in by_question["What language are you written in?"]
    assert np.mean([len(answers) for answers in by_question.values()]) > 1.1


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    chatterbot.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yaml", None)
        with pytest.raises(MissingDependencyError, match="pip install PyYAML"):
            load_conversations("chatterbot")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="--no-deps chatterbot-corpus==1.3.3"):
        load_conversations("chatterbot")
