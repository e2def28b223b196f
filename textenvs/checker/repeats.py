"""Same seed, same actions, same trajectory; same prompt, same actions, same reward."""

import math
from typing import Any

from textenvs.checker.observations import episodes
from textenvs.checker.play import (
    differing,
    first_difference,
    global_randomness,
    play,
    play_episode,
    random_actions,
    reset,
)
from textenvs.checker.probes import random_letters
from textenvs.checker.report import Rows, Skipped
from textenvs.checker.study import Study, note, skipped, verdict
from textenvs.checker.subject import (
    HasPrompts,
    HasScore,
    prompt_named,
    prompts_of,
    scores_of,
    shown,
)
from textenvs.env import TextEnv

STEPS = 64
SEEDS = 32
"""With two prompts or more, as many seeds draw one prompt alone once in two thousand million."""
PROMPTS_READ = 64
IDS_LOOKED_UP = 8
"""Fewer, since a source may look through all its prompts for an id."""
SCORE_TOLERANCE = 1e-6
"""Relative, between a stepped reward and `score`: a model may judge another batch size."""


def check_determinism(study: Study) -> Rows:
    """Nothing depends on anything but seed and actions."""
    env, other = study.subject.fresh(), study.subject.fresh()
    generator = study.generator("determinism")
    actions = random_actions(env, generator, STEPS)
    seed = int(generator.integers(2**31))
    plays = []
    for salt, played in ((1, env), (2, env), (3, other)):
        with global_randomness(salt):
            plays.append(play(played, actions.tolist(), seed=seed))
    remedy = "; draw from self.np_random alone"
    for name, index in (("one instance", 1), ("two instances", 2)):
        where = first_difference(plays[0], plays[index])
        wrong = None if where is None else f"same seed, same actions, but at {where}{remedy}"
        yield verdict(f"determinism/{name}", wrong, f"{len(plays[0])} calls repeat exactly")
    if isinstance(env, HasScore) and isinstance(env, HasPrompts):
        yield verdict("determinism/score", _unsteady_score(study, env), "same text, same score")
    if isinstance(env, HasPrompts):
        yield verdict(
            "determinism/prompts", _unsteady_prompts(study, env), "same index, same prompt"
        )
        yield from _seeds_matter(study, env)


def _unsteady_score(study: Study, env: Any) -> str | None:
    generator = study.generator("score twice")
    for prompt in study.sample(env):
        texts = ["", random_letters(generator), random_letters(generator)]
        with global_randomness(1):
            first = scores_of(env, prompt, texts)
        with global_randomness(2):
            second = scores_of(env, prompt, texts)
        for text, one, two in zip(texts, first.tolist(), second.tolist(), strict=True):
            if differing(one, two) is not None:
                return (
                    f"the text {text!r:.40} scores {one:.9g} and then {two:.9g} on the prompt "
                    f"{prompt.id!r}"
                )
    return None


def _unsteady_prompts(study: Study, env: Any) -> str | None:
    prompts = prompts_of(env)
    size = min(PROMPTS_READ, len(prompts))
    chosen = study.generator("prompts twice").choice(len(prompts), size, replace=False)
    reads = []
    for salt in (1, 2):
        with global_randomness(salt):
            reads.append([prompts[int(i)] for i in chosen])
    for index, one, two in zip(chosen, *reads, strict=True):
        if shown(one) != shown(two):
            return f"prompts[{index}] differs between two reads: {one.text!r:.60}, {two.text!r:.60}"
    for index, prompt in list(zip(chosen, reads[0], strict=True))[:IDS_LOOKED_UP]:
        found = prompts.index_of(prompt.id)
        if found != index:
            return (
                f"prompts.index_of({prompt.id!r}) is {found}, but prompts[{index}] has that id; "
                "ids must be unique"
            )
    return None


def _seeds_matter(study: Study, env: Any) -> Rows:
    if len(env.prompts) < 2:
        yield note("determinism/seeds", "there is one prompt alone, so every seed draws it")
        return
    if isinstance(env, TextEnv) and env.batch.schedule is not None:
        yield note("determinism/seeds", "a curriculum decides the first prompts, whatever the seed")
        return
    first = study.seed * SEEDS
    drawn = {reset(env, seed=seed).info.get("prompt_id") for seed in range(first, first + SEEDS)}
    if None in drawn:
        yield skipped("determinism/seeds", "the info of a reset has no prompt_id")
        return
    wrong = None
    if len(drawn) == 1:
        wrong = f"{SEEDS} seeds draw the one prompt {drawn.pop()!r} of {len(env.prompts)}"
    yield verdict("determinism/seeds", wrong, f"{SEEDS} seeds draw {len(drawn)} prompts")


def check_replay(study: Study) -> Rows:
    """`reset(options={"prompt_id": id})` and the same actions repeat an episode."""
    env = study.subject.fresh()
    played = episodes(study, env, "replay")
    wrong = None
    for actions, events in played:
        prompt_id = events[0].info["prompt_id"]
        again = play_episode(env, actions, options={"prompt_id": prompt_id})
        where = first_difference(events, again)
        if where is not None:
            wrong = wrong or f"the replay of {prompt_id!r} differs at {where}"
    yield verdict("replay/episode", wrong, f"{len(played)} episodes repeat by prompt id")
    if not isinstance(env, HasScore):
        raise Skipped("the environment has no method `score(prompt, texts)`")
    unlike: dict[bool, str] = {}
    for _, events in played:
        end = events[-1]
        prompt = prompt_named(env, events[0].info["prompt_id"])
        score = float(scores_of(env, prompt, [end.info["completion"]])[0])
        if math.isnan(score) or math.isclose(
            score, end.reward, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE
        ):
            continue
        by_budget = end.info["finish_reason"] == "length"
        unlike[by_budget] = (
            f"stepping {end.info['completion']!r:.40} paid {end.reward:.9g}, score() says "
            f"{score:.9g} (finish_reason {end.info['finish_reason']!r})"
        )
    yield verdict("replay/score", unlike.get(False), "score() gives the stepped reward")
    if set(unlike) == {True}:
        yield note("replay/length", f"the reward charges for a spent budget: {unlike[True]}")
