"""Batch equals single: vector environments against single ones, in every autoreset mode."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenvs.checker.play import (
    Event,
    copied,
    differing,
    first_difference,
    plain,
    random_actions,
    reset,
    step,
)
from textenvs.checker.probes import CONSTANTS, random_letters
from textenvs.checker.report import Rows, Skipped
from textenvs.checker.study import Study, note, verdict
from textenvs.checker.subject import (
    HasPrompts,
    HasScore,
    Subject,
    oracle_of,
    scores_of,
    twin,
)
from textenvs.env import TextEnv
from textenvs.vector_env import TextVectorEnv, vectorised
from textenvs.vector_infos import row_info

ROWS, STEPS = 3, 40
GROUP, GROUPS = 2, 2
BATCH_TOLERANCE = 1e-4
"""Relative, between batches: a model in float32 pads other lengths; a reward that looks at the
rest of the batch differs by far more."""


def check_batch(study: Study) -> Rows:
    """Row i of a vector environment seeded with s is the single environment seeded with s + i."""
    actions = random_actions(study.subject.fresh(), study.generator("batch"), (STEPS, ROWS))
    seed = int(study.generator("batch seed").integers(2**31 - ROWS))
    for mode in AutoresetMode:
        alone = [
            play_alone(study.subject.single(), actions[:, row].tolist(), mode, seed + row)
            for row in range(ROWS)
        ]
        for kind, venv in _twins(study, mode):
            wrong = _unlike(venv, mode, actions, seed, alone)
            venv.close()
            words = f"{ROWS} rows equal {ROWS} single environments"
            yield verdict(f"batch/{kind} {mode.name}", wrong, words)
    if study.subject.venv is not None:
        yield from _given_vector(study, study.subject.venv)


def _twins(study: Study, mode: AutoresetMode) -> Iterator[tuple[str, Any]]:
    subject = study.subject
    env = subject.fresh()
    if isinstance(env, TextEnv) and not subject.is_limited:
        yield "vectorised", vectorised(env, ROWS, mode)
    if subject.given is not None:
        yield "sync", SyncVectorEnv([subject.fresh] * ROWS, autoreset_mode=mode)
        return
    yield "sync", subject.vector_of_id(ROWS, mode, "sync")
    if subject.is_native:
        native = _native(subject, mode)
        if native is not None:
            yield "native", native


def _native(subject: Subject, mode: AutoresetMode) -> Any:
    """Return the native vector environment in a mode; None if it has another and no choice."""
    try:
        return subject.vector_of_id(ROWS, mode, None)
    except TypeError as error:
        if "autoreset_mode" not in str(error):
            raise
    venv = subject.vector_of_id(ROWS, None, None)
    return venv if venv.metadata.get("autoreset_mode") is mode else None


def _given_vector(study: Study, given: TextVectorEnv) -> Rows:
    """Check the vector environment that was given, in the mode it has."""
    if given.samples_per_prompt > 1 or given.max_episode_steps is not None:
        yield note("batch/given", "its rows share prompts or have a limit; not compared row by row")
        return
    rows, mode = given.num_envs, given.autoreset_mode
    actions = random_actions(study.subject.fresh(), study.generator("given"), (STEPS, rows))
    alone = [
        play_alone(study.subject.fresh(), actions[:, row].tolist(), mode, study.seed + row)
        for row in range(rows)
    ]
    wrong = _unlike(twin(given), mode, actions, study.seed, alone)
    yield verdict(
        f"batch/given {mode.name}", wrong, f"{rows} rows equal {rows} single environments"
    )


def _unlike(
    venv: Any, mode: AutoresetMode, actions: np.ndarray, seed: int, alone: Sequence[list[Event]]
) -> str | None:
    declared = venv.metadata.get("autoreset_mode")
    if declared is not mode:
        return f"metadata['autoreset_mode'] is {declared!r}, not {mode!r}"
    reused = _reused(venv, actions, seed)
    if reused is not None:
        return reused
    batched = play_batched(venv, mode, actions, seed)
    for row, (mine, other) in enumerate(zip(alone, batched, strict=True)):
        where = first_difference(mine, other)
        if where is not None:
            return f"row {row} differs from the single environment at {where}"
    return None


def _reused(venv: Any, actions: np.ndarray, seed: int) -> str | None:
    """Return in words which observation of one call is overwritten by another, or None."""
    kept = [venv.reset(seed=seed)[0], venv.step(actions[0].copy())[0], venv.reset(seed=seed)[0]]
    for one, two in itertools.combinations(kept, 2):
        for key, value in one.items():
            if np.may_share_memory(value, two[key]):
                return f"{key!r} of two calls is one array; return a copy at each call"
    return None


def play_alone(env: Any, actions: Sequence[int], mode: AutoresetMode, seed: int) -> list[Event]:
    """Play a single environment as a row of a vector environment would."""
    events = [reset(env, seed=seed)]
    for action in actions:
        if events[-1].over:  # NEXT_STEP alone leaves one: this action is ignored
            events.append(reset(env))
            continue
        events.append(step(env, action))
        if events[-1].over and mode is not AutoresetMode.NEXT_STEP:
            events.append(reset(env))
    return events


def play_batched(
    venv: Any, mode: AutoresetMode, actions: np.ndarray, seed: int
) -> list[list[Event]]:
    """Play a vector environment; return the events of each row.

    Args:
        venv: Any Gymnasium vector environment.
        mode: Its autoreset mode.
        actions: int64 [S, B].
        seed: Of row 0.
    """
    observation, infos = venv.reset(seed=seed)
    rows = range(actions.shape[1])
    events = [[_begun(observation, infos, row)] for row in rows]
    for taken in actions:
        waiting = [events[row][-1].over for row in rows]
        observation, rewards, terminated, truncated, infos = venv.step(taken.copy())
        over = np.asarray(terminated) | np.asarray(truncated)
        for row in rows:
            signals = float(rewards[row]), bool(terminated[row]), bool(truncated[row])
            at_once = mode is AutoresetMode.SAME_STEP and bool(over[row])
            seen = infos["final_obs"][row] if at_once else row_of(observation, row)
            told = told_of(infos, row)
            final = told.pop("final_info", {})
            call = "reset" if waiting[row] else "step"
            events[row].append(Event(call, copied(seen), *signals, final if at_once else told))
            if at_once:
                events[row].append(
                    Event("reset", row_of(observation, row), 0.0, False, False, told)
                )
        if mode is AutoresetMode.DISABLED and over.any():
            observation, infos = venv.reset(options={"reset_mask": over.copy()})
            for ended in np.flatnonzero(over).tolist():
                events[ended].append(_begun(observation, infos, ended))
    return events


def _begun(observation: Mapping[str, Any], infos: Mapping[str, Any], row: int) -> Event:
    return Event("reset", row_of(observation, row), 0.0, False, False, told_of(infos, row))


def row_of(observation: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return a copy of one row of a batched observation."""
    return {key: np.array(value[row]) for key, value in observation.items()}


