"""The mask wrappers: single and vector, every autoreset mode, other wrappers, MaskablePPO."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import textenvs  # noqa: F401  # registers the environments
from textenvs.errors import ActionError, ConfigError, EpisodeOverError, UnknownNameError
from textenvs.masks import (
    AllowedTokens,
    ContextTrie,
    Intersection,
    ReferenceTopP,
    RegexMask,
    TokenMask,
)
from textenvs.reference import CausalLMReference
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.action_mask import ActionMask, VectorActionMask, find_action_mask
from textenvs.wrappers.reference_kl import ReferenceKL, VectorReferenceKL, find_shaping

SELECT = "textenvs/ContextSelect-v0"
MODES = list(AutoresetMode)


@pytest.fixture
def options(select_options: dict[str, Any]) -> dict[str, Any]:
    """A small ContextSelect with room for two titles and EOS, byte by byte."""
    return {**select_options, "max_new_tokens": 20}


def count(prompt: Prompt, completion: str) -> float:
    """Score an answer by its length."""
    return float(len(completion))


def uniform(masks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return one allowed token for each row of masks."""
    return np.array([generator.choice(np.flatnonzero(row)) for row in masks])


def play(venv: Any, steps: int, *, masked: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Play uniformly at random, DISABLED rows reset by mask; return the ended episodes' infos."""
    generator = np.random.default_rng(seed)
    mode = venv.metadata["autoreset_mode"]
    venv.reset(seed=seed)
    ended: list[dict[str, Any]] = []
    for _ in range(steps):
        masks = venv.action_masks()
        if not masked:
            masks = np.ones_like(masks)
        _, _, terminated, truncated, infos = venv.step(uniform(masks, generator))
        over = terminated | truncated
        told = infos.get("final_info", infos)
        for row in np.flatnonzero(over).tolist():
            metrics = {name: values[row] for name, values in told["metrics"].items()}
            said = {key: told[key][row] for key in ("completion", "finish_reason")}
            ended.append({**said, "metrics": metrics})
        if mode is AutoresetMode.DISABLED and over.any():
            assert venv.action_masks()[over].all()
            venv.reset(options={"reset_mask": over})
    return ended


# ---- what a mask guarantees ----------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_random_policy_under_a_context_trie_says_only_listed_titles(
    options: dict[str, Any], mode: AutoresetMode
) -> None:
    venv = gym.make_vec(SELECT, num_envs=4, autoreset_mode=mode, **options)
    ended = play(VectorActionMask(venv, "context-trie"), 150)
    said = [info for info in ended if info["completion"]]
    assert len(said) > 20
    assert any("\n" in info["completion"] for info in said)
    assert all(info["finish_reason"] == "eos" for info in ended)
    assert all(info["metrics"]["listed"] == 1.0 for info in said)


def test_a_random_policy_without_a_mask_does_not(options: dict[str, Any]) -> None:
    venv = gym.make_vec(SELECT, num_envs=4, **options)
    said = play(VectorActionMask(venv, "context-trie", on_masked="allow"), 150, masked=False)
    assert len(said) > 20
    assert np.mean([info["metrics"]["listed"] for info in said]) < 0.1


def test_a_random_policy_with_the_shipped_tokenizer_says_only_film_titles() -> None:
    env = ActionMask(gym.make(SELECT, n_items=5), ContextTrie(max_items=2, allow_empty=False))
    generator, text_env = np.random.default_rng(0), env.unwrapped
    for episode in range(20):
        _, info = env.reset(seed=episode)
        prompt = text_env.prompts[text_env.prompts.index_of(info["prompt_id"])]
        terminated = False
        while not terminated:
            token = generator.choice(np.flatnonzero(env.action_masks()))
            _, _, terminated, _, info = env.step(token)
        assert set(info["completion"].split("\n")) <= {item.title for item in prompt.context}
        assert 1 <= len(info["completion"].split("\n")) <= 2


def test_the_oracle_keeps_to_the_context_trie() -> None:
    env = ActionMask(gym.make(SELECT, n_items=5), "context-trie")
    text_env: Any = env.unwrapped
    for episode in range(10):
        _, info = env.reset(seed=episode)
        prompt = text_env.prompts[text_env.prompts.index_of(info["prompt_id"])]
        answer = text_env.tokenizer.encode_completion(text_env.oracle(prompt))
        for token in [*answer, text_env.tokenizer.eos_id]:
            assert env.action_masks()[token]
            _, _, _, _, info = env.step(token)
        assert info["metrics"]["correct"] == 1.0


