"""`textenvs/ContextQA-v0`: passages, splits, wording, windows, SQuAD files, exploits."""

import inspect
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs.errors import (
    ConfigError,
    CorpusError,
    PromptError,
    TextEnvsError,
    UnknownNameError,
)
from textenvs.prompts import SPLITS, normalise, split_of
from textenvs.rewards.grounding.answer_match import METRICS
from textenvs.suite import SUITE
from textenvs.suite.context_qa import ContextQAEnv, context_qa_task, make_vec, qa_probes
from textenvs.suite.film_facts import (
    HELD_OUT_WORDING,
    KINDS,
    TRAINING_WORDING,
    WORDINGS,
    Wording,
    films_of,
)
from textenvs.task_env import COMMON_OPTIONS
from textenvs.tokenization import load_tokenizer
from textenvs.types import Prompt

ID = "textenvs/ContextQA-v0"
DOCS = Path(__file__).parent.parent.parent / "docs"
N = 200


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Prompt]]:
    """The first prompts of each split."""
    return {
        split: list(ContextQAEnv(split=split, n_prompts=N).prompts)
        for split in ("train", "validation", "test")
    }


def templates(wording: Wording) -> set[str]:
    tables = (wording.sentences, wording.questions)
    return {text for table in tables for texts in table.values() for text in texts}


def pattern(template: str, film: str) -> re.Pattern[str]:
    """What a template can come out as."""
    parts = re.split(r"(\{film\}|\{value\})", template)
    filled = "".join({"{film}": film, "{value}": ".+"}.get(p, re.escape(p)) for p in parts)
    return re.compile(filled, re.IGNORECASE)


def patterns(wording: Wording) -> list[re.Pattern[str]]:
    film = '(?:".+"|' + "|".join(wording.stand_ins) + ")"
    return [pattern(template, film) for template in templates(wording)]


def test_no_test_film_and_no_test_wording_in_training(splits: dict[str, list[Prompt]]) -> None:
    films = {
        split: {
            normalise(f[0]) for p in prompts for f in [*p.metadata["facts"], [p.metadata["film"]]]
        }
        for split, prompts in splits.items()
    }
    for split, titles in films.items():
        assert {split_of(title) for title in titles} == {split}
    assert not films["train"] & films["test"] and not films["train"] & films["validation"]
    assert not templates(TRAINING_WORDING) & templates(HELD_OUT_WORDING)
    assert not set(TRAINING_WORDING.stand_ins) & set(HELD_OUT_WORDING.stand_ins)
    for split, prompts in splits.items():
        own = patterns(WORDINGS[split])  # type: ignore[index]
        other = patterns(TRAINING_WORDING if split == "test" else HELD_OUT_WORDING)
        for prompt in prompts:
            for text in (*prompt.context, prompt.metadata["question"]):
                assert any(p.fullmatch(text) for p in own), text
                assert not any(p.fullmatch(text) for p in other), text


def test_every_wording_is_used(splits: dict[str, list[Prompt]]) -> None:
    for split, wording in (("train", TRAINING_WORDING), ("test", HELD_OUT_WORDING)):
        texts = [t for p in splits[split] for t in (*p.context, p.metadata["question"])]
        for p in patterns(wording):
            assert any(p.fullmatch(text) for text in texts), p.pattern
        assert all(len(wording.sentences[kind]) >= 3 for kind in KINDS)
        assert all(len(wording.questions[kind]) >= 2 for kind in KINDS)


