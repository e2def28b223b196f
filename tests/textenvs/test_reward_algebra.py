"""Clip, gate, shaping and normalisation: totals, terms, tokens, bounds, what is logged."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from textenvs.checker import check
from textenvs.enumeration import Completions, enumerate_completions
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, RewardError
from textenvs.optimum import optimum
from textenvs.rewards import (
    BaseReward,
    Clip,
    ContextMatch,
    Gate,
    PotentialShaping,
    RewardResult,
    RunningNormalised,
    reward,
)
from textenvs.rewards.base import checked_result
from textenvs.rewards.normalisation import RunningMoments
from textenvs.rewards.results import GATED, SCORED, UNSCORED
from textenvs.suite.enumerable import EnumerableEnv
from textenvs.types import Episode, Item, Prompt
from textenvs.vector_env import TextVectorEnv

NAN = math.nan
PROMPT = Prompt("p", "say", (Item("One", "a"), Item("Two", "b")), metadata={"category": "a"})


def said(*texts: str) -> list[Episode]:
    """Episodes of a token a letter and one for the end."""
    return [Episode(PROMPT, text, tuple(range(len(text) + 1))) for text in texts]


class Scripted(BaseReward):
    """Scores an answer by what it says, a number or "?"; counts its calls."""

    def __init__(
        self, name: str, low: float = -10.0, high: float = 10.0, per_token: bool = False
    ) -> None:
        self.name, self.low, self.high, self.per_token = name, low, high, per_token
        self.seen: list[list[str]] = []

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        self.seen.append([e.completion for e in episodes])
        scores = [None if "?" in e.completion else float(e.completion) for e in episodes]
        result = RewardResult.from_scores(self.name, scores)
        if not self.per_token:
            return result
        rows = [
            np.full(len(e.completion_ids), (s or 0.0) / len(e.completion_ids))
            for e, s in zip(episodes, scores, strict=True)
        ]
        return RewardResult(result.scores, result.terms, rows)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        return (self.low, self.high)


def positive(prompt: Prompt, completion: str) -> bool:
    return not completion.startswith("-")


def weighted(result: RewardResult) -> dict[str, list[float]]:
    return {name: term.weighted.tolist() for name, term in result.terms.items()}


# --- clip


def test_clip_by_hand() -> None:
    clipped = (2 * Scripted("r")).clip(-1, 3)
    result = checked_result(clipped, said("-4", "1", "5", "?"))
    np.testing.assert_equal(result.scores, [-1.0, 2.0, 3.0, NAN])
    np.testing.assert_equal(weighted(result), {"r": [-8, 2, 10, NAN], "clip(r)": [7, 0, -7, NAN]})
    assert result.terms["clip(r)"].status == (SCORED, SCORED, SCORED, UNSCORED)
    assert clipped.name == "clip(r)" and clipped.bounds(PROMPT) == (-1.0, 3.0)
    assert Clip(Scripted("r"), high=3).bounds(PROMPT) == (-10.0, 3.0)
    assert Clip(Scripted("r"), 20, 30).bounds(PROMPT) == (20.0, 20.0)
    assert Clip(Scripted("r"), -30, -20).bounds(PROMPT) == (-20.0, -20.0)
    assert Clip(lambda prompt, completion: 5.0, -1, 1, name="c")(said("a")).scores[0] == 1.0
    assert checked_result(-0.5 * clipped, said("5")).scores[0] == -1.5


def test_bad_clips() -> None:
    for low, high in ((None, None), (1, 0), (NAN, 1)):
        with pytest.raises(ConfigError, match=r"clip\(r\)"):
            Scripted("r").clip(low, high)
    for wrong in (3, ContextMatch, "context-match"):
        with pytest.raises(ConfigError, match="cannot be combined"):
            Clip(wrong, 0, 1)


# --- gate


def test_gate_by_hand() -> None:
    inner = Scripted("r")
    gate = Gate(positive, inner, otherwise=-2)
    result = checked_result(gate, said("3", "-7", "4", "?"))
    np.testing.assert_equal(result.scores, [3.0, -2.0, 4.0, NAN])
    assert inner.seen == [["3", "4", "?"]], "a shut gate costs no call"
    assert result.terms["r"].status == (SCORED, GATED, SCORED, UNSCORED)
    np.testing.assert_equal(result.terms["r"].score, [3.0, NAN, 4.0, NAN])
    assert weighted(result)["gate(r)"] == [0.0, -2.0, 0.0, 0.0]


def test_a_gate_keeps_no_scores() -> None:
    """The pitfall: a gate that is shut now logs what its reward said when it was open."""
    inner = Scripted("r")
    gate = Gate(positive, 0.5 * inner, otherwise=0.0)
    first = gate(said("9"))
    second = checked_result(gate, said("-1", "-2"))
    assert inner.seen == [["9"]] and second.scores.tolist() == [0.0, 0.0]
    assert np.isnan(second.terms["r"].score).all()
    assert second.terms["r"].status == (GATED, GATED) and second.terms["r"].weight == 0.5
    assert first.terms["r"].score.tolist() == [9.0], "and nobody writes into an old result"
    assert list(first.terms) == list(second.terms) == ["r", "gate(r)"]


def test_a_shut_gate_pays_the_lower_bound() -> None:
    gate = Gate(lambda prompt, completion: completion != "x", ContextMatch())
    assert gate(said("x", "One")).scores.tolist() == [-2.0, 1.0]
    assert gate.bounds(PROMPT) == (-2.0, 1.0)
    bare = Gate(lambda prompt, completion: False, reward(lambda prompt, completion: 1.0, name="f"))
    assert bare(said("a")).scores.tolist() == [0.0]
    assert bare.bounds(PROMPT) == (-math.inf, math.inf)
    falling = Gate(positive, Scripted("r", -math.inf, 0.0))
    with pytest.raises(RewardError, match=r"bounds \[-inf, 0\].*pass otherwise=NUMBER"):
        falling(said("-1"))
    assert Gate(positive, Scripted("r", -1, 1), otherwise=7).bounds(PROMPT) == (-1.0, 7.0)


def test_a_reward_as_condition() -> None:
    condition, inner = Scripted("format"), Scripted("r")
    gate = Gate(condition, inner, otherwise=-1.0, above=2.0)
    result = checked_result(2 * gate + Scripted("format"), said("2", "3", "?"))
    assert inner.seen == [["3"]]
    np.testing.assert_equal(result.scores, [0.0, 9.0, NAN])
    assert result.terms["r"].status == (GATED, SCORED, GATED), "undecided is not open"
    told = result.terms["gate(r):condition"]
    assert told.weight == 0 and told.status == (SCORED, SCORED, UNSCORED)
    np.testing.assert_equal(told.score, [2.0, 3.0, NAN])
    assert result.terms["gate(r)"].status == (SCORED, SCORED, UNSCORED)


def test_gates_within_gates() -> None:
    inner = Scripted("r")
    short = Gate(lambda prompt, completion: len(completion) < 2, inner, -1, name="short")
    result = checked_result(Gate(positive, short, -5.0), said("3", "44", "-1"))
    assert result.scores.tolist() == [3.0, -1.0, -5.0] and inner.seen == [["3"]]
    assert result.terms["short"].status == (SCORED, SCORED, GATED)
    assert list(result.terms) == ["r", "short", "gate(short)"]


@pytest.mark.parametrize("returned", ["False", None, 0.7, 1])
def test_a_condition_answers_yes_or_no(returned: Any) -> None:
    with pytest.raises(RewardError, match="must return True or False"):
        Gate(lambda prompt, completion: returned, Scripted("r"))(said("1"))


def test_bad_gates() -> None:
    with pytest.raises(ConfigError, match="a reward or a function of"):
        Gate(lambda prompt: True, Scripted("r"))  # type: ignore[arg-type, misc]
    for value in (NAN, True, "least", None):
        with pytest.raises(ConfigError, match='otherwise of a gate must be .* or "lowest"'):
            Gate(positive, Scripted("r"), otherwise=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="above of a gate must be a finite number, got nan"):
        Gate(positive, Scripted("r"), above=NAN)


# --- tokens


def test_tokens_of_a_sum_add_up() -> None:
    mix = 2 * Scripted("end") + Scripted("all along", per_token=True)
    result = checked_result(mix, said("6", "-12"))
    assert result.per_token is not None
    assert [row.tolist() for row in result.per_token] == [[3.0, 15.0], [-3.0] * 3 + [-27.0]]
    plain = 2 * Scripted("end") + Scripted("other")
    assert plain(said("6")).per_token is None, "nobody knows better than the last token"


def test_tokens_behind_gates_and_clips_add_up() -> None:
    along = Scripted("r", per_token=True)
    gated = checked_result(Gate(positive, along, otherwise=-1.0), said("4", "-6"))
    assert gated.per_token is not None
    assert [row.tolist() for row in gated.per_token] == [[2.0, 2.0], [0.0, 0.0, -1.0]]
    clipped = checked_result(along.clip(0, 3), said("4", "?"))
    assert clipped.per_token is not None and clipped.per_token[0].tolist() == [2.0, 1.0]
    text = checked_result(along.clip(0, 3) + Scripted("s"), said("9")[:1])
    assert text.per_token is not None and text.per_token[0].tolist() == [4.5, 7.5]


# --- what the environment says

LETTERS = reward(lambda prompt, completion: float(len(completion)), name="letters", bounds=(0, 9))
NO_X = Gate(lambda prompt, completion: "x" not in completion, LETTERS, otherwise=-1.0)


def test_info_leaves_out_what_was_gated(toy: dict[str, Any], as_plain: Any) -> None:
    mix = 0.5 * NO_X + 3 * reward(lambda prompt, completion: 1.0, name="one")
    env = TextEnv(**{**toy, "reward": mix})
    infos = {}
    for text in ("ab", "ax"):
        env.reset(seed=0)
        for token in env.tokenizer.encode_completion(text):
            env.step(token)
        *_, infos[text] = env.step(env.tokenizer.eos_id)
    opened, shut = infos["ab"], infos["ax"]
    assert opened["reward_terms"] == {"letters": 1.0, "gate(letters)": 0.0, "one": 3.0}
    assert opened["reward_raw"] == {"letters": 2.0, "gate(letters)": 0.0, "one": 1.0}
    assert shut["reward_terms"] == {"gate(letters)": -0.5, "one": 3.0}
    assert shut["reward_raw"] == {"gate(letters)": -1.0, "one": 1.0}
    for info in infos.values():
        assert sum(info["reward_terms"].values()) == info["task_reward"]
        assert info["scored"] is True
        json.dumps(info, allow_nan=False)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_info_masks_what_was_gated(mode: AutoresetMode, toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**{**toy, "reward": NO_X}, num_envs=2, autoreset_mode=mode)
    venv.reset(seed=0)
    venv.step(np.array([venv.tokenizer.encode_completion(c)[0] for c in "xa"]))
    _, rewards, *_, info = venv.step(np.full(2, venv.tokenizer.eos_id))
    told = info["final_info"] if mode is AutoresetMode.SAME_STEP else info
    assert rewards.tolist() == [-1.0, 1.0]
    for key in ("reward_terms", "reward_raw"):
        assert told[key]["_letters"].tolist() == [False, True]
        assert told[key]["letters"].dtype == np.float64 and told[key]["letters"][1] == 1.0
        assert told[key]["_gate(letters)"].tolist() == [True, True]


def test_unscored_is_absent_and_never_zero(toy: dict[str, Any]) -> None:
    def shy(prompt: Prompt, completion: str) -> float | None:
        return None

    env = TextEnv(**{**toy, "reward": LETTERS + reward(shy)}, on_unscored=-3.0)
    env.reset(seed=0)
    *_, info = env.step(env.tokenizer.eos_id)
    assert (info["scored"], info["task_reward"]) == (False, -3.0)
    assert info["reward_terms"] == info["reward_raw"] == {"letters": 0.0}


def test_the_checker_accepts_a_composed_reward(select_options: dict[str, Any]) -> None:
    composed = Gate(
        lambda prompt, completion: bool(completion.strip()),
        (0.5 * ContextMatch() + 0 * reward(lambda prompt, completion: len(completion), name="n")),
    ).clip(-5, 5)
    options = {**select_options, "max_new_tokens": 16}
    report = check("textenvs/ContextSelect-v0", reward=composed, **options)
    assert report.ok, str(report)


# --- shaping


def distance(prompt: Prompt, ids: Sequence[int]) -> float:
    """An uneven potential of a prompt and its answer so far."""
    return math.sin(1 + 3 * len(prompt.id) + sum((t + 2) * i for t, i in enumerate(ids)))


def tiny_enumerable(**options: Any) -> EnumerableEnv:
    return EnumerableEnv(n_prompts=2, n_symbols=3, horizon=3, **options)


def listed(env: TextEnv, completions: Completions) -> list[Episode]:
    """Every completion of an environment as the episode it ends in."""
    episodes = []
    for x, tokens, mask in zip(
        completions.index, completions.tokens, completions.mask, strict=True
    ):
        ids = tuple(tokens[: mask.sum()].tolist())
        kept = ids[:-1] if ids[-1] == env.tokenizer.eos_id else ids
        episodes.append(Episode(completions.prompts[x], env.tokenizer.decode(kept), ids))
    return episodes


def discounted(task: BaseReward, episodes: Sequence[Episode], gamma: float) -> np.ndarray:
    """Return float64 [M], the return of each episode, each token paid its share."""
    rows = checked_result(task, episodes).spread(episodes)
    return np.array([float(row @ gamma ** np.arange(len(row))) for row in rows])


@pytest.fixture(scope="module")
def enumerated() -> tuple[EnumerableEnv, Completions, list[Episode]]:
    env = tiny_enumerable()
    completions = enumerate_completions(env)
    return env, completions, listed(env, completions)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5, 0.0])
def test_shaping_moves_every_answer_of_a_prompt_alike(gamma: float, enumerated: Any) -> None:
    """The discounted sum telescopes to -phi of the prompt, so no two answers change places."""
    env, _, episodes = enumerated
    shaped = env.reward + PotentialShaping(distance, gamma)
    assert len(episodes) > 200
    moved = discounted(shaped, episodes, gamma) - discounted(env.reward, episodes, gamma)
    np.testing.assert_allclose(moved, [-distance(e.prompt, ()) for e in episodes], atol=1e-12)


def best_answers(returns: np.ndarray, episodes: Sequence[Episode]) -> list[tuple[int, ...]]:
    order = np.argsort(-returns, kind="stable")
    best: dict[str, tuple[int, ...]] = {}
    for i in order.tolist():
        best.setdefault(episodes[i].prompt.id, tuple(episodes[i].completion_ids))
    return [best[prompt_id] for prompt_id in sorted(best)]


def test_what_is_no_potential_shaping_changes_the_best_answer(enumerated: Any) -> None:
    """Negative controls: the potential as a bonus; and the shares paid all at the end."""
    env, _, episodes = enumerated
    gamma, phi = 0.5, 4.0
    shaping = PotentialShaping(lambda prompt, ids: phi * distance(prompt, ids), gamma)

    @reward(per_token=True)
    def bonus(episodes: Sequence[Episode]) -> list[list[float]]:
        return [
            [
                phi * distance(e.prompt, e.completion_ids[: t + 1])
                for t in range(len(e.completion_ids))
            ]
            for e in episodes
        ]

    plain = best_answers(discounted(env.reward, episodes, gamma), episodes)
    right = best_answers(discounted(env.reward + shaping, episodes, gamma), episodes)
    assert right == plain
    assert best_answers(discounted(env.reward + bonus, episodes, gamma), episodes) != plain
    totals = checked_result(env.reward + shaping, episodes).scores
    late = totals * gamma ** np.array([len(e.completion_ids) - 1 for e in episodes])
    assert best_answers(late, episodes) != plain


def test_the_optimal_policy_is_unchanged(enumerated: Any) -> None:
    """Soft optimum and hard: the same probabilities, and a value that is shifted by -phi."""
    env, completions, _ = enumerated
    shaped = tiny_enumerable(reward=env.reward + PotentialShaping(distance))
    shift = np.mean([-distance(prompt, ()) for prompt in completions.prompts])
    for beta in (0.0, 0.2, 2.0):
        before, after = optimum(completions, beta), optimum(shaped, beta)
        np.testing.assert_allclose(before.probabilities, after.probabilities, atol=1e-9)
        assert float(after) - float(before) == pytest.approx(shift)
    pulled = tiny_enumerable(
        reward=env.reward + reward(lambda prompt, text: 4 * len(text), name="longer")
    )
    assert abs(optimum(pulled, 0.2).probabilities - before.probabilities).max() > 0.1


def test_shaping_by_hand_and_of_text(byte_tokenizer: Any) -> None:
    half = PotentialShaping(
        lambda prompt, text: 1.0 + text.count("a"), 0.5, tokenizer=byte_tokenizer
    )
    ids = (*byte_tokenizer.encode_completion("ab"), byte_tokenizer.eos_id)
    told, bare = checked_result(half, [Episode(PROMPT, "ab", ids), Episode(PROMPT, "ab")]), half
    assert told.per_token is not None
    assert told.per_token[0].tolist() == [0.5 * 2 - 1, 0.5 * 2 - 2, -2.0]
    assert told.scores.tolist() == [-3.0, -3.0], "a text is scored as its tokens would be"
    assert told.per_token[1].tolist() == [] and bare.bounds(PROMPT) == (-math.inf, math.inf)
    whole = PotentialShaping(lambda prompt, ids: 1.0 + len(ids))
    assert whole([Episode(PROMPT, "ab")]).scores.tolist() == [-1.0]
    assert whole.bounds(PROMPT) == (-1.0, -1.0)


def test_bad_shaping() -> None:
    for gamma in (-0.1, 1.1, NAN, True):
        with pytest.raises(ConfigError, match="gamma must be between 0 and 1"):
            PotentialShaping(distance, gamma)
    for value in (NAN, None, "high", math.inf):
        with pytest.raises(RewardError, match="the potential of 'shaping' is"):
            PotentialShaping(lambda prompt, ids, value=value: value)(said("1"))  # type: ignore[misc]
    with pytest.raises(RewardError, match="depends on the tokens.*pass tokenizer="):
        PotentialShaping(distance, 0.5)([Episode(PROMPT, "a")])


# --- normalisation


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), max_size=6))
def test_moments_of_batches_are_those_of_the_whole(batches: list[list[float]]) -> None:
    moments = RunningMoments()
    for batch in batches:
        moments.update(np.array(batch))
    whole = np.array(list(itertools.chain(*batches)))
    assert moments.count == len(whole)
    if len(whole):
        assert moments.mean == pytest.approx(whole.mean(), abs=1e-9)
        assert moments.squares / len(whole) == pytest.approx(whole.var(), abs=1e-6)


def test_normalising_by_hand() -> None:
    normal = RunningNormalised(2 * Scripted("r"))
    first = checked_result(normal, said("1", "3", "?"))
    np.testing.assert_allclose(first.scores, [-1.0, 1.0, NAN])  # mean 4, deviation 2
    assert first.terms["r"].weight == 1.0 and first.terms["r"].score.tolist()[:2] == [1.0, 3.0]
    np.testing.assert_equal(weighted(first)["normalised(r)"], [-2.0, -2.0, NAN])
    second = checked_result(normal, said("8"))
    mean, std = np.mean([2, 6, 16]), np.std([2, 6, 16])
    assert second.scores[0] == pytest.approx((16 - mean) / std), "history decides"
    assert normal.moments.count == 3


def test_one_score_alone_has_no_spread() -> None:
    normal = RunningNormalised(Scripted("r"))
    assert normal(said("5")).scores.tolist() == [0.0]
    assert normal(said("5", "5")).scores.tolist() == [0.0, 0.0], "nothing is divided by 0"
    assert normal.frozen()(said("7")).scores.tolist() == [2.0]


def test_frozen_is_deterministic_and_apart() -> None:
    normal = RunningNormalised(Scripted("r", -4, 6), centre=True)
    normal(said("0", "2"))
    frozen = normal.frozen()
    before = [frozen(said("4")).scores[0] for _ in range(2)]
    assert before == [3.0, 3.0] and frozen.bounds(PROMPT) == (-5.0, 5.0)
    assert normal.bounds(PROMPT) == (-math.inf, math.inf)
    normal(said("4", "4"))
    assert frozen(said("4")).scores[0] == 3.0 and normal(said("4")).scores[0] != 3.0
    scale = RunningNormalised(Scripted("r"), centre=False)
    assert scale(said("0", "2")).scores.tolist() == [0.0, 2.0]


def test_normalised_clip_and_tokens() -> None:
    normal = RunningNormalised(Scripted("r", per_token=True), clip=0.5)
    result = checked_result(normal, said("1", "3"))
    assert result.scores.tolist() == [-0.5, 0.5] and normal.bounds(PROMPT) == (-0.5, 0.5)
    assert result.per_token is not None
    assert [row.tolist() for row in result.per_token] == [[0.5, -1.0], [1.5, -1.0]]
    for clip in (0, -1, NAN, True):
        with pytest.raises(ConfigError, match="clip of .* must be a number above 0"):
            RunningNormalised(Scripted("r"), clip=clip)


def test_state_is_saved_through_whatever_holds_it(toy: dict[str, Any]) -> None:
    def build() -> BaseReward:
        return 0.5 * Gate(positive, RunningNormalised(Scripted("r"))).clip(-9, 9) + LETTERS

    one, two = build(), build()
    one(said("1", "3"))
    state = json.loads(json.dumps(one.state_dict()))
    two.load_state_dict(state)
    assert two(said("8")).scores[0] == one(said("8")).scores[0] != build()(said("8")).scores[0]
    assert LETTERS.state_dict() == {}
    with pytest.raises(ConfigError, match="holds no moments"):
        RunningNormalised(Scripted("r")).load_state_dict({})


def test_an_environment_saves_the_state_of_its_reward(toy: dict[str, Any]) -> None:
    def played(venv: TextVectorEnv, seed: int) -> list[float]:
        venv.action_space.seed(seed)
        steps = (venv.step(venv.action_space.sample()) for _ in range(12))
        return np.array([rewards for _, rewards, *_ in steps]).ravel().tolist()

    def build() -> TextVectorEnv:
        return TextVectorEnv(
            **{**toy, "reward": RunningNormalised(toy["reward"])},
            num_envs=3,
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )

    one, two, bare = build(), build(), build()
    one.reset(seed=0)
    played(one, 0)
    state = json.loads(json.dumps(one.state_dict()))
    two.load_state_dict(state)
    del state["rows"]["reward"]
    bare.load_state_dict(state)
    whole = played(one, 1)
    assert whole == played(two, 1) != played(bare, 1)
    assert (
        "reward"
        not in TextVectorEnv(
            **toy, num_envs=1, autoreset_mode=AutoresetMode.NEXT_STEP
        ).state_dict()["rows"]
    )


# --- any combination


@st.composite
def composed(draw: Any, names: Any = None, depth: int = 3) -> BaseReward:
    """A reward of rewards, each with its bounds, some spread over the tokens."""
    names = names if names is not None else itertools.count()
    kinds = ["leaf", "sum", "clip", "gate", "condition", "normalised"]
    kind = draw(st.sampled_from(kinds)) if depth else "leaf"
    number = st.floats(-3, 3)

    def another() -> BaseReward:
        return draw(composed(names, depth - 1))

    if kind == "sum":
        return draw(number) * another() - draw(number) * another()
    if kind == "clip":
        low, high = sorted((draw(number), draw(number)))
        return Clip(another(), low, high, name=f"clip{next(names)}")
    if kind == "gate":
        otherwise = draw(st.just("lowest") | number)
        return Gate(odd_length, another(), otherwise, name=f"gate{next(names)}")
    if kind == "condition":
        return Gate(another(), another(), name=f"gate{next(names)}", above=draw(number))
    if kind == "normalised":
        clip = draw(st.none() | st.floats(0.5, 3))
        fresh = RunningNormalised(another(), clip=clip, name=f"normal{next(names)}")
        fresh(said("3", "5 5", "x y z"))
        return fresh.frozen() if draw(st.booleans()) else fresh
    low, high = sorted((draw(number), draw(number)))
    return Hashed(f"leaf{next(names)}", low, high, draw(st.booleans()), draw(st.booleans()))


def odd_length(prompt: Prompt, completion: str) -> bool:
    return len(completion) % 2 == 1


class Hashed(BaseReward):
    """Any score within the bounds, their ends as often as the rest; "q" is not scored."""

    def __init__(self, name: str, low: float, high: float, per_token: bool, shy: bool) -> None:
        self.name, self.low, self.high = name, low, high
        self.per_token, self.shy = per_token, shy

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        assert episodes, "nobody asks for nothing"
        scores = [self._score(e.completion) for e in episodes]
        result = RewardResult.from_scores(self.name, scores)
        if not self.per_token:
            return result
        rows = []
        for episode, score in zip(episodes, scores, strict=True):
            n = len(episode.completion_ids)
            rows.append(np.full(n, (score or 0.0) / n) if n else np.zeros(0))
        return RewardResult(result.scores, result.terms, rows)

    def _score(self, text: str) -> float | None:
        if self.shy and "q" in text:
            return None
        share = (sum(map(ord, text)) + len(self.name)) % 5 / 4
        return min(self.high, self.low + share * (self.high - self.low))

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        return (self.low, self.high)


@settings(max_examples=150, deadline=None)
@given(composed(), st.lists(st.text("abq", max_size=4), min_size=1, max_size=5))
def test_any_combination_is_bounded_explained_and_fresh(task: BaseReward, texts: list[str]) -> None:
    episodes = [*said(*texts), *(Episode(PROMPT, text) for text in texts)]
    bounds = task.bounds(PROMPT)  # before scoring moves a running mean
    result = checked_result(task, episodes)
    slack = 1e-9 * max(1.0, *(abs(end) for end in bounds if math.isfinite(end)), 0.0)
    known = result.scores[~np.isnan(result.scores)]
    assert ((known >= bounds[0] - slack) & (known <= bounds[1] + slack)).all()
    assert set(result.terms) == set(task.term_weights())
    for name, term in result.terms.items():
        assert (np.isnan(term.score) == [s != SCORED for s in term.status]).all()
        assert "normal" in str(task.describe()) or term.weight == pytest.approx(
            task.term_weights()[name]
        )
    if task.state_dict() == {} or "'updating': True" not in str(task.describe()):
        again = checked_result(task, episodes[::-1])
        np.testing.assert_allclose(again.scores[::-1], result.scores)
        shared = [id(t.score) for t in result.terms.values()]
        assert not set(shared) & {id(t.score) for t in again.terms.values()}
    json.dumps(task.describe(), allow_nan=False)


def test_description_of_a_composed_reward() -> None:
    task = 0.5 * Gate(positive, Hashed("h", 0, 1, False, True)) - LETTERS.clip(high=3)
    told = task.describe()
    assert told["type"] == "WeightedSum" and told["name"] == task.name
    (gate, half), (clip, minus) = told["parts"]
    assert (half, minus, clip["low"], clip["high"]) == (0.5, -1.0, "-inf", 3.0)
    options = {"low": 0, "high": 1, "per_token": False, "shy": True}
    assert gate["reward"] == {"type": "Hashed", "name": "h", **options}
    assert gate["condition"].endswith(":positive") and gate["otherwise"] == "lowest"
    assert clip["reward"]["limits"] == [0.0, 9.0]
    assert clip["reward"]["function"].endswith(":<lambda>")


def test_a_composed_reward_in_a_registered_environment(select_options: dict[str, Any]) -> None:
    task = Gate(odd_length, ContextMatch()) + 0.1 * LETTERS.clip(0, 5)
    env = gym.make("textenvs/ContextSelect-v0", reward=task, **select_options)
    env.reset(seed=0)
    *_, info = env.step(env.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    assert set(info["reward_terms"]) == {"gate(context_match)", "letters", "clip(letters)"}
    assert info["task_reward"] == sum(info["reward_terms"].values())