# ---- the contract of action_masks ----------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("mask", [ContextTrie(), RegexMask("(t[0-9]+ ?[xyz]*\n?)*")], ids=repr)
def test_masks_of_a_batch_are_those_of_single_environments(
    options: dict[str, Any], mode: AutoresetMode, mask: TokenMask
) -> None:
    native = VectorActionMask(
        gym.make_vec(SELECT, num_envs=3, autoreset_mode=mode, **options), mask
    )
    single = SyncVectorEnv(
        [lambda: ActionMask(gym.make(SELECT, **options), mask)] * 3, autoreset_mode=mode
    )
    generator = np.random.default_rng(1)
    native.reset(seed=3)
    single.reset(seed=3)
    for _ in range(60):
        masks = native.action_masks()
        assert np.array_equal(masks, np.stack(single.call("action_masks")))
        actions = uniform(masks, generator)
        over = native.step(actions)[2]
        assert np.array_equal(over, single.step(actions)[2])
        if mode is AutoresetMode.DISABLED and over.any():
            native.reset(options={"reset_mask": over})
            single.reset(options={"reset_mask": over})


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_top_p_of_a_batch_is_that_of_each_answer_alone(
    options: dict[str, Any], make_model: Callable[..., Any], mode: AutoresetMode
) -> None:
    mask = ReferenceTopP(CausalLMReference(make_model("llama", seed=1), bfloat16=False), 0.5)
    small = {**options, "max_new_tokens": 4}
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, autoreset_mode=mode, **small), mask)
    batch, generator = venv.unwrapped.batch, np.random.default_rng(0)
    venv.reset(seed=1)
    for _ in range(12):
        masks = venv.action_masks()
        for row in np.flatnonzero(~batch.over).tolist():
            sizes = {"max_prompt_tokens": batch.num_prompt_columns, "max_new_tokens": 4}
            alone = mask.allowed(
                batch.tokenizer, batch.current[row], batch.completion_ids(row), **sizes
            )
            assert np.array_equal(masks[row], alone)
        over = venv.step(uniform(masks, generator))[2]
        if mode is AutoresetMode.DISABLED and over.any():
            venv.reset(options={"reset_mask": over})


def test_a_mask_and_a_reference_kl_share_a_reference(
    options: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    model = make_model("llama", seed=1)

    def shaped(apart: bool) -> tuple[Any, VectorActionMask]:
        shared = CausalLMReference(model, bfloat16=False)
        own = CausalLMReference(model, bfloat16=False) if apart else shared
        masked = VectorActionMask(
            gym.make_vec(SELECT, num_envs=2, **options), ReferenceTopP(shared, 0.5)
        )
        return VectorReferenceKL(masked, own, 0.1, timing="step"), masked

    pairs = [shaped(False), shaped(True)]
    generator = np.random.default_rng(0)
    for venv, _ in pairs:
        venv.reset(seed=0)
    for _ in range(25):
        masks = [masked.action_masks() for _, masked in pairs]
        assert np.array_equal(*masks)
        actions = uniform(masks[0], generator)
        rewards = [venv.step(actions)[1] for venv, _ in pairs]
        assert np.allclose(*rewards)


def test_a_row_that_waits_for_its_reset_accepts_any_action(options: dict[str, Any]) -> None:
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **options), "context-trie")
    venv.reset(seed=0)
    eos = venv.unwrapped.tokenizer.eos_id
    first = np.flatnonzero(venv.action_masks()[1])[-1]
    venv.step(np.array([eos, first]))
    masks = venv.action_masks()
    assert masks[0].all() and not masks[1].all()
    venv.step(np.array([77, np.flatnonzero(masks[1])[0]]))
    assert not venv.action_masks()[0].all()