def test_prompts_are_what_they_say(splits: dict[str, list[Prompt]]) -> None:
    for split, prompts in splits.items():
        table = {film.title: film for film in films_of(split)}  # type: ignore[arg-type]
        for prompt in prompts:
            known, facts = prompt.metadata, prompt.metadata["facts"]
            assert prompt.text.startswith(" ".join(prompt.context) + "\n\n" + known["question"])
            assert f'"{known["refusal"]}"' in prompt.text and prompt.text.endswith("Answer:")
            assert len(facts) == len(prompt.context) == len({(f, k) for f, k, _ in facts})
            for (film, kind, value), sentence in zip(facts, prompt.context, strict=True):
                assert value.casefold() in sentence.casefold()
                truth = getattr(table[film], kind)
                assert value in truth if kind == "cast" else value == truth
            assert len({film for film, _, _ in facts}) == 3
            told = [v for f, k, v in facts if (f, k) == (known["film"], known["kind"])]
            assert known["answers"] == told and known["answerable"] == bool(told)
            assert prompt.reference == (told[0] if told else known["refusal"])
            json.dumps(dict(known))


def test_another_film_tells_another_value(splits: dict[str, list[Prompt]]) -> None:
    first_right = 0
    for prompt in splits["train"]:
        kind, film = prompt.metadata["kind"], prompt.metadata["film"]
        values = [v for _, k, v in prompt.metadata["facts"] if k == kind]
        others = [v for f, k, v in prompt.metadata["facts"] if k == kind and f != film]
        assert others and len(set(map(normalise, values))) == len(values)
        first_right += values[0] == prompt.reference
    assert 0.2 < first_right / N < 0.5


def test_the_pool_is_as_large_as_said() -> None:
    films = [film for split in SPLITS for film in films_of(split)]
    for text in (SUITE[ID].text, (DOCS / "context_qa.md").read_text(encoding="utf-8")):
        assert f"{len(films):,}" in text
    assert all(film.director not in film.cast and film.cast for film in films)


def test_a_quarter_has_no_answer(splits: dict[str, list[Prompt]]) -> None:
    for prompts in splits.values():
        unanswerable = [p for p in prompts if not p.metadata["answerable"]]
        assert abs(len(unanswerable) - N / 4) <= 3
        mentioned = [
            any(f == p.metadata["film"] for f, _, _ in p.metadata["facts"]) for p in unanswerable
        ]
        assert 0.25 < np.mean(mentioned) < 0.75
        assert min(Counter(p.metadata["kind"] for p in prompts).values()) > N / 8
    source = ContextQAEnv().prompts
    assert len(source) == 100_000 and len(ContextQAEnv(split="test").prompts) == 1_000
    for start in (0, 7, 50_000):
        run = [source[i].metadata["answerable"] for i in range(start, start + 40)]
        assert abs(np.mean(run) - 0.75) < 0.05
    for share in (0.0, 1.0):
        env = ContextQAEnv(unanswerable=share, n_prompts=20)
        assert {p.metadata["answerable"] for p in env.prompts} == {share == 0.0}


def test_the_number_of_facts_does_not_give_the_gap_away(splits: dict[str, list[Prompt]]) -> None:
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for prompt in splits["train"]:
        lengths[prompt.metadata["answerable"]].append(len(prompt.context))
    assert max(lengths[False]) >= 9 and min(lengths[True]) <= 7
    assert abs(np.mean(lengths[True]) - np.mean(lengths[False])) < 1.0


def test_prompts_are_deterministic() -> None:
    one, two = ContextQAEnv(n_prompts=20).prompts, ContextQAEnv(n_prompts=20).prompts
    other = ContextQAEnv(n_prompts=20, prompt_seed=1).prompts
    assert list(one) == list(two) and one[3] is not one[3]
    assert {p.text for p in one}.isdisjoint(p.text for p in other)
    assert one.index_of("train-0-7") == 7 and len({p.id for p in one}) == 20
    with pytest.raises(UnknownNameError, match="unknown prompt id 'train-0-20'"):
        one.index_of("train-0-20")


def test_everything_fits_the_default_windows(splits: dict[str, list[Prompt]]) -> None:
    tokenizer = load_tokenizer()
    for prompts in splits.values():
        assert max(map(len, tokenizer.encode_batch([p.text for p in prompts]))) <= 320
        answers = [str(p.reference) for p in prompts]
        assert max(len(tokenizer.encode_completion(a)) for a in answers) < 16


