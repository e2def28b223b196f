"""A sound environment, and others with one fault each for the checker to name.

The task: repeat the word of the prompt. A wrong answer earns -0.5, none at all -1, the word 1.
"""

import copy
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from textenvs.chat import encode_prompt
from textenvs.env import TextEnv
from textenvs.prompts import GeneratedPrompts, PromptList
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.tokenization import load_tokenizer
from textenvs.types import Episode, Prompt
from textenvs.vector_env import TextVectorEnv

WORDS = ("otter", "heron", "lynx", "adder", "stoat", "raven", "trout", "moth", "newt", "crane")


def make_prompts(words: Sequence[str] = WORDS, name: str = "p") -> list[Prompt]:
    return [
        Prompt(f"{name}{i}", f"Of {word} and elk, say {word}:", (word, "elk"), word, word)
        for i, word in enumerate(words)
    ]


class Repeats(BaseReward):
    """The sound reward."""

    name = "repeats"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        scores = [self.judge(e.prompt, e.completion) for e in episodes]
        return RewardResult.from_scores(self.name, scores)

    def judge(self, prompt: Prompt, text: str) -> float:
        said = text.strip()
        if not said:
            return -1.0
        return 1.0 if said == prompt.reference else -0.5

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        return (-1.0, 1.0)


class SoundEnv(TextEnv):
    """Nothing is wrong with it; the others change one thing."""

    reward_class: type[BaseReward] = Repeats

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        arguments = {
            "prompts": PromptList(make_prompts()),
            "reward": self.reward_class(),
            "max_prompt_tokens": 32,
            "max_new_tokens": 6,
            **options,
        }
        super().__init__(**arguments, render_mode=render_mode)


# ---- observations


class LeakyPadding(SoundEnv):
    """The answer stands behind the mask."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        answer = self.tokenizer.encode_completion(WORDS[0])
        observation["input_ids"][-len(answer) :] = answer
        return observation, info


class LeakyKey(SoundEnv):
    """The answer stands in a further array."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        space = gym.spaces.Box(0, self.tokenizer.vocab_size - 1, (1,), np.int64)
        self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "answer": space})

    def _with_answer(self, observation: Any) -> Any:
        prompt = self.batch.current[0]
        first = self.tokenizer.encode_completion(prompt.reference)[0]
        return {**observation, "answer": np.array([first])}

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return self._with_answer(observation), info

    def step(self, action: int) -> Any:
        observation, *rest = super().step(action)
        return self._with_answer(observation), *rest


class LeakyPrompt(SoundEnv):
    """The answer stands in front of the prompt, attended to."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        self._show(observation)
        return observation, info

    def step(self, action: int) -> Any:
        observation, *rest = super().step(action)
        self._show(observation)
        return observation, *rest

    def _show(self, observation: Any) -> None:
        ids, mask = observation["input_ids"], observation["attention_mask"]
        answer = self.tokenizer.encode_completion(self.batch.current[0].reference)
        first = int(np.flatnonzero(mask)[0])
        ids[first - len(answer) : first] = answer
        mask[first - len(answer) : first] = 1


class TextSpace(SoundEnv):
    """The prompt stands in the observation as text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        space = gym.spaces.Text(200, charset="".join(map(chr, range(32, 127))))
        self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "text": space})

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return {**observation, "text": info["prompt"]}, info

    def step(self, action: int) -> Any:
        observation, *rest = super().step(action)
        return {**observation, "text": self.batch.current[0].text}, *rest


class OutsideItsSpace(SoundEnv):
    """The mask holds 2 where the completion is."""

    def step(self, action: int) -> Any:
        observation, *rest = super().step(action)
        observation["attention_mask"][-6] = 2
        return observation, *rest


class ForgetsTokens(SoundEnv):
    """The observation never shows what was acted."""

    def step(self, action: int) -> Any:
        observation, *rest = super().step(action)
        observation["input_ids"][-6:] = self.tokenizer.pad_id
        return observation, *rest


