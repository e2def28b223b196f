"""Rankings from the context, from samples and from a judge."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.baselines import Oracle, Reference
from agents.preferences import (
    REJECTED,
    RankingSet,
    from_context,
    from_judge,
    from_samples,
    gold_metric,
    pairs,
    sample_answers,
    statistics,
)
from agents.preferences.judged import FLIPPED
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards import PairwiseJudge, resolve_reward
from textenvs.rewards.functions import FunctionReward
from textenvs.types import Prompt

Make = Callable[..., Any]
KINDS = ("wrong-category", "mixed", "unlisted")
LETTERS = [f"{chr(97 + i % 26)}{i}" for i in range(24)]


@pytest.fixture(scope="module")
def lists() -> Any:
    return gym.make(
        "textenvs/ContextSelect-v0", n_items=6, max_prompt_tokens=192, n_prompts=30
    ).unwrapped


def from_lists(env: Any, n_prompts: int = 20, *, seed: int = 0, **options: Any) -> RankingSet:
    generator = np.random.default_rng(seed)
    return from_context(env, n_prompts, generator=generator, **options)


def titles_of(answer: str) -> list[str]:
    return answer.split("\n")


@pytest.mark.parametrize("part", [False, True])
def test_each_kind_is_what_it_says(part: bool, lists: Any) -> None:
    found = from_lists(lists, 30, rejected=KINDS, part=part)
    assert len(found) == 30
    whole = 0
    for ranking in found:
        prompt = lists.prompts[lists.prompts.index_of(ranking.prompt_id)]
        assert (ranking.prompt, ranking.group) == (prompt.text, prompt.group)
        asked = prompt.metadata["category"]
        listed = {item.title: item.category for item in prompt.context}
        right, wrong, mixed, unlisted = (titles_of(answer) for answer in ranking.answers)
        assert ranking.ranks == (0, 1, 2, 3)
        assert {listed[title] for title in right} == {asked}
        assert asked not in {listed[title] for title in wrong}
        assert not set(mixed) & set(listed) and not set(unlisted) & set(listed)
        words = {word for title in listed for word in title.split()}
        assert {word for title in mixed for word in title.split()} <= words
        assert len({len(set(lines)) for lines in (right, wrong, mixed, unlisted)}) == 1
        whole += ranking.answers[0] == lists.oracle(prompt)
    assert whole == 30 if not part else 0 < whole < 30


def test_the_gold_metric_agrees_with_the_context(lists: Any) -> None:
    """Right above wrong in every pair, and never the other way round when it is turned."""
    found = from_lists(lists, rejected=("wrong-category", "unlisted"), per_prompt=2)
    assert {len(r.answers) for r in found} == {5} and {r.ranks for r in found} == {(0, 1, 1, 2, 2)}
    told = statistics(found, gold=gold_metric(lists, "correct"))
    assert told["gold agreement"] == (1.0, 1.0, 1.0) and told["gold pairs"] == 4 * len(found)
    listed = statistics(found, gold=gold_metric(lists, "listed"))
    assert listed["gold pairs"] == 6 * len(found), "right and wrong category are both listed"
    with pytest.raises(UnknownNameError, match="Did you mean 'correct'"):
        gold_metric(lists, "corect")


def test_same_seed_same_titles(lists: Any) -> None:
    one, two, other = (from_lists(lists, rejected=KINDS, seed=seed) for seed in (3, 3, 4))
    assert one == two and one != other


def test_other_contexts_take_other_answers() -> None:
    env: Any = gym.make("textenvs/ContextQA-v0").unwrapped
    found = from_lists(env, 40, per_prompt=2)
    for ranking in found:
        prompt = env.prompts[env.prompts.index_of(ranking.prompt_id)]
        chosen, *others = ranking.answers
        assert chosen == env.oracle(prompt) and ranking.ranks == (0, *(1 for _ in others))
        context = normalise(" ".join(prompt.context))
        assert all(normalise(other) not in context for other in others)
        assert normalise(chosen) not in {normalise(other) for other in others}
    with pytest.raises(ConfigError, match='rejected answers are of the kind "unlisted"'):
        from_lists(env, 5, rejected=("mixed",))


def test_environments_that_know_too_little(make_venv: Make) -> None:
    with pytest.raises(ConfigError, match="no context to choose an answer from; sample answers"):
        from_lists(gym.make("textenvs/IncreasingNumbers-v0"), 5)
    unanswered = make_venv(1, prompts=[Prompt(str(i), f"q{i}", context="c") for i in range(3)])
    with pytest.raises(ConfigError, match="no right answer is known for the prompt '0'; give the"):
        from_lists(unanswered, 3)


def test_a_rejected_answer_that_is_not_there(make_venv: Make) -> None:
    """All prompts have one right answer, so none is wrong: counted, then refused."""
    prompts = [Prompt(str(i), f"q{i}", context="c", reference="yes") for i in range(3)]
    with pytest.raises(ConfigError, match=r"rejected answers not found: 3, rankings of one: 3"):
        from_lists(make_venv(1, prompts=prompts), 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rejected": ("unlised",)}, "Did you mean 'unlisted'"),
        ({"rejected": ()}, "must be different kinds of"),
        ({"rejected": "mixed"}, "must be different kinds of"),
        ({"rejected": ("mixed", "mixed")}, "must be different kinds of"),
        ({"per_prompt": 0}, "per_prompt must be at least 1, got 0"),
        ({"n_prompts": 0}, "n_prompts must be at least 1, got 0"),
    ],
)
def test_bad_options_of_the_context(options: dict[str, Any], words: str, lists: Any) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=words):
        from_lists(lists, **options)
    assert set(REJECTED) == set(KINDS)


def high_bytes(prompt: Any, completion: str) -> float:
    return float(sum(letter > "a" for letter in completion))


@pytest.mark.parametrize("rank_by", ["reward", "length", high_bytes])
def test_samples_are_ranked_by_score(rank_by: Any, make_policy: Make, make_venv: Make) -> None:
    venv = make_venv(1, prompts=LETTERS, metrics=lambda e: {"gold": np.zeros(len(e))})
    found = from_samples(
        make_policy(), venv, 24, samples_per_prompt=4, rank_by=rank_by, seed=2, rows=7
    )
    reward = venv.reward if rank_by == "reward" else resolve_reward(rank_by)
    for ranking in found:
        prompt = venv.prompts[venv.prompts.index_of(ranking.prompt_id)]
        episodes = venv.batch.episodes([prompt] * len(ranking.answers), ranking.answers)
        scores = reward(episodes).scores
        order = sorted(set(scores.tolist()), reverse=True)
        assert ranking.ranks == tuple(order.index(score) for score in scores)
    kept = sum(len(ranking.answers) for ranking in found)
    dropped = found.counts.get("all ties", 0) + found.counts.get("rankings of one", 0)
    assert len(found) + dropped == 24, "every prompt is a ranking or is counted"
    assert kept <= 24 * 4 - found.counts.get("repeated answers", 0)


def test_samples_by_a_metric_and_by_nothing(make_policy: Make, make_venv: Make) -> None:
    def metrics(episodes: Sequence[Any]) -> dict[str, np.ndarray]:
        return {
            "first": np.array([float(ord((e.completion or "~")[0])) for e in episodes]),
            "flat": np.zeros(len(episodes)),
        }

    venv = make_venv(1, prompts=LETTERS, metrics=metrics)
    found = from_samples(make_policy(), venv, 10, rank_by="first")
    assert all(ord(p.chosen[0]) > ord(p.rejected[0]) for p in pairs(found))
    with pytest.raises(ConfigError, match=r"nothing is left to rank \(.*all ties: .*sample more"):
        from_samples(make_policy(), venv, 10, rank_by="flat")
    with pytest.raises(UnknownNameError, match="Did you mean 'first'"):
        from_samples(make_policy(), venv, 10, rank_by="fisrt")
    wrong: list[dict[str, Any]] = [{"samples_per_prompt": 1}, {"n_prompts": 0}, {"rows": 0}]
    for bad in wrong:
        with pytest.raises(ConfigError, match="must be at least"):
            from_samples(make_policy(), venv, **{"n_prompts": 3, **bad})


def test_unscored_samples_are_left_out(make_policy: Make, make_venv: Make) -> None:
    """Also where the environment would refuse to go on without a score."""

    def some(prompt: Any, completion: str) -> float | None:
        return None if completion[:1] < "P" else float(len(completion.encode()))

    venv = make_venv(1, prompts=LETTERS, reward=some)
    found = from_samples(make_policy(), venv, 24)
    assert found.counts["unscored answers"] > 0
    assert all(text[:1] >= "P" for ranking in found for text in ranking.answers)


def test_same_seed_same_samples(make_policy: Make, make_venv: Make) -> None:
    policy, venv = make_policy(), make_venv(1, prompts=LETTERS)
    one, two, other = (from_samples(policy, venv, 12, seed=seed) for seed in (0, 0, 1))
    assert one == two and one != other
    assert from_samples(Reference(policy, 0), venv, 12) == one, "an agent brings its own chance"


def test_samples_of_a_prompt_differ_and_belong_to_it(make_policy: Make, make_venv: Make) -> None:
    venv = make_venv(1, prompts=LETTERS)
    sampled = sample_answers(make_policy(), venv, 100, samples_per_prompt=3)
    assert [asked.prompt.text for asked in sampled] == LETTERS, "at most as many as there are"
    assert all(len(asked.episodes) == 3 for asked in sampled)
    texts = [tuple(e.completion for e in asked.episodes) for asked in sampled]
    assert sum(len(set(row)) > 1 for row in texts) > 12
    for asked in sampled:
        for episode in asked.episodes:
            assert episode.prompt is asked.prompt
            ended = episode.completion_ids[-1] == venv.tokenizer.eos_id
            assert (episode.finish_reason == "eos") == ended


def test_an_agent_without_chance_gives_nothing_to_rank(lists: Any) -> None:
    with pytest.raises(ConfigError, match="repeated answers: 6, rankings of one: 3"):
        from_samples(Oracle(lists), lists, 3, samples_per_prompt=3)


class Stub:
    """The model of a pairwise judge that answers by a function of the two texts."""

    longest = 10_000

    def __init__(self, prefers: Callable[[str, str], float]) -> None:
        self.prefers = prefers

    def load(self) -> "Stub":
        return self

    def limit(self, loaded: Any, choices: Any) -> int:
        return self.longest

    def fitted(
        self, template: str, fields: dict[str, str], ends: Any, limit: int
    ) -> tuple[str, bool]:
        return f"{fields['a']}#{fields['b']}", False

    def logprobs(self, texts: Sequence[str], choices: Any) -> np.ndarray:
        shares = [self.prefers(*text.replace("> ", "").split("#")) for text in texts]
        return np.log([[share, 1 - share] for share in shares])


def pair_judge(prefers: Callable[[str, str], float]) -> Any:
    judge: Any = PairwiseJudge("tiny-lm", against=lambda prompt: "not asked about")
    judge.model = Stub(prefers)
    return judge


ANSWERS = {"p0": ["a", "ccc", "bb", "", "a"], "p1": ["x", "yyyyy"]}


def test_a_fair_judge_ranks_by_wins(make_venv: Make) -> None:
    judge = pair_judge(lambda a, b: 0.9 if len(a) > len(b) else 0.2)
    found = from_judge(make_venv(1), ANSWERS, judge)
    assert [(r.prompt_id, r.answers, r.ranks) for r in found] == [
        ("p0", ("a", "ccc", "bb"), (2, 0, 1)),
        ("p1", ("x", "yyyyy"), (1, 0)),
    ]
    assert found.measures == {FLIPPED: 0.0}
    assert found.counts == {"empty answers": 1, "repeated answers": 1}


def test_a_love_of_the_first_place_decides_nothing(make_venv: Make) -> None:
    with pytest.raises(ConfigError, match=r"all ties: 2\); .* 100% of this one's verdicts"):
        from_judge(make_venv(1), ANSWERS, pair_judge(lambda a, b: 0.8))

    def biased(a: str, b: str) -> float:
        """Sure of the longest text alone, else the first place."""
        return 0.9 if "ccc" in (a, b) and len(a) > len(b) else 0.1 if "ccc" in (a, b) else 0.7

    found = from_judge(make_venv(1), ANSWERS, pair_judge(biased))
    assert [(r.answers, r.ranks) for r in found] == [(("a", "ccc", "bb"), (1, 0, 1))]
    assert found.measures[FLIPPED] == pytest.approx(2 / 4)


def test_a_circle_of_verdicts_is_a_tie(make_venv: Make) -> None:
    beats = {("a", "bb"), ("bb", "ccc"), ("ccc", "a")}
    judge = pair_judge(lambda a, b: 0.9 if (a, b) in beats else 0.1)
    with pytest.raises(ConfigError, match="all ties: 1"):
        from_judge(make_venv(1), {"p0": ["a", "bb", "ccc"]}, judge)


def test_a_rating_judge_ranks_by_score(make_venv: Make) -> None:
    def rate(prompt: Any, completion: str) -> float | None:
        return None if completion == "bb" else float(len(completion))

    found = from_judge(make_venv(1), {**ANSWERS, "p2": ["uu", "vv"]}, FunctionReward(rate))
    assert [(r.answers, r.ranks) for r in found] == [
        (("a", "ccc"), (1, 0)),
        (("x", "yyyyy"), (1, 0)),
    ]
    assert Counter(found.counts) == {
        "empty answers": 1,
        "repeated answers": 1,
        "unscored answers": 1,
        "all ties": 1,
    }
    assert not found.measures
    with pytest.raises(UnknownNameError, match="prompt id 'p9'"):
        from_judge(make_venv(1), {"p9": ["a", "b"]}, FunctionReward(rate))