def told_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return one row of a vector environment's info as plain data, but for its last observation."""
    told = row_info(infos, row)
    told.pop("final_obs", None)
    return {key: plain(value) for key, value in told.items()}


def check_company(study: Study) -> Rows:
    """The score of an answer does not depend on what else is in the batch."""
    env = study.subject.fresh()
    if not (isinstance(env, HasScore) and isinstance(env, HasPrompts)):
        raise Skipped("the environment has no method `score(prompt, texts)`, or no prompts")
    generator = study.generator("company")
    prompts = study.sample(env)[:8]
    wrong = None
    for prompt in prompts:
        texts = ["", *CONSTANTS, prompt.text, *(random_letters(generator) for _ in range(4))]
        try:
            texts.append(oracle_of(env, prompt))
        except Skipped:
            pass
        order = generator.permutation(len(texts))
        together = scores_of(env, prompt, texts)
        shuffled = scores_of(env, prompt, [texts[i] for i in order])
        alone = [scores_of(env, prompt, [text])[0] for text in texts]
        wrong = wrong or _moved(texts, together, alone, "alone")
        wrong = wrong or _moved([texts[i] for i in order], together[order], shuffled, "shuffled")
    if isinstance(env, TextEnv) and wrong is None:
        texts = [random_letters(generator) for _ in prompts]
        together = np.asarray(env.batch.score(prompts, texts).scores)
        alone = [scores_of(env, p, [t])[0] for p, t in zip(prompts, texts, strict=True)]
        wrong = _moved(texts, together, alone, "alone")
    yield verdict("company", wrong, "alone, together and shuffled, an answer scores the same")


def _moved(
    texts: Sequence[str], together: Iterable[float], other: Iterable[float], how: str
) -> str | None:
    for text, one, two in zip(texts, together, other, strict=True):
        if not np.isclose(one, two, rtol=BATCH_TOLERANCE, atol=BATCH_TOLERANCE, equal_nan=True):
            return (
                f"the answer {text!r:.40} scores {one:.6g} in a batch of {len(texts)} and "
                f"{two:.6g} {how}; a reward must judge each answer by itself"
            )
    return None


def _grouped(subject: Subject, env: TextEnv, rows: int, mode: AutoresetMode) -> Any:
    """Return a vector environment in groups: the native one where the id brings one."""
    if not subject.is_native or subject.given is not None:
        arguments = env.batch.task_arguments()
        return TextVectorEnv(
            **arguments, num_envs=rows, autoreset_mode=mode, samples_per_prompt=GROUP
        )
    try:
        return subject.vector_of_id(rows, mode, None, samples_per_prompt=GROUP)
    except TypeError as error:
        if "autoreset_mode" in str(error) or "samples_per_prompt" in str(error):
            raise Skipped(f"the vector environment of the id cannot: {error}") from error
        raise


def check_groups(study: Study) -> Rows:
    """With `samples_per_prompt`, the rows of a group share prompt and prompt id."""
    env = study.subject.fresh()
    if not isinstance(env, TextEnv):
        raise Skipped("the environment is no TextEnv; samples_per_prompt is an option of its batch")
    rows, mode = GROUP * GROUPS, AutoresetMode.SAME_STEP
    venv = _grouped(study.subject, env, rows, mode)
    actions = random_actions(env, study.generator("groups"), (STEPS, rows))
    played = play_batched(venv, mode, actions, study.seed)
    begun = [[event for event in events if event.call == "reset"] for events in played]
    wrong = None
    for first in range(0, rows, GROUP):
        for other in begun[first + 1 : first + GROUP]:
            for k, (one, two) in enumerate(zip(begun[first], other, strict=False)):
                where = differing(one.parts(), two.parts())
                if where is not None:
                    wrong = wrong or f"episode {k} of the group of row {first}: {where}"
    shared = min(map(len, begun))
    yield verdict("groups", wrong, f"the first {shared} episodes of a group share their prompts")