# ---- randomness


class GlobalRandomReset(SoundEnv):
    """Prompts are drawn with Python's global generator."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        chosen = random.choice(self.prompts).id
        return super().reset(seed=seed, options={"prompt_id": chosen, **(options or {})})


class Jitters(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        score = super().judge(prompt, text)
        return score + float(np.random.random()) * 1e-7 if score == -0.5 else score


class JitteringReward(SoundEnv):
    """A wrong answer earns a little, another time another little."""

    reward_class = Jitters


class OnePromptAlone(SoundEnv):
    """Whatever the seed, the first prompt."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed, options={"prompt_id": "p0", **(options or {})})


class UnsteadyPrompts(SoundEnv):
    """A prompt reads differently each time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(prompts=GeneratedPrompts(self._prompt, 10), overlong="truncate", **options)

    @staticmethod
    def _prompt(index: int, generator: np.random.Generator) -> Prompt:
        word = WORDS[np.random.randint(len(WORDS))]
        return dataclasses.replace(make_prompts([word])[0], id=f"p-{index}")


class NoReplay(SoundEnv):
    """The option prompt_id is overlooked."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


# ---- shared objects


class SharedObservation(SoundEnv):
    """The arrays of the observation are the environment's own."""

    def _shared(self) -> Any:
        return {
            "input_ids": self.batch.input_ids[0],
            "attention_mask": self.batch.attention_mask[0],
        }

    def reset(self, **kwargs: Any) -> Any:
        return self._shared(), super().reset(**kwargs)[1]

    def step(self, action: int) -> Any:
        _, *rest = super().step(action)
        return self._shared(), *rest


class CachedInfo(SoundEnv):
    """Each reset tells the same dict."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rules = {"allowed": ["words"]}

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return observation, {**info, "rules": self.rules}


class SharedPrompt(SoundEnv):
    """The info holds the prompt's own metadata."""

    def __init__(self, **options: Any) -> None:
        prompts = [dataclasses.replace(p, metadata={"hard": True}) for p in make_prompts()]
        super().__init__(prompts=PromptList(prompts), **options)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return observation, {**info, "metadata": self.batch.current[0].metadata}


# ---- info


