"""The rollout: whole episodes, the environment's own rewards, every autoreset mode."""

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorWrapper

from agents.episode_feed import filler_token
from agents.policy import CausalLMPolicy
from agents.rollout import collect
from textenvs.errors import ConfigError
from textenvs.masks import BoundMask, MaskSetting, Rows, TokenMask
from textenvs.reference import CausalLMReference
from textenvs.types import Prompt
from textenvs.vector_infos import row_info
from textenvs.wrappers.action_mask import VectorActionMask
from textenvs.wrappers.reference_kl import VectorReferenceKL

MODES = list(AutoresetMode)


def gathered(policy: Any, venv: Any, episodes: int | None = 12, *, seed: int = 0) -> Any:
    venv.reset(seed=3)
    return collect(policy, venv, generator=torch.Generator().manual_seed(seed), episodes=episodes)


@pytest.fixture
def eager_policy(make_policy: Callable[..., Any]) -> Any:
    """A policy that says EOS about one time in three."""
    policy = make_policy()

    def push(module: Any, arguments: Any, output: Any) -> None:
        output[..., 1] = output.logsumexp(-1) - 0.7

    policy.model.get_output_embeddings().register_forward_hook(push)
    return policy


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_whole_and_paid_for(
    mode: AutoresetMode, eager_policy: Any, make_venv: Callable[..., Any]
) -> None:
    venv = make_venv(6, autoreset_mode=mode)
    rollout = gathered(eager_policy, venv, 18)
    assert len(rollout.infos) == 18
    assert set(rollout.lengths) >= {1, 2, 4}
    for row, info in enumerate(rollout.infos):
        ids = rollout.input_ids[row, rollout.start :][rollout.mask[row]].tolist()
        assert ids == info["completion_ids"]
        assert rollout.rewards[row].sum() == sum(info["reward_terms"].values())
        last = len(ids) - 1
        assert rollout.rewards[row, last] == rollout.rewards[row].sum()
        assert (rollout.logprobs[row, : last + 1] < 0).all()
        assert not rollout.logprobs[row, last + 1 :].any()
    evaluated = eager_policy.evaluate(
        torch.from_numpy(rollout.input_ids), torch.from_numpy(rollout.attention_mask), rollout.start
    )
    np.testing.assert_allclose(rollout.logprobs, evaluated.logprobs.detach(), atol=1e-4)


@pytest.mark.parametrize("samples_per_prompt", [1, 3])
@pytest.mark.parametrize("episodes", [3, 6, 21])
def test_every_mode_gives_the_same_episodes(
    samples_per_prompt: int, episodes: int, eager_policy: Any, make_venv: Callable[..., Any]
) -> None:
    """Fewer than the rows, as many, and more but no multiple; no filler is ever scored."""
    rollouts = []
    for mode in MODES:
        scored: list[str] = []

        def reward(prompt: Any, completion: str, scored: list[str] = scored) -> float:
            scored.append(completion)
            return float(len(completion))

        venv = make_venv(
            6, autoreset_mode=mode, samples_per_prompt=samples_per_prompt, reward=reward
        )
        rollouts.append(gathered(eager_policy, venv, episodes))
        assert sorted(scored) == sorted(info["completion"] for info in rollouts[-1].infos)
        assert len(scored) == episodes
    for other in rollouts[1:]:
        for name in ("input_ids", "attention_mask", "logprobs", "rewards", "groups"):
            assert np.array_equal(getattr(rollouts[0], name), getattr(other, name)), name
        assert rollouts[0].infos == other.infos
        assert rollouts[0].prompts == other.prompts


