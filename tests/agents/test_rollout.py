"""The rollout: whole episodes, the environment's own rewards, every autoreset mode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.rollout import collect, filler_token
from textenvs.errors import ConfigError
from textenvs.reference import CausalLMReference
from textenvs.vector_infos import row_info
from textenvs.wrappers.reference_kl import VectorReferenceKL

MODES = list(AutoresetMode)


def gathered(policy: Any, venv: Any, *, waves: int = 2, seed: int = 0) -> Any:
    venv.reset(seed=3)
    return collect(policy, venv, generator=torch.Generator().manual_seed(seed), waves=waves)


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
    rollout = gathered(eager_policy, venv, waves=3)
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


def test_every_mode_gives_the_same_first_wave(
    eager_policy: Any, make_venv: Callable[..., Any]
) -> None:
    rollouts = [gathered(eager_policy, make_venv(6, autoreset_mode=m), waves=1) for m in MODES]
    for other in rollouts[1:]:
        assert np.array_equal(rollouts[0].input_ids, other.input_ids)
        assert np.array_equal(rollouts[0].rewards, other.rewards)
        assert rollouts[0].infos == other.infos


def test_seed_decides(eager_policy: Any, make_venv: Callable[..., Any]) -> None:
    one, two, other = (
        gathered(eager_policy, make_venv(6), seed=seed).input_ids for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_groups_share_prompts(eager_policy: Any, make_venv: Callable[..., Any]) -> None:
    rollout = gathered(eager_policy, make_venv(6, samples_per_prompt=3), waves=4)
    prompts = [tuple(ids[: rollout.start]) for ids in rollout.input_ids]
    for first in range(0, 24, 3):
        assert len(set(prompts[first : first + 3])) == 1
    assert len(set(prompts)) > 2


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
