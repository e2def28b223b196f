"""`textenvs/ReasoningGym-v0`: the generators of reasoning-gym, scored by its own verifiers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, PromptError, RewardError
from textenvs.options import checked_integer
from textenvs.prompts import SPLITS, GeneratedPrompts, TokenTable, checked_split, split_of, too_long
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.suite.reasoning_gym_datasets import ReasoningGymDataset, right_answer
from textenvs.task_env import TaskEnv
from textenvs.tokenization import TINY_LM, TextTokenizer, load_tokenizer
from textenvs.types import Episode, Prompt, Split

TEMPLATE = "{question}\nGive the final answer alone, without explanation.\nAnswer:\n"
PROMPTS_PER_SPLIT: dict[Split, int] = {"train": 100_000, "validation": 1_000, "test": 1_000}
DRAWS = 256
"""A split of a tenth is missed by so many draws once in 5e11 prompts."""
PROBED = 16
SOLVED = 0.99


class ReasoningGymPrompts(GeneratedPrompts):
    """Tasks of one generator, those of one split; same options and index, same prompt.

    Each prompt is drawn by index until its question falls into the split (`split_of` of the
    question), its text fits the window and its right answer, which must not be blank, the
    token budget. Where half of the prompts would not fit, the constructor says so.
    """

    def __init__(
        self,
        dataset: ReasoningGymDataset,
        *,
        split: Split,
        size: int,
        seed: int,
        template: str,
        tokenizer: TextTokenizer,
        fit_within: int | None,
        max_new_tokens: int,
    ) -> None:
        """Probe the first prompts; see `reasoning_gym_task` for the options.

        Raises:
            PromptError: if most prompts are too long, or the split has no question.
            ConfigError: if most right answers are too long.
        """
        super().__init__(self._usable, size, seed=(seed, SPLITS.index(split)))
        self.dataset, self.split, self.seed, self.template = dataset, split, seed, template
        self._tokenizer, self._fit_within = tokenizer, fit_within
        self._max_new_tokens = max_new_tokens
        # Drawing may take a second; the same few prompts are asked for again and again.
        self._kept = lru_cache(maxsize=1024)(super().__getitem__)
        self._refuse_misfits()

    def __getitem__(self, index: Any) -> Any:
        """Return the prompt of this index."""
        return self._kept(int(index))

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> TokenTable | None:
        """Refuse prompts that only a chat template makes too long; the others were drawn to fit."""
        probed = [self[i] for i in range(min(PROBED, len(self)))]
        for prompt, ids in zip(probed, self.encode(tokenizer, probed), strict=True):
            if len(ids) > limit:
                raise too_long(prompt, len(ids), limit)
        return None

    def _usable(self, index: int, generator: np.random.Generator) -> Prompt:
        """Return the first draw of the split that fits."""
        for prompt in self._draws(index, generator):
            if self._prompt_length(prompt) <= (self._fit_within or np.inf):
                if self._answer_length(prompt) <= self._max_new_tokens:
                    return prompt
        raise PromptError(
            f"the dataset {self.dataset.name!r} gave no question of the {self.split} split that "
            f"fits in {DRAWS} draws; it has too few distinct questions: choose another config, or "
            "raise max_prompt_tokens and max_new_tokens"
        )

    def _draws(self, index: int, generator: np.random.Generator) -> Iterator[Prompt]:
        """Yield prompts of the split, until `DRAWS` tasks have been drawn."""
        for _ in range(DRAWS):
            source_index = int(generator.integers(self.dataset.pool))
            entry = self.dataset.entry(source_index)
            reference = right_answer(entry)
            blank = reference is not None and not reference.strip()
            if not blank and split_of(entry["question"]) == self.split:
                yield Prompt(
                    id=f"{self.dataset.name}-{self.split}-{self.seed}-{index}",
                    text=self.template.format(question=entry["question"]),
                    reference=reference,
                    group=entry["question"],
                    metadata={
                        "dataset": self.dataset.name,
                        "split": self.split,
                        "source_index": source_index,
                        "entry": entry,
                    },
                )

    def _prompt_length(self, prompt: Prompt) -> int:
        return len(self._tokenizer.encode(prompt.text))

    def _answer_length(self, prompt: Prompt) -> int:
        """Return the tokens of the right answer, EOS included."""
        return len(self._tokenizer.encode_completion(prompt.reference or "")) + 1

    def _refuse_misfits(self) -> None:
        """Look at the first prompts as they are drawn and refuse options most do not fit."""
        first: list[Prompt] = []
        for index in range(min(PROBED, self._size)):
            generator = np.random.default_rng((*self._seed, index))
            first.extend(islice(self._draws(index, generator), 1))
        if not first:
            raise PromptError(
                f"the dataset {self.dataset.name!r} gave no question of the {self.split} split in "
                f"{DRAWS} draws; it has too few distinct questions: choose another config or split"
            )
        prompts = [self._prompt_length(prompt) for prompt in first]
        limit = self._fit_within
        if limit is not None and np.median(prompts) > limit:
            longest = int(np.argmax(prompts))
            raise too_long(first[longest], prompts[longest], limit)
        answers = [self._answer_length(prompt) for prompt in first]
        if np.median(answers) > self._max_new_tokens:
            raise ConfigError(
                f"right answers of the dataset {self.dataset.name!r} take up to {max(answers)} "
                f"tokens with EOS, but max_new_tokens is {self._max_new_tokens}; raise it to at "
                f"least {max(answers)}"
            )


class ReasoningGymScore(BaseReward):
    """What reasoning-gym's own verifier pays an answer, in [0, 1].

    Some verifiers pay a little for an empty answer, and a few pay in full for a constant one
    (benchmarks/reasoning_gym_floor lists them). By default the score is the verifier's as it
    stands, so that figures compare with others'. With `strict` a blank answer is worth 0,
    and what the verifier pays for "" is taken off every answer: (s - s0) / (1 - s0), not
    below 0. An episode whose verifier fails is not scored.
    """

    name = "reasoning_gym"

    def __init__(self, dataset: ReasoningGymDataset, strict: bool = False) -> None:
        """Keep the verifier.

        Args:
            dataset: Whose verifier scores; an episode's prompt holds its entry in
                `metadata["entry"]`.
            strict: Pay nothing for a blank answer.
        """
        self.dataset, self.strict = dataset, strict

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(episode) for episode in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the least and the greatest score an answer to this prompt can get."""
        return (0.0, 1.0)

    def _score(self, episode: Episode) -> float | None:
        entry = entry_of(episode.prompt)
        if not self.strict:
            return self.dataset.score(episode.completion, entry)
        if not episode.completion.strip():
            return 0.0
        paid, floor = self.dataset.score(episode.completion, entry), self.dataset.score("", entry)
        if paid is None or not floor:
            return paid
        return max(0.0, (paid - floor) / (1.0 - floor)) if floor < 1.0 else 0.0