def test_seed_decides(eager_policy: Any, make_venv: Callable[..., Any]) -> None:
    one, two, other = (
        gathered(eager_policy, make_venv(6), seed=seed).input_ids for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_groups_are_whole_and_contiguous(eager_policy: Any, make_venv: Callable[..., Any]) -> None:
    rollout = gathered(eager_policy, make_venv(6, samples_per_prompt=3), 21)
    assert rollout.groups.tolist() == [i // 3 for i in range(21)]
    for group in range(7):
        members = np.flatnonzero(rollout.groups == group)
        assert len({rollout.prompts[row].id for row in members}) == 1
        assert len({tuple(ids) for ids in rollout.input_ids[members, : rollout.start]}) == 1
    assert len({prompt.id for prompt in rollout.prompts}) > 2
    assert len({tuple(ids) for ids in rollout.input_ids}) > 7


@pytest.mark.parametrize("episodes", [0, 4, -3])
def test_groups_are_not_cut(
    episodes: int, make_policy: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=f"samples_per_prompt, 3, got {episodes}; .* ask for"):
        gathered(make_policy(), make_venv(6, samples_per_prompt=3), episodes)


class OwnLength(TokenMask):
    """Ends each answer at the length that its prompt carries."""

    def bind(self, setting: MaskSetting) -> BoundMask:
        return BoundOwnLength(setting.tokenizer.eos_id)


class BoundOwnLength:
    """`OwnLength` at work."""

    def __init__(self, eos_id: int) -> None:
        self.eos_id = eos_id

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        for row, (prompt, said) in enumerate(zip(rows.prompts, rows.completions, strict=True)):
            last = len(said) + 1 == prompt.metadata["length"]
            allowed[row] = not last
            allowed[row, self.eos_id] = last


LENGTHS = {"short": 1, "middle": 3, "long": 8}


def length_venv(make_venv: Callable[..., Any], num_envs: int, **options: Any) -> Any:
    prompts = [Prompt(id=n, text=n, metadata={"length": k}) for n, k in LENGTHS.items()]
    venv = make_venv(num_envs, prompts=prompts, max_new_tokens=9, **options)
    return VectorActionMask(venv, OwnLength())


def draws_of_each_row(seed: int, rows: int) -> list[Iterator[str]]:
    """Return the prompts that each row's generator gives, one after the other."""
    names = list(LENGTHS)
    streams = []
    for row in range(rows):
        generator, _ = np_random(seed + row)
        generator.integers(3)  # of the reset that seeded it
        streams.append(iter([names[i] for i in generator.integers(3, size=100)]))
    return streams


def end_times(lengths: list[int], rows: int) -> list[int]:
    """Return when episodes end that rows play one after the other, in this order."""
    free_at, ends = [0] * rows, []
    for length in lengths:
        ends.append(heapq.heappop(free_at) + length)
        heapq.heappush(free_at, ends[-1])
    return ends


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_those_that_begin_first(
    mode: AutoresetMode, make_policy: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    """Exactly those of a simulation; the first to end would be other ones."""
    rows, episodes = 5, 43
    venv = length_venv(make_venv, rows, autoreset_mode=mode)
    rollout = gathered(make_policy(), venv, episodes)
    draws = draws_of_each_row(3, rows)
    free_at, begun = [(0, row) for row in range(rows)], []
    while len(begun) < episodes:
        time, row = heapq.heappop(free_at)
        name = next(draws[row])
        begun.append((time, name))
        heapq.heappush(free_at, (time + LENGTHS[name], row))
    assert [prompt.id for prompt in rollout.prompts] == [name for _, name in begun]
    assert [LENGTHS[name] for _, name in begun] == rollout.lengths.tolist()
    ends = end_times(rollout.lengths.tolist(), rows)
    assert ends == [time + LENGTHS[name] for time, name in begun]
    assert ends != sorted(ends), "beginning first and ending first are not the same"


def test_lengths_are_not_biased(
    make_policy: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    """The mean length is that of the prompts; among the first to end it is lower."""
    policy, rows, wanted = make_policy(), 8, 16
    venv = length_venv(make_venv, rows)
    counted, first_ended = [], []
    for seed in range(40):
        venv.reset(seed=100 * seed)
        generator = torch.Generator().manual_seed(seed)
        lengths = collect(policy, venv, generator=generator, episodes=wanted).lengths
        counted.append(lengths.mean())
        first = np.argsort(end_times(lengths.tolist(), rows), kind="stable")[: wanted - rows]
        first_ended.append(lengths[first].mean())
    error = np.std(counted) / np.sqrt(len(counted))
    truth = np.mean(list(LENGTHS.values()))
    assert abs(np.mean(counted) - truth) < 3 * error
    assert np.mean(first_ended) < truth - 3 * error


def test_masks_in_force_are_kept(
    make_policy: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    policy = make_policy()
    rollout = gathered(policy, length_venv(make_venv, 4), 10)
    assert rollout.allowed.shape == (10, 9, 33) and rollout.allowed.dtype == np.uint8
    allowed = np.unpackbits(rollout.allowed, axis=-1, count=258).astype(bool)
    for row, length in enumerate(rollout.lengths):
        assert allowed[row, : length - 1].sum() == 257 * (length - 1)
        assert np.flatnonzero(allowed[row, length - 1]).tolist() == [1]
        assert rollout.logprobs[row, length - 1] == pytest.approx(0, abs=1e-6)
        assert allowed[row, length:].all()
    assert gathered(policy, make_venv(4), 4).allowed is None


class CountedState:
    """How many tokens each row has been asked for."""

    def __init__(self, counts: torch.Tensor) -> None:
        self.counts = counts

    def select(self, rows: torch.Tensor) -> "CountedState":
        return CountedState(torch.where(rows < 0, 99, self.counts[rows.clamp_min(0)]))


class EvenThenOdd:
    """Allows even tokens and odd ones in turn, by a count of its own."""

    def __init__(self, start: int) -> None:
        self.start, self.checked = start, 0

    def next_allowed(
        self, ids: torch.Tensor, mask: torch.Tensor, state: Any, fresh: torch.Tensor
    ) -> tuple[torch.Tensor, CountedState]:
        counts = torch.zeros(len(ids), dtype=torch.int64) if state is None else state.counts + 1
        counts[fresh] = 0
        playing = counts == mask[:, self.start :].sum(1)
        self.checked += int(playing.sum())
        return (torch.arange(258) % 2)[None] == (counts % 2)[:, None], CountedState(counts)


@pytest.mark.parametrize("samples_per_prompt", [1, 3])
def test_the_policys_mask_follows_its_rows(
    samples_per_prompt: int, eager_policy: Any, make_venv: Callable[..., Any]
) -> None:
    """Through rows that are refilled, leave the decode batch and come back to it."""
    venv = make_venv(6, samples_per_prompt=samples_per_prompt, max_new_tokens=9)
    venv.reset(seed=3)
    mask = EvenThenOdd(7)
    generator = torch.Generator().manual_seed(0)
    rollout = collect(eager_policy, venv, generator=generator, episodes=21, token_mask=mask)
    assert mask.checked >= rollout.lengths.sum()
    assert len(set(rollout.lengths)) > 2
    for row, length in enumerate(rollout.lengths):
        said = rollout.input_ids[row, 7 : 7 + length]
        assert (said % 2 == np.arange(length) % 2).all()
    evaluated = eager_policy.evaluate(
        torch.from_numpy(rollout.input_ids),
        torch.from_numpy(rollout.attention_mask),
        rollout.start,
        allowed=torch.from_numpy(rollout.allowed),
    )
    np.testing.assert_allclose(rollout.logprobs, evaluated.logprobs.detach(), atol=1e-4)


def test_where_masks_exclude_each_other_the_environment_decides(
    make_policy: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    """EOS is odd, and half of the last tokens would have to be even."""
    venv = length_venv(make_venv, 4)
    generator = torch.Generator().manual_seed(0)
    rollout = collect(
        make_policy(), venv, generator=generator, episodes=12, token_mask=EvenThenOdd(7)
    )
    assert [info["finish_reason"] for info in rollout.infos] == ["eos"] * 12


def test_rewards_run_outside_autocast_and_no_grad(
    make_model: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    seen = set()

    def reward(prompt: Any, completion: str) -> float:
        seen.add((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return 0.0

    gathered(CausalLMPolicy(make_model(), bfloat16=True), make_venv(4, reward=reward))
    assert seen == {(False, True)}


def test_each_rollout_reads_the_weights_anew(
    make_model: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    """The bfloat16 casts of one rollout do not outlive it."""
    policies = [CausalLMPolicy(make_model(), bfloat16=True) for _ in range(2)]
    before = gathered(policies[0], make_venv())
    for policy in policies:
        with torch.no_grad():
            policy.model.get_output_embeddings().weight.mul_(2.0)
    after, anew = (gathered(policy, make_venv()) for policy in policies)
    assert np.array_equal(after.logprobs, anew.logprobs)
    assert not np.array_equal(after.logprobs, before.logprobs)


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_of_one_token(
    mode: AutoresetMode, make_policy: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    rollout = gathered(make_policy(), make_venv(4, max_new_tokens=1, autoreset_mode=mode), 6)
    assert rollout.lengths.tolist() == [1] * 6 and all(rollout.infos)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("timing", ["step", "episode"])
@pytest.mark.parametrize("policy_logprob", [False, True])
def test_kl_is_paid_in_every_mode(
    mode: AutoresetMode,
    timing: str,
    policy_logprob: bool,
    eager_policy: Any,
    make_model: Callable[..., Any],
    make_venv: Callable[..., Any],
) -> None:
    reference = CausalLMReference(make_model(seed=5), bfloat16=False)
    venv = VectorReferenceKL(
        make_venv(6, autoreset_mode=mode),
        reference,
        0.5,
        timing=timing,
        policy_logprob=policy_logprob,
    )
    rollout = gathered(eager_policy, venv)
    theirs = reference.completion_logprobs(rollout.input_ids, rollout.attention_mask)
    expected = 0.5 * theirs - 0.5 * rollout.logprobs * policy_logprob
    for row, info in enumerate(rollout.infos):
        n = rollout.lengths[row]
        np.testing.assert_allclose(info["kl"]["terms"], expected[row, :n], atol=1e-4)
        score = sum(info["reward_terms"].values())
        assert rollout.rewards[row].sum() == pytest.approx(score + expected[row].sum(), abs=1e-3)


def test_full_estimator_is_refused(
    make_policy: Callable[..., Any], make_model: Callable[..., Any], make_venv: Callable[..., Any]
) -> None:
    venv = VectorReferenceKL(make_venv(2), make_model(), 0.5, policy_logprob=True, estimator="full")
    with pytest.raises(ConfigError, match='use the estimator "k1"'):
        gathered(make_policy(), venv)


def test_filler_ends_no_episode(make_venv: Callable[..., Any]) -> None:
    venv = make_venv(2, stop=["!", '"#'])
    said = venv.tokenizer.decode([filler_token(venv)])
    assert said and not set(said) & set('!"#')
    everything = "".join(venv.tokenizer.decode([i]) for i in range(2, 258))
    with pytest.raises(ConfigError, match="nothing can fill a row"):
        filler_token(make_venv(2, stop=[everything]))


def test_row_info_unpacks_nested_dicts() -> None:
    infos = {
        "completion": np.array(["a", None], object),
        "_completion": np.array([True, False]),
        "terms": {"x": np.array([0.5, 0.0]), "_x": np.array([True, False])},
        "_terms": np.array([True, False]),
        "prompt": np.array([None, "p"], object),
        "_prompt": np.array([False, True]),
    }
    assert row_info(infos, 0) == {"completion": "a", "terms": {"x": 0.5}}
    assert row_info(infos, 1) == {"prompt": "p"}


@pytest.mark.parametrize("mode", MODES)
def test_deferred_charging_is_that_of_the_environment(
    mode: AutoresetMode, make_policy: Any, make_venv: Any, make_model: Any
) -> None:
    """All at once after the rollout, or as each episode ends: the same rewards and infos."""
    rollouts = []
    for wrapped in (False, True):
        policy = make_policy()
        reference = CausalLMReference(make_model(seed=5), bfloat16=False)
        asked: list[int] = []
        venv = VectorReferenceKL(
            make_venv(6, samples_per_prompt=3, autoreset_mode=mode, max_new_tokens=12),
            counted(reference, asked),
            0.5,
        )
        venv.reset(seed=0)
        outer = VectorWrapper(venv) if wrapped else venv
        rollouts.append(
            (collect(policy, outer, generator=torch.Generator().manual_seed(0), episodes=12), asked)
        )
    (late, once), (early, often) = rollouts
    assert len(once) == 1 and sum(once) == 12 and len(often) > 1
    assert np.array_equal(late.input_ids, early.input_ids)
    np.testing.assert_allclose(late.rewards, early.rewards, atol=1e-5)
    for one, two in zip(late.infos, early.infos, strict=True):
        assert one["kl"]["coef"] == two["kl"]["coef"] and one.keys() == two.keys()
        np.testing.assert_allclose(one["kl"]["terms"], two["kl"]["terms"], atol=1e-5)


def counted(reference: CausalLMReference, asked: list[int]) -> CausalLMReference:
    """Note how many episodes the reference is asked about at a time."""
    ask = reference.completion_logprobs

    def noted(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        asked.append(len(input_ids))
        return ask(input_ids, attention_mask)

    reference.completion_logprobs = noted  # type: ignore[method-assign]
    return reference
