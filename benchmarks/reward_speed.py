"""Answers a second of the rewards, and what a hostile answer costs.

Run it as `python benchmarks/reward_speed.py`.

Every figure is the median of several rounds in one process, the kinds taking turns, so that
whatever else the machine does falls on all of them alike. One thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import rapidfuzz
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import textenvs
from textenvs.rewards import AnswerMatch, BaseReward, ContextGrounding, ContextMatch, RewardModel
from textenvs.rewards.learned.similarity import MINILM, encoder_folder
from textenvs.types import Episode, Prompt

PROMPTS, ANSWERS, MODEL_ANSWERS = 256, 5_000, 64
CHARACTERS = 100_000
TYPO_SHARE = 0.3


def main() -> None:
    """Measure every kind and print three Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(
        f"textenvs {textenvs.__version__}, numpy {np.__version__}, rapidfuzz "
        f"{rapidfuzz.__version__}, torch {torch.__version__}\n"
    )
    print(answers_a_second(rounds))
    print(hostile_answers(rounds))
    print(batched_against_single(rounds))


def answers_a_second(rounds: int) -> str:
    """Return the table of ordinary answers; each round has answers not seen before."""
    select, qa = source("textenvs/ContextSelect-v0"), source("textenvs/ContextQA-v0")
    kinds: dict[str, tuple[BaseReward, Callable[[int], list[Episode]]]] = {
        "`ContextMatch`, lists of 30 items": (ContextMatch(), lambda k: title_answers(select, k)),
        "`ContextGrounding`, lists of 30 items": (
            ContextGrounding(),
            lambda k: title_answers(select, k),
        ),
        "`ContextGrounding`, passages": (ContextGrounding(), lambda k: sentence_answers(qa, k)),
        "`AnswerMatch`, passages": (AnswerMatch(), lambda k: short_answers(qa, k)),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(rounds + 1):
        for name, (reward, draw) in kinds.items():
            episodes = draw(i)
            rate = len(episodes) / seconds_of(partial(reward, episodes))
            if i:  # the first round fills the caches of the prompts
                rates[name].append(rate)
    head = "| | answers/s, median | lowest | highest |\n|---|---:|---:|---:|\n"
    return head + "".join(
        f"| {name} | {median(r):,.0f} | {min(r):,.0f} | {max(r):,.0f} |\n"
        for name, r in rates.items()
    )


def hostile_answers(rounds: int) -> str:
    """Return the table of answers of 100,000 characters."""
    select, qa = source("textenvs/ContextSelect-v0")[0], source("textenvs/ContextQA-v0")[0]
    title = f"{select.context[0].title}\n"
    kinds: dict[str, tuple[BaseReward, Prompt, int]] = {
        "`ContextMatch`": (ContextMatch(), select, CHARACTERS),
        "`ContextGrounding`": (ContextGrounding(), qa, CHARACTERS),
        "`ContextGrounding`, the most it reads": (ContextGrounding(), qa, 10_000),
        "`AnswerMatch`": (AnswerMatch(), qa, CHARACTERS),
    }
    answers = {
        "one line of `a`": lambda i: "a" * CHARACTERS,
        "50,000 lines of one letter": lambda i: "x\n" * (CHARACTERS // 2),
        "a listed title, repeated": lambda i: title * (CHARACTERS // len(title)),
        "different lines": lambda i: "\n".join(f"{i} {k} " for k in range(CHARACTERS // 8)),
        "Chinese, no line break": lambda i: "中文" * (CHARACTERS // 2),
        "Chinese, one character a line": lambda i: "中\n国\n" * (CHARACTERS // 4),
        "the passage, repeated": lambda i: " ".join(qa.context) * (CHARACTERS // 200),
    }
    cost: dict[tuple[str, str], list[float]] = {(a, k): [] for a in answers for k in kinds}
    for i in range(rounds):
        for answer, make in answers.items():
            for name, (reward, prompt, length) in kinds.items():
                # A different tail a round, so that no round finds its answer in a cache.
                text = f"{make(i)[: length - 10]}{i:>10}"
                episode = [Episode(prompt, text)]
                cost[answer, name].append(1000 * seconds_of(partial(reward, episode)))
    head = "| ms an answer, median (highest) | " + " | ".join(kinds) + " |\n|---|"
    rows = [
        f"| {a} | " + " | ".join(f"{median(cost[a, k]):.1f} ({max(cost[a, k]):.1f})" for k in kinds)
        for a in answers
    ]
    return head + "---:|" * len(kinds) + "\n" + "".join(f"{row} |\n" for row in rows)


def batched_against_single(rounds: int) -> str:
    """Return how much faster a reward model of MiniLM's size scores a batch than single answers."""
    select, qa = source("textenvs/ContextSelect-v0"), source("textenvs/ContextQA-v0")
    table = (
        f"| `RewardModel`, MiniLM, {MODEL_ANSWERS} texts | tokens a text, mean | one by one, "
        "answers/s | batched, answers/s | ratio, median (lowest, highest) |\n"
        "|---|---:|---:|---:|---:|\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = classifier(Path(folder))
        kinds = {
            "the answer alone": (
                RewardModel(path, template="{completion}"),
                title_answers(select, 0)[:MODEL_ANSWERS],
            ),
            "the prompt and the answer": (
                RewardModel(path, template="{prompt}{completion}"),
                sentence_answers(qa, 0)[:MODEL_ANSWERS],
            ),
        }
        for name, (reward, episodes) in kinds.items():
            table += f"| {name} | {batching_row(reward, episodes, path, rounds)} |\n"
    return table


def batching_row(reward: RewardModel, episodes: list[Episode], path: Path, rounds: int) -> str:
    """Return the figures of one row: both sides take turns."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = [
        str(reward.template).format(prompt=e.prompt.text, completion=e.completion) for e in episodes
    ]
    tokens = float(np.mean([len(ids) for ids in tokenizer(texts)["input_ids"]]))
    reward(episodes[:2])
    single: list[float] = []
    batched: list[float] = []
    for _ in range(rounds):
        single.append(seconds_of(lambda: [reward([episode]) for episode in episodes]))
        batched.append(seconds_of(lambda: reward(episodes)))
    ratios = [a / b for a, b in zip(single, batched, strict=True)]
    rates = [f"{len(episodes) / median(times):,.0f}" for times in (single, batched)]
    spread = f"{median(ratios):.1f} ({min(ratios):.1f}, {max(ratios):.1f})"
    return " | ".join([f"{tokens:.0f}", *rates, spread])


def source(env_id: str) -> list[Prompt]:
    """Return the first prompts of an environment."""
    made: Any = gym.make(env_id, n_prompts=PROMPTS).unwrapped
    return [made.prompts[i] for i in range(PROMPTS)]


def title_answers(prompts: Sequence[Prompt], seed: int) -> list[Episode]:
    """Return answers of one to three listed titles, some with a wrong letter."""
    generator = np.random.default_rng(seed)
    episodes = []
    for _ in range(ANSWERS):
        prompt = prompts[int(generator.integers(len(prompts)))]
        chosen = generator.choice(len(prompt.context), int(generator.integers(1, 4)), replace=False)
        titles = [prompt.context[i].title for i in chosen]
        if generator.random() < TYPO_SHARE:
            at = int(generator.integers(len(titles[0])))
            titles[0] = f"{titles[0][:at]}q{titles[0][at + 1 :]}"
        episodes.append(Episode(prompt, "\n".join(titles)))
    return episodes


def sentence_answers(prompts: Sequence[Prompt], seed: int) -> list[Episode]:
    """Return answers of one or two sentences of the passage."""
    generator = np.random.default_rng(seed)
    episodes = []
    for _ in range(ANSWERS):
        prompt = prompts[int(generator.integers(len(prompts)))]
        chosen = generator.choice(len(prompt.context), min(2, len(prompt.context)), replace=False)
        said = [prompt.context[i] for i in chosen[: int(generator.integers(1, 3))]]
        episodes.append(Episode(prompt, " ".join(said)))
    return episodes


def short_answers(prompts: Sequence[Prompt], seed: int) -> list[Episode]:
    """Return right answers, and answers to other questions."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(prompts), size=(ANSWERS, 2))
    return [
        Episode(prompts[a], str(prompts[a if k % 2 else b].reference))
        for k, (a, b) in enumerate(drawn)
    ]


def classifier(folder: Path) -> Path:
    """Write a classifier of one label: MiniLM with an untrained head, which takes no less time."""
    origin = encoder_folder(MINILM)
    AutoTokenizer.from_pretrained(origin).save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(origin, num_labels=1)
    model.save_pretrained(folder)
    return folder


def seconds_of(run: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