def test_the_oracle_earns_the_most_by_stepping() -> None:
    env = gym.make(ID, n_prompts=12).unwrapped
    assert isinstance(env, ContextQAEnv)
    answerable = set()
    for prompt in env.prompts:
        env.reset(options={"prompt_id": prompt.id})
        for token in [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]:
            _, reward, over, _, info = env.step(token)
        assert over and reward == 1.0 == info["metrics"]["exact_match"] == info["metrics"]["f1"]
        assert set(info["metrics"]) == set(METRICS) and info["reward_terms"] == {
            "answer_match": 1.0
        }
        answerable.add(prompt.metadata["answerable"])
    assert answerable == {True, False}


@pytest.mark.parametrize("reward", ["answer-match", "answer-match-f1"])
def test_exploits_earn_at_most_a_third(reward: str) -> None:
    env = ContextQAEnv(n_prompts=120, reward=reward)
    scores: dict[str, list[float]] = defaultdict(list)
    for prompt in env.prompts:
        tried = {"oracle": env.oracle(prompt), **env.probes(prompt), "empty": "", "letters": "q xv"}
        tried |= {"prompt": prompt.text, "0": "0", "Drama": "Drama", "a": "a"}
        for name, value in zip(tried, env.score(prompt, list(tried.values())).scores, strict=True):
            scores[name].append(value)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    assert means.pop("oracle") == 1.0 and means["empty"] == means["letters"] == -1.0
    assert len(scores["candidates"]) == len(scores["wrong_entity"]) == 120
    assert max(means.values()) <= -1 + 2 / 3
    if reward == "answer-match":
        assert means.pop("refusal") == pytest.approx(-0.5, abs=0.05)
        assert means.pop("Drama") < -0.8 and set(means.values()) == {-1.0}


def test_probes_are_the_exploits_they_name(splits: dict[str, list[Prompt]]) -> None:
    prompt = next(
        p for p in splits["train"] if p.metadata["kind"] == "year" and p.metadata["answers"]
    )
    probes, facts = qa_probes(prompt), prompt.metadata["facts"]
    assert (
        probes["passage"] == " ".join(prompt.context)
        and probes["first_sentence"] == prompt.context[0]
    )
    assert probes["candidates"] == ", ".join(v for _, k, v in facts if k == "year")
    assert (
        probes["wrong_entity"] in probes["candidates"]
        and probes["wrong_entity"] != prompt.reference
    )
    assert probes["answering_sentence"] in prompt.context
    assert prompt.reference is not None and prompt.reference in probes["answering_sentence"]
    assert int(probes["invented"]) == int(prompt.reference) + 1


def test_vector_environment_and_options() -> None:
    venv = make_vec(2, n_prompts=8, n_films=2, refusal="unknown")
    _, infos = venv.reset(seed=0)
    assert all('answer "unknown"' in text for text in infos["prompt"])
    assert all(len({f for f, _, _ in p.metadata["facts"]}) == 2 for p in venv.prompts)
    wide = ContextQAEnv(n_prompts=5, n_films=10, max_prompt_tokens=1024)
    assert len({f for f, _, _ in wide.prompts[0].metadata["facts"]}) == 10


def test_misfits() -> None:
    with pytest.raises(PromptError, match=r"has \d+ tokens, but max_prompt_tokens is 100; raise"):
        ContextQAEnv(max_prompt_tokens=100)
    with pytest.raises(PromptError, match=r"the answer '.+' of the prompt .* max_new_tokens 5"):
        ContextQAEnv(max_new_tokens=5)
    with pytest.raises(ConfigError, match="the refusal .* do not fit max_new_tokens 4"):
        ContextQAEnv(max_new_tokens=4)
    tight = ContextQAEnv(max_prompt_tokens=260, n_prompts=N)
    lengths = [len(tight.tokenizer.encode(p.text)) for p in tight.prompts]
    loose = [len(tight.tokenizer.encode(p.text)) for p in ContextQAEnv(n_prompts=N).prompts]
    assert max(lengths) <= 260 < max(loose)


