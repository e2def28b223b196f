"""NLPO: the nucleus, what it does to rollout and update, learning, and going on after a save."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.config import LoRAConfig, PPOConfig
from agents.evaluation import evaluate
from agents.nlpo import NLPO, NLPOConfig
from agents.nucleus_mask import NucleusMask, nucleus
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.rollout import Rollout, collect
from textenvs.decoding import positions
from textenvs.errors import ConfigError
from textenvs.masks.reference_top_p import nucleus as nucleus_of_one

QUICK = NLPOConfig(learning_rate=1e-2, n_epochs=2, batch_size=16)
Make = Callable[..., Any]


@pytest.fixture
def make_agent(make_policy: Make, make_venv: Make) -> Make:
    """Return a maker of agents on a toy environment of four tokens an answer."""

    def make(num_envs: int = 8, seed: int = 0, lora: Any = None, **changes: Any) -> NLPO:
        fields = {field.name for field in dataclasses.fields(NLPOConfig)}
        config = dataclasses.replace(QUICK, **{k: changes.pop(k) for k in fields & set(changes)})
        return NLPO(make_policy(lora=lora), make_venv(num_envs, **changes), config, seed=seed)

    return make


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def collected(agent: NLPO | PPO, token_mask: Any = None) -> Rollout:
    return collect(agent.policy, agent.env, generator=agent.generator, token_mask=token_mask)


def nuclei(model: Any, rollout: Rollout, top_p: float) -> torch.Tensor:
    """Return bool [N, T, V]: the nucleus before each token, without any cache."""
    mask = torch.from_numpy(rollout.attention_mask).bool()
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(rollout.input_ids),
            attention_mask=mask.long(),
            position_ids=positions(mask),
        ).logits[:, rollout.start - 1 : -1]
    rows = nucleus(logits.flatten(0, 1).softmax(-1), top_p)
    return rows.view(logits.shape)


def test_nucleus_by_hand() -> None:
    rows = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    expected = [[0, 1, 0, 1], [1, 1, 1, 0], [1, 0, 0, 0]]
    assert nucleus(rows, 0.7).int().tolist() == expected
    assert nucleus(rows, 0.1).int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert nucleus(rows, 0.1, min_tokens=2).int().tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]] + [
        [1, 1, 0, 0]
    ]
    assert nucleus(rows, 1.0).all()


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_nucleus_is_that_of_the_environments_mask(top_p: float) -> None:
    logprobs = (3 * torch.randn(20, 50, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    for row, inside in zip(logprobs, nucleus(logprobs.exp(), top_p), strict=True):
        expected = nucleus_of_one(row.numpy(), top_p)
        assert sorted(expected.tolist()) == inside.nonzero()[:, 0].tolist()


def test_solves_a_toy_environment(make_agent: Make) -> None:
    agent, scores = make_agent(32), []
    agent.learn(32 * 4 * 24, lambda metrics: scores.append(metrics["score"]))
    assert scores[0] < 0.5
    assert np.mean(scores[-2:]) > 0.9


def low_letters(episodes: Any) -> dict[str, np.ndarray]:
    shares = [sum(c < "P" for c in e.completion) / max(1, len(e.completion)) for e in episodes]
    return {"low": np.array(shares)}


def test_learns_nothing_from_a_constant_reward(make_agent: Make) -> None:
    """Negative control: neither a flat reward nor the mask finds the letters."""
    agent = make_agent(32, reward=lambda prompt, completion: 1.0, metrics=low_letters)
    shares: list[float] = []
    agent.learn(32 * 4 * 24, lambda metrics: shares.append(metrics["gold/low"]))
    assert shares[0] < 0.5
    assert np.mean(shares[-2:]) < 0.6


def test_never_samples_outside_the_nucleus_of_the_older_policy(make_agent: Make) -> None:
    """The masks, recomputed without a cache, are those recorded; plain sampling leaves them."""
    agent = make_agent(16, top_p=0.6, mask_update_interval=100)
    agent.learn(16 * 4 * 3)
    rollout = collected(agent, agent.token_mask())
    inside = nuclei(agent.mask.model, rollout, 0.6)
    assert rollout.allowed is not None
    bits = np.unpackbits(rollout.allowed, axis=-1, count=258).astype(bool)
    assert (bits[rollout.mask] == inside.numpy()[rollout.mask]).all()
    tokens = torch.from_numpy(rollout.input_ids[:, rollout.start :])
    chosen = inside.gather(-1, tokens[..., None])[..., 0].numpy()
    assert chosen[rollout.mask].all()

    free = collected(agent)
    tokens = torch.from_numpy(free.input_ids[:, free.start :])
    chosen = nuclei(agent.mask.model, free, 0.6).gather(-1, tokens[..., None])[..., 0].numpy()
    assert free.allowed is None and not chosen[free.mask].all()


def test_before_the_first_step_the_ratio_is_one(make_agent: Make) -> None:
    """Also when the mask is older than the policy, since both halves of the ratio are masked."""
    agent = make_agent(8, n_epochs=1, batch_size=8, mask_update_interval=100)
    for _ in range(3):
        metrics = agent.step()
        assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
        assert metrics["clip_fraction"] == 0.0 and abs(metrics["approx_kl"]) < 1e-6
        assert 1 < metrics["allowed_tokens"] < 258


def test_masked_logprobs_are_renormalised(make_agent: Make) -> None:
    agent = make_agent(8, top_p=0.5)
    rollout = collected(agent, agent.token_mask())
    batch, metrics = agent.prepare(rollout)
    np.testing.assert_allclose(batch.logprobs.numpy(), rollout.logprobs, atol=1e-5)
    full = agent.policy.evaluate(batch.input_ids, batch.attention_mask, batch.start).logprobs
    mass = (full - batch.logprobs).exp()[batch.mask]
    assert (mass > 0.5 - 1e-5).all() and mass.min() < 0.9, "what the nucleus held of each"
    assert metrics["allowed_tokens"] == pytest.approx(
        nuclei(agent.mask.model, rollout, 0.5).sum(-1).numpy()[rollout.mask].mean()
    )


@pytest.mark.parametrize("change", [{"top_p": 1.0}, {"top_p": 0.1, "min_tokens": 258}])
def test_with_every_token_allowed_it_is_ppo(change: Any, make_agent: Make) -> None:
    fields = {field.name for field in dataclasses.fields(PPOConfig)}
    settings = {name: getattr(QUICK, name) for name in fields}
    agent, masked = make_agent(8, **change), make_agent(8)
    ppo = PPO(make_agent(8).policy, make_agent(8).env, PPOConfig(**settings))
    for learner in (agent, masked, ppo):
        learner.learn(8 * 4 * 2)
    torch.testing.assert_close(weights(agent.policy), weights(ppo.policy), atol=1e-6, rtol=1e-5)
    assert not all(
        torch.allclose(a, b, atol=1e-3)
        for a, b in zip(weights(masked.policy), weights(ppo.policy), strict=True)
    )


def test_mask_is_refreshed_after_every_interval(make_agent: Make) -> None:
    agent = make_agent(8, mask_update_interval=2)
    first = weights(agent.policy.model)
    for update in range(1, 5):
        agent.step()
        now, masking = weights(agent.policy.model), weights(agent.mask.model)
        if update % 2:
            assert not same(masking, now)
        else:
            assert same(masking, now)
        assert same(masking, first) == (update == 1)


def test_adapters_are_copied_and_the_base_is_shared(make_agent: Make) -> None:
    agent = make_agent(8, lora=LoRAConfig(r=2), mask_update_interval=2)
    pairs = list(zip(agent.policy.model.parameters(), agent.mask.model.parameters(), strict=True))
    assert any(p.requires_grad for p, _ in pairs)
    for learned, masking in pairs:
        assert (learned is masking) == (not learned.requires_grad)
        assert not masking.requires_grad
    agent.step()
    assert not same(weights(agent.policy.model), weights(agent.mask.model))
    agent.step()
    assert same(weights(agent.policy.model), weights(agent.mask.model))


def test_predict_plays_the_masked_policy_with_both_caches(make_agent: Make) -> None:
    """A nucleus of one token leaves no choice: the older copy's greedy answer is said."""
    agent = make_agent(4, autoreset_mode=AutoresetMode.DISABLED, mask_update_interval=100)
    old = make_agent(4, autoreset_mode=AutoresetMode.DISABLED).policy
    agent.learn(4 * 4 * 6)
    agent.mask.top_p = 1e-6
    observation, _ = agent.env.reset(seed=0)
    state, differs = None, False
    for step in range(3):
        fresh = np.full(4, step == 0)
        masked, state = agent.predict(observation, state, fresh)
        anew, _ = agent.predict(observation)
        expected, _ = old.predict(observation, deterministic=True)
        free, _ = agent.policy.predict(observation, deterministic=True)
        assert masked.tolist() == anew.tolist() == expected.tolist()
        differs |= free.tolist() != expected.tolist()
        observation, *_ = agent.env.step(np.where(masked == 1, 2, masked))
    assert differs, "the policy has moved, so the mask decides"
    single = {key: value[0] for key, value in observation.items()}
    assert agent.predict(single)[0].shape == ()


