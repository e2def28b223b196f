"""Conversations: rendered as transformers renders them, encoded once, scored as text."""

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textenvs
from textenvs.chat import renderer
from textenvs.env import TextEnv
from textenvs.errors import PromptError, TokenizerError
from textenvs.prompts import as_prompt
from textenvs.tokenization import FileTokenizer, load_tokenizer

TEMPLATE = """{%- if messages[0]['role'] != 'system' %}
{{- '<|system|>be brief' + eos_token }}
{% endif %}
{%- for message in messages %}
    {%- if message['role'] not in ['user', 'assistant', 'system'] %}
        {{- raise_exception('unknown role ' + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
TALK = [
    {"role": "user", "content": " How are you? "},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "Really?"},
]


@pytest.fixture(scope="module")
def chat_folder(byte_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte tokenizer with a chat template."""
    folder: Path = tmp_path_factory.mktemp("chat") / "tokenizer"
    shutil.copytree(byte_folder, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_rendered_as_transformers_does(chat_folder: Path) -> None:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(str(chat_folder))
    ours = renderer(FileTokenizer(chat_folder))
    for talk in (TALK, TALK[:1], [{"role": "system", "content": "x"}, *TALK]):
        expected = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert ours(talk) == expected == renderer(load_tokenizer(theirs))(talk)
    assert "How are you?<eos>" in ours(TALK) and ours(TALK).endswith("<|assistant|>")


def test_the_environment_reads_conversations(chat_folder: Path) -> None:
    prompts = [{"prompt": TALK, "reference": "Yes."}, {"messages": TALK[:1]}]
    env = TextEnv(
        prompts,
        lambda prompt, completion: float(completion in prompt.text),
        str(chat_folder),
        max_prompt_tokens=120,
        max_new_tokens=4,
    )
    observation, info = env.reset(options={"prompt_id": "0"})
    expected = renderer(env.tokenizer)(TALK)
    assert info["prompt"] == expected == env.prompts[0].text
    shown = observation["input_ids"][observation["attention_mask"] == 1]
    assert shown.tolist() == env.tokenizer.encode_completion(expected)
    assert (shown == env.tokenizer.eos_id).sum() == expected.count("<eos>") == 4
    assert env.prompts[0].reference == "Yes."
    assert env.score("0", ["Really?", "Never"]).scores.tolist() == [1.0, 0.0]


def test_chat_wraps_plain_prompts(chat_folder: Path) -> None:
    textenvs.register("me/Chat-v0", ["Say tea:"], lambda prompt, completion: 0.0)
    try:
        options = {"tokenizer": str(chat_folder), "max_prompt_tokens": 90}
        plain: Any = gym.make("me/Chat-v0", **options).unwrapped
        chat: Any = gym.make("me/Chat-v0", chat=True, **options).unwrapped
        venv: Any = gym.make_vec("me/Chat-v0", num_envs=2, chat=True, **options)
    finally:
        textenvs.unregister("me/Chat-v0")
    assert plain.prompts[0].text == "Say tea:"
    assert chat.prompts[0].text.endswith("<|user|>Say tea:<eos>\n<|assistant|>")
    assert venv.reset(seed=0)[1]["prompt"].tolist() == [chat.prompts[0].text] * 2
    again = TextEnv(**chat.batch.task_arguments())
    assert again.prompts[0].text == chat.prompts[0].text  # rendered once, not twice


def test_a_template_without_special_tokens_twice(chat_folder: Path, byte_folder: Path) -> None:
    """A tokenizer that puts EOS behind every text does not do so behind a template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = FileTokenizer(chat_folder)
    tokenizer.backend.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 0)]
    )
    env = TextEnv([TALK], lambda p, c: 0.0, tokenizer, max_prompt_tokens=120)
    ids = env.reset(seed=0)[0]["input_ids"][:120]
    text = TextEnv(["plain"], lambda p, c: 0.0, tokenizer, max_prompt_tokens=10)
    assert text.reset(seed=0)[0]["attention_mask"][:10].sum() == 6  # negative control
    n = len(tokenizer.encode_completion(env.prompts[0].text))
    assert env.reset(seed=0)[0]["attention_mask"][:120].sum() == n
    assert np.array_equal(ids[-n:], tokenizer.encode_completion(env.prompts[0].text))


def test_too_long_a_conversation(chat_folder: Path) -> None:
    with pytest.raises(PromptError, match="prompt '0' has .* tokens, but max_prompt_tokens is 20"):
        TextEnv([TALK], lambda p, c: 0.0, str(chat_folder), max_prompt_tokens=20)


def test_no_template(byte_folder: Path) -> None:
    with pytest.raises(TokenizerError, match="has no chat template"):
        TextEnv([TALK], lambda p, c: 0.0, str(byte_folder))


def test_a_template_that_refuses(chat_folder: Path) -> None:
    with pytest.raises(TokenizerError, match="roles \\['robot'\\]: unknown role robot"):
        TextEnv([[{"role": "robot", "content": "hi"}]], lambda p, c: 0.0, str(chat_folder))


def test_a_template_cannot_reach_out(chat_folder: Path, tmp_path: Path) -> None:
    """A template comes with a model, and is not trusted."""
    from jinja2.exceptions import SecurityError

    folder = tmp_path / "evil"
    shutil.copytree(chat_folder, folder)
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises((TokenizerError, SecurityError)):
        TextEnv([TALK], lambda p, c: 0.0, str(folder))


BAD = [
    ([], "is an empty list of messages"),
    ([{"role": "user"}], "'role' and 'content'"),
    ({"messages": ["hello"]}, "'role' and 'content'"),
    (3, "a prompt is a text, a list of messages"),
    ({"question": "x"}, "has no 'text'"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_bad_conversations(value: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        as_prompt(value, 7)