def test_a_single_environment_accepts_any_action_once_it_is_over(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie")
    env.reset(seed=0)
    env.step(env.unwrapped.tokenizer.eos_id)
    assert env.action_masks().all()
    with pytest.raises(EpisodeOverError, match="the episode is over"):
        env.step(5)


def test_masks_follow_a_replayed_prompt_and_a_partial_reset(options: dict[str, Any]) -> None:
    disabled = {**options, "autoreset_mode": "DISABLED"}
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **disabled), "context-trie")
    _, infos = venv.reset(seed=0)
    begun = venv.action_masks()
    tokens = uniform(begun[:, 2:], np.random.default_rng(0)) + 2  # neither padding nor EOS
    venv.step(tokens)
    after = venv.action_masks()
    assert not np.array_equal(after[0], begun[0])
    replay = {"prompt_id": infos["prompt_id"].tolist(), "reset_mask": np.array([True, False])}
    venv.reset(options=replay)
    now = venv.action_masks()
    assert np.array_equal(now[0], begun[0])
    assert np.array_equal(now[1], after[1])


def test_masks_follow_a_restored_state(options: dict[str, Any]) -> None:
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=3, **options), "context-trie")
    generator = np.random.default_rng(0)
    venv.reset(seed=0)
    venv.step(uniform(venv.action_masks(), generator))
    state, masks = venv.unwrapped.state_dict(), venv.action_masks()
    for _ in range(9):
        venv.step(uniform(venv.action_masks(), generator))
    assert not np.array_equal(venv.action_masks(), masks)
    venv.unwrapped.load_state_dict(state)
    assert np.array_equal(venv.action_masks(), masks)


def test_masks_follow_a_restored_state_of_the_same_lengths(options: dict[str, Any]) -> None:
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **options), RegexMask("a+|b+"))
    a, b = venv.unwrapped.tokenizer.encode_completion("ab")
    venv.reset(seed=0)
    venv.step(np.array([a, b]))
    state, masks = venv.unwrapped.state_dict(), venv.action_masks()
    venv.reset(seed=0)
    venv.step(np.array([b, a]))
    assert np.array_equal(venv.action_masks(), masks[::-1])
    venv.unwrapped.load_state_dict(state)
    assert np.array_equal(venv.action_masks(), masks)


def test_masks_follow_a_new_prompt_before_any_token(options: dict[str, Any]) -> None:
    # Every title of the corpus begins with "t"; these prompts tell their first letters apart.
    prompts = [Prompt(letter, "x", (letter * 2,)) for letter in "abcdef"]
    tokenizer = options["tokenizer"]
    venv = VectorActionMask(TextVectorEnv(prompts, count, tokenizer, 2), "context-trie")
    for seed in range(4):
        _, infos = venv.reset(seed=seed)
        letters = venv.unwrapped.tokenizer.encode_completion("".join(infos["prompt_id"]))
        eos = venv.unwrapped.tokenizer.eos_id
        for masks, letter in zip(venv.action_masks(), letters, strict=True):
            assert set(np.flatnonzero(masks)) == {letter, eos}


def test_masks_follow_a_token_that_looks_like_padding(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie", on_masked="allow")
    env.reset(seed=0)
    assert env.action_masks().sum() > 1
    env.step(env.unwrapped.tokenizer.pad_id)
    assert np.flatnonzero(env.action_masks()).tolist() == [env.unwrapped.tokenizer.eos_id]


def test_masks_are_fresh_arrays(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), AllowedTokens(["t"]))
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **options), AllowedTokens(["t"]))
    for masked in (env, venv):
        masked.reset(seed=0)
        kept = masked.action_masks().copy()
        masked.action_masks()[...] = True
        assert np.array_equal(masked.action_masks(), kept)
        assert not kept.all()


def test_masks_are_asked_for_after_a_reset(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie")
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **options), "context-trie")
    for masked in (env, venv):
        with pytest.raises(EpisodeOverError, match="no episode has begun"):
            masked.action_masks()