def test_is_evaluated_as_any_agent_is(make_agent: Make, make_venv: Make) -> None:
    result = evaluate(make_agent(8), make_venv(2), 5, num_envs=2)
    assert result["length"].mean >= 1


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2)])
def test_resumed_equals_unbroken(
    lora: Any, model_folder: Make, make_venv: Make, tmp_path: Path
) -> None:
    """The mask is older than the policy when the run is broken off, and stays so."""
    config = dataclasses.replace(QUICK, mask_update_interval=2, batch_size=4)
    folder, goal = model_folder(), 4 * 4 * 5

    def begin() -> NLPO:
        policy = CausalLMPolicy.from_pretrained(folder, lora=lora, bfloat16=False)
        return NLPO(policy, make_venv(4), config, seed=3)

    unbroken = begin().learn(goal)
    broken = begin().learn(goal, lambda metrics: metrics["update"] < 3)
    assert not same(weights(broken.mask.model), weights(broken.policy.model))
    resumed = NLPO.load(broken.save(tmp_path / "saved"), make_venv(4))
    assert same(weights(resumed.mask.model), weights(broken.mask.model))
    resumed.learn(goal, reset_num_timesteps=False)
    assert same(weights(resumed.policy), weights(unbroken.policy))
    assert same(weights(resumed.mask.model), weights(unbroken.mask.model))


