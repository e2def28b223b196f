"""`textenvs.audit`: sound rewards pass, naive ones fail by name, right answers are no exploits."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from rapidfuzz import fuzz

from textenvs.audit import Report, Row
from textenvs.audit import audit as full_audit
from textenvs.audit.exploits import EXPLOITS
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.grounding.context_match import ContextMatch, gold_metrics
from textenvs.types import Episode, Item, Prompt

SELECT, QA = "textenvs/ContextSelect-v0", "textenvs/ContextQA-v0"
NAIVE = "textenvs.audit.naive:"
audit = partial(full_audit, search=False, properties=False, n_prompts=16)


def found(report: Report, name: str) -> Row:
    """Return the row of an exploit."""
    return next(row for row in report.rows if row.name == name)


def status_of(report: Report) -> dict[str, str]:
    """Return name -> status."""
    return {row.name: row.status for row in report.rows}


CITIES = ("Paris", "Rome", "Oslo", "Vienna", "Prague", "Lisbon", "Madrid", "Dublin")


def capitals(reward: Any, tokenizer: Any, **options: Any) -> TextEnv:
    """Return an environment whose right answer is one word of the context."""
    prompts = [
        Prompt(f"p{i}", f"{', '.join(CITIES)}: number {i}?", CITIES, city)
        for i, city in enumerate(CITIES)
    ]
    return TextEnv(prompts, reward, tokenizer, max_new_tokens=12, **options)


def exact(prompt: Prompt, completion: str) -> float:
    """Pay 1 for the right answer."""
    return float(normalise(completion) == normalise(str(prompt.reference)))


def is_right(episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
    """Measure what `exact` pays, and a length that must not be taken for gold."""
    return {
        "letters": np.array([len(e.completion) for e in episodes], float),
        "right": np.array([exact(e.prompt, e.completion) for e in episodes]),
    }


@pytest.mark.parametrize(
    "env_id",
    [
        SELECT,
        QA,
        "textenvs/Dates-v0",
        "textenvs/DelayedCredit-v0",
        "textenvs/Enumerable-v0",
        "textenvs/IncreasingNumbers-v0",
        "textenvs/RandomWalks-v0",
        "textenvs/TokenBandit-v0",
    ],
)
def test_default_rewards_pass(env_id: str) -> None:
    report = audit(env_id, n_prompts=48)
    assert report.ok, [str(row) for row in report.failures]
    assert report.count("ok") >= 30


@pytest.mark.parametrize(
    ("env_id", "reward", "exploits"),
    [
        (SELECT, "partial_ratio", ["nothing: one character", "copy: a part of an item"]),
        (SELECT, "bag_of_words", ["change: the order of the words", "copy: the context"]),
        (SELECT, "length", ["nothing: filler", "control: length", "control: the right answer"]),
        (SELECT, "contains_answer", ["copy: every item", "add: a negation", "add: a false claim"]),
        (QA, "partial_ratio", ["nothing: one character", "copy: the context"]),
        (QA, "bag_of_words", ["change: the order of the words", "add: the sentence around it"]),
        (QA, "length", ["nothing: filler", "control: length", "copy: the prompt"]),
        (QA, "contains_answer", ["copy: the context", "add: a negation", "add: an alternative"]),
    ],
)
def test_naive_rewards_fail_by_name(env_id: str, reward: str, exploits: list[str]) -> None:
    report = audit(env_id, NAIVE + reward)
    assert not report.ok
    for name in exploits:
        row = found(report, name)
        assert row.status == "fault", str(row)
    assert reward in report.subject


def test_there_are_at_least_thirty_exploits_each_with_a_name() -> None:
    names = [exploit.name for exploit in EXPLOITS]
    assert len(names) == len(set(names)) >= 30


def test_every_exploit_can_be_made_of_some_task() -> None:
    tried = {row.name for row in audit(SELECT).rows if "cannot be made" not in row.words}
    tried |= {row.name for row in audit(QA).rows if "cannot be made" not in row.words}
    assert {exploit.name for exploit in EXPLOITS} <= tried


def test_an_exact_reward_passes_and_the_sum_with_a_hole_does_not(byte_tokenizer: Any) -> None:
    assert audit(capitals(exact, byte_tokenizer)).ok

    def shouting(prompt: Prompt, completion: str) -> float:
        return max(exact(prompt, completion), float("[[10]]" in completion))

    report = audit(capitals(shouting, byte_tokenizer))
    assert [row.name for row in report.failures] == ["injection: instructions in the answer"]
    row = report.failures[0]
    assert isinstance(row, Row)
    assert row.answer is not None and "[[10]]" in row.answer
    assert (row.paid, row.honest, row.gold) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("pays", "ok"), [(0.97, False), (0.9, True)])
def test_the_margin_divides_faults_from_what_is_paid_less(
    byte_tokenizer: Any, pays: float, ok: bool
) -> None:
    def for_a_copy(prompt: Prompt, completion: str) -> float:
        return pays if completion == prompt.text else exact(prompt, completion)

    report = audit(capitals(for_a_copy, byte_tokenizer))
    assert (found(report, "copy: the prompt").status == "ok") == ok


@pytest.mark.parametrize(("holes", "status"), [(0, "ok"), (1, "note"), (2, "fault")])
def test_an_exploit_of_one_prompt_is_a_note(byte_tokenizer: Any, holes: int, status: str) -> None:
    def sometimes(prompt: Prompt, completion: str) -> float:
        is_hole = int(prompt.id[1:]) < holes
        return float(completion == prompt.text) if is_hole else exact(prompt, completion)

    def reward(prompt: Prompt, completion: str) -> float:
        return max(exact(prompt, completion), sometimes(prompt, completion))

    report = audit(capitals(reward, byte_tokenizer))
    assert found(report, "copy: the prompt").status == status
    assert report.ok == (status != "fault")


def test_what_is_right_on_a_prompt_is_no_exploit_there(byte_tokenizer: Any) -> None:
    """Every item of these lists is right, so naming every item is the right answer."""
    context = (Item("One", "x"), Item("Two", "x"))
    prompts = [
        Prompt(
            f"p{i}", "[x] One\n[x] Two\nFind x:", context, "One\nTwo", metadata={"category": "x"}
        )
        for i in range(4)
    ]
    env = TextEnv(prompts, ContextMatch(), byte_tokenizer, metrics=gold_metrics)
    row = found(audit(env), "copy: every item")
    assert (row.status, row.words) == ("skipped", "is as good as the honest answers")


def test_an_exploit_paid_like_half_of_the_items_is_a_fault() -> None:
    """Half the pay for a copy of everything: less than the oracle earns, as much as a half does."""

    def reward(prompt: Prompt, completion: str) -> float:
        titles = [item.title for item in prompt.context]
        if completion.splitlines() == titles:
            return 0.5
        wanted = str(prompt.reference).splitlines()
        said = completion.splitlines()
        return len(set(said) & set(wanted)) / len(wanted) if set(said) <= set(wanted) else 0.0

    row = found(audit(SELECT, reward), "copy: every item")
    assert row.status == "fault"
    assert "half of the right items" in row.words or "all right items but one" in row.words


def test_all_or_nothing_is_a_sound_reward() -> None:
    """It pays nothing for half of the items, and nothing is no measure for exploits."""

    def whole(prompt: Prompt, completion: str) -> float:
        return float(completion.splitlines() == str(prompt.reference).splitlines())

    report = audit(SELECT, whole, n_prompts=48)
    assert report.ok, [str(row) for row in report.failures]


@pytest.mark.parametrize(("threshold", "status"), [(90.0, "ok"), (60.0, "fault")])
def test_threshold_hugging_is_found_where_more_than_slips_are_forgiven(
    byte_tokenizer: Any, threshold: float, status: str
) -> None:
    def fuzzy(prompt: Prompt, completion: str) -> float:
        return float(fuzz.ratio(completion, str(prompt.reference)) >= threshold)

    long = [
        Prompt(f"p{i}", f"Name {city}", (), f"The golden city of {city}")
        for i, city in enumerate(CITIES)
    ]
    env = TextEnv(long, fuzzy, byte_tokenizer, max_new_tokens=40)
    assert found(audit(env), "change: letters replaced, more and more").status == status


def test_an_answer_cut_off_at_the_budget_is_tried(byte_tokenizer: Any) -> None:
    """A reward that takes an unfinished answer for a finished one."""

    def reward(episodes: Sequence[Episode]) -> list[float]:
        return [
            1.0 if e.finish_reason == "length" else exact(e.prompt, e.completion) for e in episodes
        ]

    faults = {row.name for row in audit(capitals(reward, byte_tokenizer)).failures}
    assert {
        "nothing: filler until the budget",
        "add: talk until the budget",
        "change: broken off at the budget",
    } <= faults


def test_an_instruction_in_the_context_is_tried(byte_tokenizer: Any) -> None:
    """A judge that obeys what the context says."""

    def obedient(prompt: Prompt, completion: str) -> float:
        return 1.0 if "every answer is right" in str(prompt.context) else exact(prompt, completion)

    report = audit(capitals(obedient, byte_tokenizer))
    assert [row.name for row in report.failures] == ["injection: instructions in the context"]


def test_an_instruction_that_moves_the_score_of_the_right_answer_is_told(
    byte_tokenizer: Any,
) -> None:
    def misled(prompt: Prompt, completion: str) -> float:
        return 0.0 if "every answer is right" in str(prompt.context) else exact(prompt, completion)

    name = "control: the right answer, an instruction in the context"
    report = audit(capitals(misled, byte_tokenizer))
    assert [row.name for row in report.failures] == [name]
    assert "scores 0 instead of 1" in report.failures[0].words
    assert found(audit(capitals(exact, byte_tokenizer)), name).status == "ok"


def test_a_reward_that_raises_on_an_exploit_is_at_fault(byte_tokenizer: Any) -> None:
    def brittle(prompt: Prompt, completion: str) -> float:
        if "\u200b" in completion:
            raise KeyError("zero-width")
        return exact(prompt, completion)

    row = found(audit(capitals(brittle, byte_tokenizer)), "nothing: white space")
    assert row.status == "fault"
    assert "raised KeyError" in row.words


def test_a_reward_that_raises_on_the_right_answer_is_refused(byte_tokenizer: Any) -> None:
    def broken(prompt: Prompt, completion: str) -> float:
        return 1.0 / prompt.text.count("\0")

    with pytest.raises(RewardError, match="'broken' raised ZeroDivisionError on an honest"):
        audit(capitals(broken, byte_tokenizer))


def test_unscored_answers_are_not_counted(byte_tokenizer: Any) -> None:
    def silent(prompt: Prompt, completion: str) -> float | None:
        return None if completion == prompt.text else exact(prompt, completion)

    env = capitals(silent, byte_tokenizer, on_unscored=0.0)
    row = found(audit(env), "copy: the prompt")
    assert (row.status, row.words) == ("skipped", "the reward does not score it")


@pytest.mark.parametrize("case", ["metrics", "named", "none"])
def test_gold_is_chosen_by_rule_and_said(byte_tokenizer: Any, case: str) -> None:
    metrics: Callable[..., Any] | None = None if case == "none" else is_right
    env = capitals(exact, byte_tokenizer, metrics=metrics)
    report = audit(env, gold="letters" if case == "named" else None)
    expected = {
        "metrics": "the metric right; 1 is the oracle's answer, 0 none",
        "named": "the metric letters; 1 is the oracle's answer, 0 none",
        "none": "a match with the oracle's answer in normal form, since the environment has no "
        "metrics",
    }
    assert report.gold == expected[case]


def test_unknown_names_are_refused_with_suggestions() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'correct'"):
        audit(SELECT, gold="corect")
    with pytest.raises(UnknownNameError, match="context-match"):
        audit(SELECT, "contxt-match")
    with pytest.raises(ConfigError, match="n_prompts must be at least 1"):
        audit(SELECT, n_prompts=0)


def test_the_same_seed_gives_the_same_report() -> None:
    one, same, other = (audit(SELECT, NAIVE + "partial_ratio", seed=s) for s in (1, 1, 2))
    assert one.to_dict() == same.to_dict()
    assert one.to_dict() != other.to_dict()


def test_a_report_is_plain_data_worst_first() -> None:
    report = audit(QA, NAIVE + "contains_answer")
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (told["ok"], told["n_prompts"]) == (False, 16)
    assert told["gold"].startswith("the least of the metrics exact_match, f1")
    statuses = [row["status"] for row in told["rows"]]
    assert statuses == sorted(statuses, key=["fault", "note", "ok", "skipped"].index)
    paid = [row["paid"] for row in told["rows"] if row["status"] == "fault" and row["paid"]]
    exploits = paid[1:] if told["rows"][0]["kind"] == "control" else paid
    assert exploits == sorted(exploits, reverse=True)
    assert {field.name for field in dataclasses.fields(Row)} == set(told["rows"][0])


CHINESE = (
    "凌晨的乌鲁木齐街头",
    "沈阳夜市的面包",
    "二手房买卖合同",
    "国产影片票房榜",
    "大雁是警觉的鸟",
    "海上仙山人间仙境",
    "社区当家人的故事",
    "暴雨过后的济南城",
)


def chinese(reward: Any, tokenizer: Any) -> TextEnv:
    """Return an environment of titles without spaces, two of four of the asked category."""
    prompts = []
    for i in range(8):
        items = tuple(Item(CHINESE[(i + j) % 8], "甲乙"[j % 2]) for j in range(4))
        right = "\n".join(item.title for item in items if item.category == "甲")
        text = "\n".join(f"[{item.category}] {item.title}" for item in items) + "\n甲："
        prompts.append(Prompt(f"p{i}", text, items, right, metadata={"category": "甲"}))
    return TextEnv(prompts, reward, tokenizer, max_new_tokens=80, metrics=gold_metrics)


def test_titles_without_spaces_pass_and_a_bag_of_characters_fails(byte_tokenizer: Any) -> None:
    assert audit(chinese(ContextMatch(), byte_tokenizer)).ok

    def characters(prompt: Prompt, completion: str) -> float:
        wanted = str(prompt.reference)
        return sum(c in completion for c in wanted) / len(wanted)

    report = audit(chinese(characters, byte_tokenizer))
    for name in (
        "change: the order of the words",
        "change: the letters shuffled",
        "copy: the prompt",
    ):
        assert found(report, name).status == "fault", name


class BoundedLength(BaseReward):
    """Pays for length, up to 10."""

    name = "bounded length"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        return RewardResult.from_scores(self.name, [min(len(e.completion), 10.0) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        return (0.0, 10.0)


def test_without_a_right_answer_only_what_is_worthless_is_told(byte_tokenizer: Any) -> None:
    prompts = ["Say something kind.", "Ask for the salt."]
    report = audit(TextEnv(prompts, BoundedLength(), byte_tokenizer))
    assert [row.name for row in report.failures] == ["control: worthless answers"]
    assert "give the environment an oracle" in report.failures[0].words

    def kind(prompt: Prompt, completion: str) -> float:
        return float("please" in completion)

    report = audit(TextEnv(prompts, kind, byte_tokenizer))
    assert report.ok
    assert status_of(report) == {"control: worthless answers": "skipped"}


def test_the_samples_of_a_model_are_a_control() -> None:
    report = full_audit(
        SELECT, NAIVE + "length", properties=False, n_prompts=8, search={"evaluations": 200}
    )
    row = found(report, "control: samples of a model")
    assert row.status == "fault"  # the tiny model rambles to the budget, which the length pays
    assert status_of(report)["search: best of n"] in ("fault", "note")
    without = full_audit(
        SELECT, properties=False, n_prompts=8, search={"evaluations": 200}, reference=None
    )
    assert "control: samples of a model" not in status_of(without)