def test_no_mask_is_in_an_info(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie")
    _, info = env.reset(seed=0)
    assert "action_mask" not in info
    assert "action_mask" not in env.step(env.unwrapped.tokenizer.eos_id)[4]


# ---- masked actions ------------------------------------------------------------------


def test_a_masked_action_is_refused_with_its_text_and_prompt(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie")
    _, info = env.reset(seed=0)
    (token,) = env.unwrapped.tokenizer.encode_completion("q")
    with pytest.raises(ActionError, match=f"'q'.*ContextTrie.*{info['prompt_id']}"):
        env.step(token)
    strict = ActionMask(gym.make(SELECT, **options), ContextTrie(allow_empty=False))
    strict.reset(seed=0)
    with pytest.raises(ActionError, match="EOS"):
        strict.step(strict.unwrapped.tokenizer.eos_id)


def test_a_masked_action_in_one_row_moves_none(options: dict[str, Any]) -> None:
    venv = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **options), "context-trie")
    venv.reset(seed=0)
    actions = uniform(venv.action_masks(), np.random.default_rng(0))
    actions[1] = venv.unwrapped.tokenizer.encode_completion("q")[0]
    with pytest.raises(ActionError, match="'q'"):
        venv.step(actions)
    assert not venv.unwrapped.batch.lengths.any()