class NoPromptId(SoundEnv):
    """The info of a reset does not name the prompt."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return observation, {"prompt": info["prompt"]}


class ChangedEnd(SoundEnv):
    """A base for infos of an end that say something false."""

    changes: Mapping[str, Any] = {}

    def step(self, action: int) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated:
            info |= copy.deepcopy(self.changes)
        return observation, reward, terminated, truncated, info


class SetInInfo(ChangedEnd):
    """The info holds what JSON cannot."""

    changes = {"seen": {1, 2}}


class OtherCompletion(ChangedEnd):
    """The text is not what the tokens say."""

    changes = {"completion": "otter, surely"}


class OtherTerms(ChangedEnd):
    """The terms do not add up to the reward."""

    changes = {"reward_terms": {"repeats": 40.0}}


class BudgetTruncates(SoundEnv):
    """A spent budget is told as truncation."""

    def step(self, action: int) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        spent = terminated and info["finish_reason"] == "length"
        return observation, reward, terminated and not spent, spent, info


# ---- rewards


class PaysEmpty(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        return super().judge(prompt, text) if text.strip() else 1.0


class RewardForEmpty(SoundEnv):
    """No answer is as good as the right one."""

    reward_class = PaysEmpty


class PaysYes(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        return 0.75 if text == "yes" else super().judge(prompt, text)


class RewardForYes(SoundEnv):
    """A constant earns most of it."""

    reward_class = PaysYes


class PaysSubstring(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        return 1.0 if (prompt.reference or "") in text else super().judge(prompt, text)


class RewardForCopies(SoundEnv):
    """The word may stand anywhere in the answer, so that copies hold it."""

    reward_class = PaysSubstring


class PaysAnything(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        return 1.0 if text.strip() else -1.0


class RewardForNoise(SoundEnv):
    """Whatever is said earns as much as the right word."""

    reward_class = PaysAnything


class OwnProbe(SoundEnv):
    """Its own list of exploits names one that works."""

    reward_class = PaysYes

    def probes(self, prompt: Prompt) -> dict[str, str]:
        return {"agreement": "yes"}


class Overshoots(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        return 2.0 if len(text) > 5000 else super().judge(prompt, text)


class OutOfBounds(SoundEnv):
    """Very long answers earn more than the upper bound."""

    reward_class = Overshoots


class Breaks(Repeats):
    def judge(self, prompt: Prompt, text: str) -> float:
        if "\x00" in text:
            raise ValueError("embedded null byte")
        return super().judge(prompt, text)


class RaisesOnOddText(SoundEnv):
    """NUL breaks the reward."""

    reward_class = Breaks


class Compares(Repeats):
    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        scores = super().__call__(episodes).scores
        right = (scores == 1.0).mean()
        return RewardResult.from_scores(
            self.name, np.where(scores == -0.5, 0.3 * right - 0.5, scores)
        )


class BatchDependentReward(SoundEnv):
    """A wrong answer earns more beside a right one."""

    reward_class = Compares


class ScoresOtherwise(SoundEnv):
    """Stepping pays another reward than judging the text."""

    def step(self, action: int) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated:
            reward /= 2
            info["reward_terms"] = {"repeats": reward}
        return observation, reward, terminated, truncated, info


class FailingOracle(SoundEnv):
    """The oracle says the wrong word."""

    def oracle(self, prompt: Prompt) -> str:
        return "elk"


class LongOracle(SoundEnv):
    """The oracle needs more tokens than there are."""

    def oracle(self, prompt: Prompt) -> str:
        return "\n" * 12 + (prompt.reference or "")


class Unbounded(SoundEnv):
    """Its reward is a plain function, which declares no bounds; that is no fault."""

    def __init__(self, **options: Any) -> None:
        super().__init__(reward=Repeats().judge, **options)


# ---- the rest


class Raises(SoundEnv):
    """It cannot be played."""

    def reset(self, **kwargs: Any) -> Any:
        raise KeyError("no such file")


class NeverMade(SoundEnv):
    """It cannot even be made."""

    def __init__(self, **options: Any) -> None:
        raise RuntimeError("the server does not answer")


class RendersNothing(SoundEnv):
    """Rendering gives None."""

    def render(self) -> Any:
        return None


class OtherVector(TextVectorEnv):
    """A vector environment that pays more than the single one."""

    def step(self, actions: Any) -> Any:
        observation, rewards, *rest = super().step(actions)
        return observation, rewards + 1.0, *rest


class SharingVector(TextVectorEnv):
    """A vector environment whose observation is its own array."""

    def step(self, actions: Any) -> Any:
        observation, *rest = super().step(actions)
        return {**observation, "input_ids": self.batch.input_ids}, *rest

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return {**observation, "input_ids": self.batch.input_ids}, info


def _vector_arguments(**options: Any) -> dict[str, Any]:
    return {**SoundEnv().batch.task_arguments(), **options}


def make_sound_vector(num_envs: int = 1, **options: Any) -> TextVectorEnv:
    return TextVectorEnv(**_vector_arguments(num_envs=num_envs, **options))


def make_other_vector(num_envs: int = 1, **options: Any) -> OtherVector:
    return OtherVector(**_vector_arguments(num_envs=num_envs, **options))


def make_sharing_vector(num_envs: int = 1, **options: Any) -> SharingVector:
    return SharingVector(**_vector_arguments(num_envs=num_envs, **options))


def make_one_mode_vector(num_envs: int = 1, samples_per_prompt: int = 1) -> TextVectorEnv:
    """Offer no choice of the autoreset mode."""
    options = {"autoreset_mode": "SAME_STEP", "samples_per_prompt": samples_per_prompt}
    return make_sound_vector(num_envs, **options)


def make_ungrouped_vector(
    num_envs: int = 1, samples_per_prompt: int = 1, **options: Any
) -> TextVectorEnv:
    """Take `samples_per_prompt`, and forget it."""
    return make_sound_vector(num_envs, **options)


class Foreign(gym.Env[Any, Any]):
    """No `TextEnv`: the same observations and infos, and not a method more."""

    metadata: dict[str, Any] = {"render_modes": []}
    leak = False

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer()
        size = self._tokenizer.vocab_size
        self.observation_space = gym.spaces.Dict(
            input_ids=gym.spaces.Box(0, size - 1, (20,), np.int64),
            attention_mask=gym.spaces.Box(0, 1, (20,), np.int8),
        )
        self.action_space = gym.spaces.Discrete(size)
        self._ids: list[int] = []

    def _observation(self) -> Any:
        ids, mask = np.zeros(20, np.int64), np.zeros(20, np.int8)
        shown = [*self._prompt, *self._ids]
        first = 16 - len(self._prompt)
        ids[first : first + len(shown)] = shown
        mask[first : first + len(shown)] = 1
        if self.leak and not self._ids:
            ids[0] = self._prompt[-1]
        return {"input_ids": ids, "attention_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        index = int(self.np_random.integers(len(WORDS)))
        index = int((options or {}).get("prompt_id", index))
        text = f"say {WORDS[index]}:"
        self._ids, self._prompt = [], encode_prompt(self._tokenizer, Prompt("", text))
        return self._observation(), {"prompt_id": str(index), "prompt": text}

    def step(self, action: int) -> Any:
        self._ids.append(int(action))
        at_eos = action == self._tokenizer.eos_id
        if not at_eos and len(self._ids) < 4:
            return self._observation(), 0.0, False, False, {}
        kept = self._ids[:-1] if at_eos else self._ids
        reward = float(len(kept)) / 4
        info = {
            "completion": self._tokenizer.decode(kept),
            "completion_ids": list(self._ids),
            "finish_reason": "eos" if at_eos else "length",
            "reward_terms": {"tokens": reward},
            "metrics": {},
        }
        return self._observation(), reward, True, False, info


class LeakyForeign(Foreign):
    """A token of the prompt stands in the padding."""

    leak = True


class Endless(Foreign):
    """No episode ever ends."""

    def step(self, action: int) -> Any:
        return self._observation(), 0.0, False, False, {}


class Many(SoundEnv):
    """Leaky observation, reward for the empty answer, unseeded randomness, shared arrays."""

    reward_class = PaysEmpty

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._buffer = {key: space.sample() for key, space in self.observation_space.items()}

    def _reused(self, observation: Any) -> Any:
        for key, value in observation.items():
            self._buffer[key][:] = value
        answer = self.tokenizer.encode_completion(self.batch.current[0].reference)
        self._buffer["input_ids"][: len(answer)] = answer
        return self._buffer

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        chosen = random.choice(self.prompts).id
        options = {"prompt_id": chosen, **(options or {})}
        observation, info = super().reset(seed=seed, options=options)
        return self._reused(observation), info

    def step(self, action: int) -> Any:
        observation, *rest = super().step(action)
        return self._reused(observation), *rest


gym.register("broken/Sound-v0", SoundEnv, vector_entry_point=make_sound_vector)
gym.register("broken/Many-v0", Many)
gym.register("broken/NeverMade-v0", NeverMade)
gym.register("broken/OtherVector-v0", SoundEnv, vector_entry_point=make_other_vector)
gym.register("broken/Ungrouped-v0", SoundEnv, vector_entry_point=make_ungrouped_vector)
gym.register("broken/OneMode-v0", SoundEnv, vector_entry_point=make_one_mode_vector)
gym.register("broken/Foreign-v0", Foreign)
gym.register("broken/Limited-v0", SoundEnv, max_episode_steps=4)
