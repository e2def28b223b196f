"""The scripted part of an audit: every exploit on every prompt of the sample."""

import numpy as np

from textenvs.audit.exploits import EXPLOITS, Exploit, Scene
from textenvs.audit.findings import Row
from textenvs.audit.subject import Attempt, Subject
from textenvs.audit.verdicts import exploit_row
from textenvs.types import Prompt


def probe_rows(subject: Subject, generator: np.random.Generator) -> list[Row]:
    """Try every scripted exploit, and those the environment names itself.

    Args:
        subject: The reward under audit.
        generator: For what the exploits draw.
    """
    scenes = [scene_of(subject, prompt, generator) for prompt in subject.measured]
    own = dict.fromkeys(name for scene in scenes for name in scene.own)
    exploits = [*EXPLOITS, *(own_exploit(name) for name in own)]
    return [probe_row(subject, exploit, scenes) for exploit in exploits]


def probe_row(subject: Subject, exploit: Exploit, scenes: list[Scene]) -> Row:
    """Return the verdict on one exploit; a reward that raises on it is at fault."""
    attempts: list[Attempt] = [a for scene in scenes for a in exploit.attempts(scene)]
    try:
        return exploit_row(subject, exploit.name, "probe", attempts)
    except Exception as error:  # noqa: BLE001  a user's reward raises anything
        return Row(exploit.name, "fault", f"the reward raised {type(error).__name__}: {error}")


def scene_of(subject: Subject, prompt: Prompt, generator: np.random.Generator) -> Scene:
    """Return what the exploits of one prompt are made from."""
    return Scene(
        prompt,
        subject.standards[prompt.id].oracle.text,
        subject.tokenizer,
        subject.max_new_tokens,
        subject.env.probes(prompt),
        generator,
    )


def own_exploit(name: str) -> Exploit:
    """Return an exploit that the environment names itself."""
    return Exploit(f"own: {name}", lambda scene: [scene.own[name]] if name in scene.own else [])