def entry_of(prompt: Prompt) -> Mapping[str, Any]:
    """Return the entry of reasoning-gym that a prompt was made of.

    Raises:
        RewardError: if the prompt was made otherwise.
    """
    entry = prompt.metadata.get("entry")
    if not isinstance(entry, Mapping):
        raise RewardError(
            f"the prompt {prompt.id!r} has no entry of reasoning-gym in its metadata; take prompts "
            "from textenvs/ReasoningGym-v0"
        )
    return entry


class GoldMetrics:
    """The measures a policy is judged by and never trained on, float64 [B] each.

    - `solved`: 1 if the verifier pays at least 0.99.
    - `score`: what the verifier pays, 0 where it fails.
    - `empty`: 1 if the answer is blank.
    """

    def __init__(self, dataset: ReasoningGymDataset) -> None:
        """Keep the verifier."""
        self._dataset = dataset

    def __call__(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Measure a batch."""
        paid = [self._dataset.score(e.completion, entry_of(e.prompt)) or 0.0 for e in episodes]
        score = np.array(paid, np.float64)
        return {
            "solved": (score >= SOLVED).astype(np.float64),
            "score": score,
            "empty": np.array([not e.completion.strip() for e in episodes], np.float64),
        }


def reasoning_gym_task(
    *,
    dataset: str = "chain_sum",
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
    config: Mapping[str, Any] | None = None,
    strict: bool = False,
    template: str = TEMPLATE,
    tokenizer: Any = TINY_LM,
    max_prompt_tokens: int = 512,
    max_new_tokens: int = 32,
    overlong: str = "error",
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        dataset: One of `textenvs.suite.reasoning_gym_datasets.dataset_names`.
        split: "train", "validation" or "test", by question.
        n_prompts: Prompts of the split; None means 100,000 for training, 1,000 elsewhere.
        prompt_seed: Chooses other tasks of the same generator.
        config: Options of the generator, JSON-able.
        strict: Take off what the verifier pays for an empty answer; see `ReasoningGymScore`.
        template: Wording, with the field {question}.
        tokenizer: Name, folder or object.
        max_prompt_tokens: Prompt columns.
        max_new_tokens: Token budget of an answer.
        overlong: "error" or "truncate".

    Raises:
        ConfigError: if an option is out of range, or right answers do not fit.
        PromptError: if prompts do not fit, or a split has no question.
        UnknownNameError: if a name is unknown.
        MissingDependencyError: if reasoning-gym is not installed.
    """
    default = PROMPTS_PER_SPLIT[checked_split(split)]
    seed = checked_integer("prompt_seed", prompt_seed, 0, 0)
    generator = _dataset(dataset, _config_text(config), seed)
    by_name = isinstance(tokenizer, str)
    prompts = (_prompts if by_name else _prompts.__wrapped__)(
        generator,
        tokenizer,
        split=split,
        size=checked_integer("n_prompts", default if n_prompts is None else n_prompts, 1, default),
        seed=seed,
        template=_checked_template(template),
        fit_within=max_prompt_tokens if overlong == "error" else None,
        max_new_tokens=max_new_tokens,
    )
    return {
        "prompts": prompts,
        "reward": ReasoningGymScore(generator, strict),
        "tokenizer": tokenizer,
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "overlong": overlong,
        "on_unscored": 0.0,
        "metrics": GoldMetrics(generator),
        "probes": exploits_of(prompts),
    }


def exploits_of(prompts: ReasoningGymPrompts) -> Callable[[Prompt], dict[str, str]]:
    """Return the probes of a task: answers that some verifier pays without a solution."""

    def exploits(prompt: Prompt) -> dict[str, str]:
        here = prompts.index_of(prompt.id)
        other = prompts[(here + 1) % len(prompts)]
        parts = (prompt.reference or "").count(",") + 1
        answers = {
            "the question": prompt.group,
            "the answer to another question": other.reference or "",
            "not a number": "nan",
            "as many NaN as parts": json.dumps([float("nan")] * parts),
            "a 24 of other numbers": "6*4*1*1",
        }
        asked = entry_of(prompt)["metadata"]
        if {"integrand", "variable"} <= set(asked):
            answers["the integral unsolved"] = (
                f"Integral({asked['integrand']}, {asked['variable']})"
            )
        return answers

    return exploits


@lru_cache(maxsize=128)
def _dataset(name: str, config: str, seed: int) -> ReasoningGymDataset:
    """Create a generator once per process."""
    return ReasoningGymDataset(name, json.loads(config), seed)


@lru_cache(maxsize=32)
def _prompts(dataset: ReasoningGymDataset, tokenizer: Any, **options: Any) -> ReasoningGymPrompts:
    """Build the prompts; those with a tokenizer named by text are built once per process."""
    return ReasoningGymPrompts(dataset, tokenizer=load_tokenizer(tokenizer), **options)


def _config_text(config: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(config or {}, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config must be JSON-able: {error}; write dates as ISO text, enumerations by value"
        ) from error


def _checked_template(template: str) -> str:
    try:
        fits = "\0" in template.format(question="\0")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"template cannot be filled in: {error!r}; its one field is {{question}}, and {{{{ "
            "stands for a brace"
        ) from error
    if not fits:
        raise ConfigError("template lacks the field {question}, so nothing would be asked")
    return template


class ReasoningGymEnv(TaskEnv):
    """Solve one of over 100 procedurally generated reasoning tasks of reasoning-gym.

    Observation and action: as in `TextEnv`; the prompt is the question and a line on how to
    answer. Reward: `ReasoningGymScore`, what the dataset's own verifier pays, in [0, 1];
    an episode on which the verifier fails gets `on_unscored`, 0 by default, and
    `info["scored"]` says so. Ends at EOS or when the token budget is spent. Gold metrics:
    `solved`, `score`, `empty`. Options: see `reasoning_gym_task`.

    Version history: v0, first version.
    """

    task = staticmethod(reasoning_gym_task)


make_vec = ReasoningGymEnv.make_vec