def test_a_masked_action_is_allowed_on_demand(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie", on_masked="allow")
    env.reset(seed=0)
    (token,) = env.unwrapped.tokenizer.encode_completion("q")
    observation = env.step(token)[0]
    assert observation["input_ids"][env.unwrapped.batch.num_prompt_columns] == token
    assert np.flatnonzero(env.action_masks()).tolist() == [env.unwrapped.tokenizer.eos_id]


@pytest.mark.parametrize("action", [258, -1, "a", 1.5, [1, 2], {"text": "a"}], ids=repr)
def test_what_is_no_action_is_refused_as_ever(options: dict[str, Any], action: Any) -> None:
    env = ActionMask(gym.make(SELECT, **options).unwrapped, "context-trie")
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(action)


def test_a_mask_that_allows_nothing_is_named_with_the_prompt(options: dict[str, Any]) -> None:
    parts = (AllowedTokens(["q"], eos=False), ContextTrie())
    env = ActionMask(gym.make(SELECT, **options), parts[0] & parts[1])
    _, info = env.reset(seed=0)
    with pytest.raises(ActionError, match=f"allows no token at all after ''.*{info['prompt_id']}"):
        env.action_masks()
    ending = ActionMask(gym.make(SELECT, **options), Intersection(parts, on_empty="eos"))
    ending.reset(seed=0)
    assert np.flatnonzero(ending.action_masks()).tolist() == [env.unwrapped.tokenizer.eos_id]


# ---- with other wrappers -------------------------------------------------------------


@pytest.mark.parametrize("timing", ["episode", "step"])
@pytest.mark.parametrize("policy_logprob", [False, True])
def test_masks_stand_on_either_side_of_a_reference_kl(
    options: dict[str, Any],
    make_model: Callable[..., Any],
    timing: str,
    policy_logprob: bool,
) -> None:
    model = make_model("llama", seed=1)
    settings = {"timing": timing, "policy_logprob": policy_logprob}

    def vector(outside: bool) -> tuple[Any, Any]:
        venv: Any = gym.make_vec(SELECT, num_envs=3, **options)
        if outside:
            shaped = VectorReferenceKL(venv, model, 0.1, **settings)
            masked = VectorActionMask(shaped, "context-trie")
            return masked, masked
        masked = VectorActionMask(venv, "context-trie")
        return VectorReferenceKL(masked, model, 0.1, **settings), masked

    pairs = [vector(True), vector(False)]
    generator = np.random.default_rng(0)
    for venv, _ in pairs:
        assert find_shaping(venv) is not None
        venv.reset(seed=2)
    for _ in range(30):
        masks = [masked.action_masks() for _, masked in pairs]
        assert np.array_equal(*masks)
        tokens = uniform(masks[0], generator)
        actions: Any = tokens
        if policy_logprob:
            actions = {"token": tokens, "logprob": np.full(3, -1.0, np.float32)}
        results = [venv.step(actions) for venv, _ in pairs]
        assert np.allclose(results[0][1], results[1][1])
    bad = np.full(3, 70)
    refused = {"token": bad, "logprob": np.zeros(3, np.float32)} if policy_logprob else bad
    for venv, _ in pairs:
        with pytest.raises(ActionError, match="is masked by"):
            venv.step(refused)


def test_a_single_environment_is_masked_and_shaped(
    options: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    model = make_model("llama", seed=1)
    inner = ActionMask(gym.make(SELECT, **options), "context-trie")
    shaped = ReferenceKL(inner, model, 0.1, policy_logprob=True)
    outer = ActionMask(
        ReferenceKL(gym.make(SELECT, **options), model, 0.1, policy_logprob=True), "context-trie"
    )
    rewards = []
    for env in (shaped, outer):
        assert find_shaping(env) is not None
        env.reset(seed=0)
        generator, terminated = np.random.default_rng(0), False
        while not terminated:
            masks = env.get_wrapper_attr("action_masks")()
            token = int(generator.choice(np.flatnonzero(masks)))
            word = {"token": token, "logprob": np.float32(-2.0)}
            _, reward, terminated, _, _ = env.step(word)
        rewards.append(reward)
    assert rewards[0] == pytest.approx(rewards[1])


def test_a_mask_is_found_under_other_wrappers(
    options: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    model = make_model("llama", seed=1)
    masked = VectorActionMask(gym.make_vec(SELECT, num_envs=2, **options), "context-trie")
    assert find_action_mask(VectorReferenceKL(masked, model, 0.1)) is masked
    assert find_action_mask(masked) is masked
    assert find_action_mask(masked.unwrapped) is None
    single = ActionMask(gym.make(SELECT, **options), "context-trie")
    assert find_action_mask(gym.wrappers.TimeLimit(single, 5)) is single


def test_a_named_mask_survives_the_spec_as_json(options: dict[str, Any]) -> None:
    env = ActionMask(gym.make(SELECT, **options), "context-trie", on_masked="allow")
    assert env.spec is not None
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    found = find_action_mask(again)
    assert found is not None and found.masking.on_masked == "allow"
    for each in (env, again):
        each.reset(seed=4)
    assert np.array_equal(env.action_masks(), again.get_wrapper_attr("action_masks")())


def test_a_recorded_mask_is_not_copied(options: dict[str, Any]) -> None:
    mask = ContextTrie(max_items=1)
    assert ActionMask(gym.make(SELECT, **options), mask)._saved_kwargs["mask"] is mask


def test_what_is_no_text_environment_or_no_mask_is_refused(options: dict[str, Any]) -> None:
    env, venv = gym.make(SELECT, **options), gym.make_vec(SELECT, num_envs=2, **options)
    with pytest.raises(ConfigError, match="no text environment"):
        ActionMask(gym.make("CartPole-v1"), "context-trie")
    with pytest.raises(ConfigError, match="use VectorActionMask"):
        ActionMask(venv, "context-trie")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use ActionMask"):
        VectorActionMask(env, "context-trie")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="on_masked"):
        ActionMask(env, "context-trie", on_masked="ignore")
    with pytest.raises(UnknownNameError, match="mask"):
        VectorActionMask(venv, "regex")


# ---- agents --------------------------------------------------------------------------


def test_maskable_ppo_trains_and_keeps_to_the_mask(options: dict[str, Any]) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make() -> ActionMask:
        return ActionMask(gym.make(SELECT, **options), ContextTrie(allow_empty=False))

    sizes = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    agent = contrib.MaskablePPO(
        "MultiInputPolicy", DummyVecEnv([make, make]), seed=0, device="cpu", **sizes
    )
    agent.learn(128)  # a masked action would raise
    assert agent.num_timesteps == 128
    env = make()
    for episode in range(5):
        observation, _ = env.reset(seed=episode)
        terminated = False
        while not terminated:
            action, _ = agent.predict(observation, action_masks=env.action_masks())
            observation, _, terminated, _, info = env.step(action)
        assert info["metrics"]["listed"] == 1.0


def test_maskable_ppo_trains_on_the_native_batch(options: dict[str, Any]) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    from textenvs.bridges.sb3 import SB3VecEnv

    venv = gym.make_vec(SELECT, num_envs=4, **options)
    adapted = SB3VecEnv(VectorActionMask(venv, "context-trie"))
    sizes = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    agent = contrib.MaskablePPO("MultiInputPolicy", adapted, seed=0, device="cpu", **sizes)
    agent.learn(128)
    assert agent.num_timesteps == 128


def test_the_example_says_only_what_is_listed() -> None:
    example = Path(__file__).parents[2] / "examples" / "action_mask.py"
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "listed 1.0" in done.stdout