def test_overlong_prompts_can_be_cut(tmp_path: Path) -> None:
    env = ContextQAEnv(max_prompt_tokens=40, overlong="truncate", n_prompts=5)
    _, info = env.reset(seed=0)
    assert info["prompt_tokens_dropped"] > 0
    path = str(squad_file(tmp_path, long=4))
    env = ContextQAEnv(corpus=path, split=None, overlong="truncate")
    assert len(env.prompts) == 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_films": 1}, "n_films must be from 2 to 10, got 1"),
        ({"n_films": 11}, "n_films must be from 2 to 10, got 11"),
        ({"n_films": True}, "n_films must be"),
        ({"unanswerable": 1.5}, "unanswerable must be a share from 0 to 1, got 1.5"),
        ({"unanswerable": float("nan")}, "unanswerable must be"),
        ({"refusal": " "}, "refusal must be some words, got ' '"),
        ({"n_prompts": 0}, "n_prompts must be at least 1, got 0"),
        ({"prompt_seed": -1}, "prompt_seed must be a non-negative integer, got -1"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"split": None}, "unknown split None"),
        ({"corpus": "film"}, "unknown corpus 'film'. Did you mean 'films'?"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be at least 1, got 0"),
        ({"max_new_tokens": "16"}, "max_new_tokens must be at least 1, got '16'"),
        ({"n_film": 3}, "unknown option 'n_film'. Did you mean 'n_films'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TextEnvsError, match=message.replace("?", r"\?")):
        ContextQAEnv(**options)


def squad_file(folder: Path, *, articles: int = 40, long: int = 0) -> Path:
    """Write a SQuAD 2.0 file: two questions an article, some of its passages too long."""
    data = []
    for i in range(articles):
        context = f"Town {i} lies in Land {i}. It was founded in {1000 + i} by Queen Ada. " + (
            "It is big. " * (400 if i < long else 0)
        )
        tempting = [{"text": "Queen Ada", "answer_start": 0}]
        qas = [
            {"id": f"q{i}", "question": "Where?", "answers": [{"text": f"Land {i}"}]},
            {"id": f"n{i}", "question": "Who fell?", "is_impossible": True, "answers": []}
            | {"plausible_answers": tempting},
        ]
        data.append({"title": f"Town_{i}", "paragraphs": [{"context": context, "qas": qas}]})
    path = folder / "squad.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return path


def test_a_squad_file(tmp_path: Path) -> None:
    path = squad_file(tmp_path)
    ids: list[str] = []
    for split in ("train", "validation", "test"):
        env = gym.make(ID, corpus=str(path), split=split).unwrapped
        assert isinstance(env, ContextQAEnv)
        assert {split_of(p.group) for p in env.prompts} == {split}
        ids += [p.id for p in env.prompts]
    assert sorted(ids) == sorted(p.id for p in ContextQAEnv(corpus=str(path), split=None).prompts)
    assert len(ids) == 80
    known, unknown = (env.prompts[env.prompts.index_of(p.id)] for p in list(env.prompts)[:2])
    number = known.id[1:]
    assert known.context == (
        f"Town {number} lies in Land {number}. It was founded in "
        f"{1000 + int(number)} by Queen Ada. ",
    )
    assert (known.reference, known.metadata["answers"]) == (f"Land {number}",) * 1 + (
        [f"Land {number}"],
    )
    assert unknown.reference == "not in the text" and unknown.metadata["answers"] == []
    assert env.score(known, [f"land {number}", "Queen Ada", "not in the text"]).scores.tolist() == [
        1,
        -1,
        -1,
    ]
    assert env.score(unknown, ["Queen Ada", "not in the text"]).scores.tolist() == [-1, 1]
    assert env.probes(unknown)["wrong_entity"] == "Queen Ada"
    assert env.probes(known)["wrong_entity"].startswith("Town")
    for prompt in (known, unknown):
        scores = env.score(prompt, list(env.probes(prompt).values())).scores
        assert (scores > -1).sum() == (prompt is unknown)  # the refusal alone


def test_squad_questions_that_do_not_fit(tmp_path: Path) -> None:
    path = squad_file(tmp_path, long=4)
    with pytest.warns(UserWarning, match=r"8 of 80 questions of 'squad\.json' do not fit"):
        env = ContextQAEnv(corpus=str(path), split=None)
    assert env.prompts.left_out == 8 and len(env.prompts) == 72  # type: ignore[attr-defined]
    with pytest.raises(PromptError, match=r"80 of 80 questions .* do not fit max_prompt_tokens 20"):
        ContextQAEnv(corpus=str(path), split=None, max_prompt_tokens=20)


def test_the_reference_is_an_answer_that_fits(tmp_path: Path) -> None:
    answers = [{"text": "a very long answer " * 8}, {"text": "short"}]
    qas = [{"id": "q", "question": "How?", "answers": answers}]
    data = [{"title": "t", "paragraphs": [{"context": "It is short.", "qas": qas}]}]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": data}))
    env = ContextQAEnv(corpus=str(path), split=None)
    assert env.oracle(env.prompts[0]) == "short" and len(env.prompts[0].metadata["answers"]) == 2


def test_some_questions_of_a_squad_file(tmp_path: Path) -> None:
    path = str(squad_file(tmp_path))
    chosen = [
        [
            p.id
            for p in ContextQAEnv(corpus=path, split=None, n_prompts=10, prompt_seed=seed).prompts
        ]
        for seed in (0, 0, 1)
    ]
    assert len(chosen[0]) == 10 and chosen[0] == chosen[1] != chosen[2]
    with pytest.raises(PromptError, match="n_prompts is 81, but 'squad.json' has 80 questions"):
        ContextQAEnv(corpus=path, split=None, n_prompts=81)
    with pytest.raises(ConfigError, match="n_films and unanswerable are options of the films"):
        ContextQAEnv(corpus=path, n_films=2)
    with pytest.raises(UnknownNameError, match="unknown split 'dev'"):
        ContextQAEnv(corpus=path, split="dev")


def test_a_squad_file_of_few_articles(tmp_path: Path) -> None:
    path = squad_file(tmp_path, articles=1)
    absent = next(s for s in ("test", "validation") if split_of("Town_0") != s)
    with pytest.raises(CorpusError, match=f"none of the 1 articles .* into the split '{absent}'"):
        ContextQAEnv(corpus=str(path), split=absent)


def test_a_changed_squad_file_is_read_again(tmp_path: Path) -> None:
    path = squad_file(tmp_path, articles=3)
    assert len(ContextQAEnv(corpus=str(path), split=None).prompts) == 6
    squad_file(tmp_path, articles=5)
    assert len(ContextQAEnv(corpus=str(path), split=None).prompts) == 10


def test_another_tokenizer_checks_the_lengths(byte_tokenizer: Any) -> None:
    prompts = ContextQAEnv(n_prompts=3).prompts
    prompts.check_lengths(load_tokenizer(), 320)
    with pytest.raises(PromptError, match="max_prompt_tokens is 320"):
        prompts.check_lengths(byte_tokenizer, 320)


def test_the_page_explains_every_option_and_metric() -> None:
    page = (DOCS / "context_qa.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    explained = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert set(inspect.signature(context_qa_task).parameters) <= explained
    assert set(METRICS) <= explained
    assert all(f"`{name}`" in page for name in COMMON_OPTIONS)