def test_same_seed_same_weights_and_another_seed_others(make_agent: Make) -> None:
    one, two, other = (weights(make_agent(seed=s).learn(8 * 4 * 2).policy) for s in (0, 0, 1))
    assert same(one, two) and not same(one, other)


def test_mask_gives_up_and_takes_rows_as_the_decode_batch_does(make_agent: Make) -> None:
    """Rows picked from the state of the mask go on as they would have."""
    agent = make_agent(4, autoreset_mode=AutoresetMode.DISABLED)
    mask = NucleusMask(agent.policy, 0.7)
    observation, _ = agent.env.reset(seed=1)
    tensors = [torch.from_numpy(observation[k]) for k in ("input_ids", "attention_mask")]
    _, state = mask.next_allowed(*tensors, None, torch.ones(4, dtype=torch.bool))
    observation, *_ = agent.env.step(np.full(4, 70))
    ids, attended = (torch.from_numpy(observation[k]) for k in ("input_ids", "attention_mask"))
    rows = torch.tensor([2, 0])
    picked, _ = mask.next_allowed(
        ids[rows], attended[rows], state.select(rows), torch.zeros(2, dtype=torch.bool)
    )
    anew, _ = mask.next_allowed(ids, attended, None, torch.ones(4, dtype=torch.bool))
    assert torch.equal(picked, anew[rows])


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_tokens", 0, "a whole number of at least 1"),
        ("mask_update_interval", 1.5, "a whole number of at least 1"),
        ("clip_range", 0.0, "above 0"),
    ],
)
def test_bad_settings(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be {rule}"):
        NLPOConfig(**{name: value})
