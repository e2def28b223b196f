"""A reward that hangs, crashes or takes all memory does not end a training run."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from agents.config import PPOConfig
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.rollout_metrics import failure_counts
from textenvs.rewards import Guarded
from textenvs.types import Episode, Prompt
from textenvs.vector_env import TextVectorEnv

HOSTILE = Path(__file__).parent.parent / "textenvs"
UPDATES = 2


@pytest.mark.parametrize(
    ("deed", "kind", "on_error"),
    [
        ("sleep", "timeout", "skip"),
        ("segfault", "crash", "skip"),
        ("allocate", "memory", "skip"),
        ("segfault", "crash", -1.0),
    ],
)
def test_the_run_goes_on(
    deed: str,
    kind: str,
    on_error: Any,
    make_policy: Callable[..., CausalLMPolicy],
    make_venv: Callable[..., TextVectorEnv],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(str(HOSTILE))
    monkeypatch.setenv("HOSTILE_DEED", deed)
    before = set(psutil.Process().children(recursive=True))
    guard = Guarded(
        "hostile_rewards:hostile_to_p0",
        timeout_s=1.0,
        on_error=on_error,
        memory_bytes=1 << 27,
        quarantine=tmp_path / "quarantine.jsonl",
    )
    agent = PPO(make_policy(), make_venv(4, reward=guard), PPOConfig(n_epochs=1), seed=0)
    weights = [p.detach().clone() for p in agent.parameters]
    offenders: list[int] = []
    agent.recorder = lambda rollout, batch: offenders.append(
        sum(prompt.id == "p0" for prompt in rollout.prompts)
    )
    history = [agent.step() for _ in range(UPDATES)]
    assert sum(offenders) > 0, "the seed never draws the prompt p0"
    for metrics, count in zip(history, offenders, strict=True):
        assert metrics["failures"] == metrics.get(f"failures/{kind}", 0.0) == count
        assert metrics["unscored"] == (count if on_error == "skip" else 0)
        assert metrics["episodes"] == 4 and metrics["optimizer_steps"] > 0
        if on_error != "skip":
            assert metrics["reward/hostile_to_p0.failed"] == pytest.approx(-count / 4)
    assert guard.failures == {kind: sum(offenders)}
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == sum(offenders)
    assert all(p.isfinite().all() for p in agent.parameters)
    assert not all(torch.equal(a, b) for a, b in zip(weights, agent.parameters, strict=True))
    guard([Episode(Prompt("p1", "say"), "starts a process if the last one was killed")])
    assert set(psutil.Process().children(recursive=True)) > before
    del agent, guard
    gc.collect()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_failures_are_counted_by_kind() -> None:
    infos = [{"reward_failure": "timeout"}, {}, {"reward_failure": "crash"}]
    assert failure_counts(infos + infos[:1]) == {
        "failures": 3.0,
        "failures/crash": 1.0,
        "failures/timeout": 2.0,
    }
    assert failure_counts([{}]) == {"failures": 0.0}
