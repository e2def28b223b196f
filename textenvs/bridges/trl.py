"""An environment as TRL's trainers know one: a reward function and a dataset of prompts.

TRL samples and learns; the environment says what is asked and what an answer is worth. They
meet in the column `prompt_id`, by which the reward function finds the prompt. Nothing here
imports TRL, and only `prompt_dataset` needs the package `datasets`.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from textenvs.bridges.completions import acted, answer_text, refuse_foreign, same_tokens, spoken
from textenvs.bridges.task_of_splits import TaskOfSplits
from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError, MissingDependencyError
from textenvs.json_fields import jsonable
from textenvs.options import checked_integer
from textenvs.prompts import checked_split
from textenvs.rewards.base import checked_result
from textenvs.rewards.results import SCORED, RewardResult
from textenvs.tokenization import load_tokenizer
from textenvs.types import Episode, Prompt, Split


def reward_function(
    id_or_env: Any, *, processing_class: Any = None, **options: Any
) -> "RewardFunction":
    """Return the reward of an environment as a reward function of TRL's trainers.

    ```python
    GRPOTrainer(
        model,
        reward_funcs=reward_function("textenvs/ContextSelect-v0"),
        train_dataset=prompt_dataset("textenvs/ContextSelect-v0"),
    )
    ```

    Args:
        id_or_env: An id, or a `TextEnv` or `TextVectorEnv`, wrapped or not. An id serves the
            prompts of every split, an environment its own.
        processing_class: The trainer's tokenizer. Where its tokens are not the environment's,
            answers are judged by the trainer's text. Without it they must be the same, and
            each batch is compared.
        **options: Of the environment, where an id is given.

    Raises:
        DoubleCountingError: if the environment charges a reference KL: the trainer does.
        UnknownNameError: if the id or an option is unknown.
        ConfigError: if it is no text environment, or options go with one made already.
    """
    return RewardFunction(TaskOfSplits(id_or_env, options), processing_class)


def prompt_dataset(
    id_or_env: Any,
    split: Split | None = None,
    *,
    max_prompts: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Return the prompts of an environment as a `datasets.Dataset` for TRL's trainers.

    Columns: `prompt`, a text, or a list of messages where the prompts are conversations;
    `prompt_id` and `split`, by which the reward function finds it; `reference`, a right
    answer or None; `context` and `metadata`, as JSON.

    The rows stand in the order of the prompts; with a `curriculum`, row i is the prompt of
    the i-th episode of the environment when it was reset with `seed`, so that the order
    holds if the trainer is told `shuffle_dataset=False`.

    Args:
        id_or_env: As in `reward_function`, and made with the same options.
        split: "train", "validation", "test"; None is the environment's own.
        max_prompts: The most rows; None takes every prompt.
        seed: Of the draws of a curriculum.
        **options: Of the environment, where an id is given.

    Raises:
        MissingDependencyError: if `datasets` is absent.
        DoubleCountingError, UnknownNameError, ConfigError: as in `reward_function`.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "datasets", "textenvs.bridges.trl.prompt_dataset", 'pip install "textenvs[agents]"'
        ) from error
    tasks = TaskOfSplits(id_or_env, options)
    split = tasks.split if split is None else checked_split(split)
    batch = tasks.batch(split)
    count = len(batch.prompts)
    if max_prompts is not None:
        count = min(count, checked_integer("max_prompts", max_prompts, 1, count))
    generator = np.random.default_rng(seed)  # as Gymnasium seeds an environment
    indices = (i if batch.schedule is None else batch.draw(i, generator) for i in range(count))
    return datasets.Dataset.from_list([_row(batch, index, split) for index in indices])


def _row(batch: EpisodeBatch, index: int, split: Split) -> dict[str, Any]:
    """Return one prompt as a row of the dataset.

    Raises:
        ConfigError: if the environment drops tokens of a conversation, which nobody could
            tell the trainer.
    """
    prompt = batch.prompts[index]
    asked: Any = prompt.text
    if prompt.messages is not None:
        asked = [dict(message) for message in prompt.messages]
    if batch.overlong == "truncate":
        _, ids, dropped = batch.encoded(index)
        if dropped and prompt.messages is not None:
            raise ConfigError(
                f"the conversation {prompt.id!r} is {dropped} tokens too long, and TRL renders it "
                f"in full; raise max_prompt_tokens to at least {len(ids) + dropped}"
            )
        if dropped:
            asked = batch.tokenizer.decode(ids.tolist())
    return {
        "prompt": asked,
        "prompt_id": prompt.id,
        "split": split,
        "reference": prompt.reference,
        "context": _as_json(prompt.context),
        "metadata": _as_json(prompt.metadata),
    }


def _as_json(value: Any) -> str:
    """Return what the JSON of a value is; objects that JSON has no form for as their text."""
    return json.dumps(jsonable(value), ensure_ascii=False, default=str)


class RewardFunction:
    """The reward of an environment, with the signature of TRL's reward functions.

    Attributes:
        __name__: The environment's name, under which TRL logs the reward.
        through_text: Whether answers are judged by the trainer's text, because its tokens
            are not the environment's.
    """

    def __init__(self, tasks: TaskOfSplits, processing_class: Any = None) -> None:
        """Keep the task; see `reward_function`."""
        self._tasks = tasks
        self.__name__ = tasks.name
        self._reader = None if processing_class is None else load_tokenizer(processing_class)
        self.through_text = self._reader is not None and not same_tokens(
            self._reader, tasks.batch()
        )

    @property
    def max_new_tokens(self) -> int:
        """The token budget of the environment, for the trainer's `max_completion_length`."""
        return self._tasks.batch().max_new_tokens

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        prompt_id: Sequence[str] | None = None,
        split: Sequence[str] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions as the environment would.

        Args:
            prompts: Unused; a prompt is found by its id.
            completions: B texts, or conversations whose assistant messages are the answer.
            completion_ids: B lists of tokens, judged as the environment would end them;
                None judges the texts.
            prompt_id: [B], the column of `prompt_dataset`.
            split: [B], the split each prompt is of; None is the environment's own.
            log_extra: Told the `prompt_id` and `finish_reason` of each completion.
            log_metric: Told the means of the batch; docs/trl.md explains them.
            **columns: The other columns and the trainer's state; unused.

        Returns:
            [B] rewards; None, which TRL leaves out, where the reward did not score and the
            environment states no reward for that (`on_unscored`).

        Raises:
            ConfigError: if `prompt_id` is missing, or lists have unequal lengths.
            UnknownNameError: if the environment has no such prompt.
            TokenizerError: if `completion_ids` say something else than `completions`.
        """
        ids = _checked_column("prompt_id", prompt_id, len(completions))
        splits = [self._tasks.split] * len(ids)
        if split is not None:
            splits = _checked_column("split", split, len(ids))
        tokens: list[list[int] | None] = [None] * len(ids)
        if completion_ids is not None:
            given = _checked_column("completion_ids", completion_ids, len(ids))
            tokens = [[int(token) for token in row] for row in given]
        rewards: list[float | None] = [None] * len(ids)
        episodes: dict[int, Episode] = {}
        for name in dict.fromkeys(splits):
            batch = self._tasks.batch(name)
            rows = [row for row, own in enumerate(splits) if own == name]
            for row in rows:
                prompt = batch.prompts[batch.prompts.index_of(ids[row])]
                episodes[row] = self._episode(batch, prompt, completions[row], tokens[row])
            ended = [episodes[row] for row in rows]
            result = checked_result(batch.reward, ended)
            for row, reward in zip(rows, _paid(batch, result), strict=True):
                rewards[row] = reward
            if log_metric is not None:
                went_on = [_went_on(episodes[row], tokens[row]) for row in rows]
                for metric, value in _means(batch, ended, result, went_on).items():
                    log_metric(metric, value)
        if log_extra is not None:
            log_extra("prompt_id", ids)
            log_extra("finish_reason", [episodes[row].finish_reason for row in range(len(ids))])
        return rewards

    def _episode(
        self, batch: EpisodeBatch, prompt: Prompt, completion: Any, tokens: list[int] | None
    ) -> Episode:
        """Return what was said to one prompt as a finished episode."""
        text, is_plain = answer_text(completion)
        if tokens is None or self.through_text:
            at_eos = tokens is None or self._reader is None or self._reader.eos_id in tokens
            return spoken(batch, prompt, text, at_eos=at_eos)
        if self._reader is None and is_plain:
            refuse_foreign(batch.tokenizer, tokens, text)
        return acted(batch, prompt, tokens)


def _checked_column(name: str, values: Sequence[Any] | None, count: int) -> list[Any]:
    """Return a column with one value a completion.

    Raises:
        ConfigError: if it is missing or of another length.
    """
    if values is None:
        raise ConfigError(
            f"the dataset has no column {name!r}, so nobody knows what was asked; take the one "
            "that textenvs.bridges.trl.prompt_dataset makes, and leave remove_unused_columns=False"
        )
    if len(values) != count:
        raise ConfigError(f"got {len(values)} values of {name!r} for {count} completions")
    return list(values)


def _paid(batch: EpisodeBatch, result: RewardResult) -> list[float | None]:
    """Return the rewards [B], by the environment's policy for episodes without a score."""
    stated = None if isinstance(batch.on_unscored, str) else float(batch.on_unscored)
    return [stated if np.isnan(score) else score for score in result.scores.tolist()]


def _went_on(episode: Episode, tokens: Sequence[int] | None) -> bool:
    """Return whether the trainer sampled on after the environment's end."""
    return tokens is not None and 0 < len(episode.completion_ids) < len(tokens)


def _means(
    batch: EpisodeBatch,
    episodes: Sequence[Episode],
    result: RewardResult,
    went_on: Sequence[bool],
) -> dict[str, float]:
    """Return what is logged of a batch: as `agents` logs it, where it logs the same."""
    scored = ~np.isnan(result.scores)
    means = {"scored": float(np.mean(scored)), "cut": float(np.mean(went_on))}
    for name, term in result.terms.items():
        has_score = scored & np.array([status == SCORED for status in term.status])
        if has_score.any():
            means[f"reward/{name}"] = float(np.sum(term.weighted[has_score]) / np.sum(scored))
            means[f"reward_raw/{name}"] = float(np.mean(term.score[has_score]))
    for name, values in batch.metrics(episodes).items():
        if not np.isnan(values).all():
            means[f"gold/{name}"] = float(np.nanmean(values))
    return means
