"""One cell of a benchmark: what it records, that it repeats, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.benchmark_cell import resolve_cell, run_cell
from agents.benchmarking.held_out import HeldOut, HeldOutSettings
from agents.benchmarking.records import ANSWERS, CHECKPOINTS, ROLLOUTS, UPDATES
from agents.benchmarking.timed_reward import TimedReward
from agents.policy import CausalLMPolicy
from textenvs.errors import CheckpointError, ConfigError, TextEnvsError
from textenvs.kl import kl_estimate
from textenvs.rewards import RunningNormalised
from textenvs.rewards.base import BaseReward
from textenvs.types import Episode, Prompt

Make = Callable[..., Any]
Cell = dict[str, Any]

TEMPLATE = "{items}\n{category}:"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 titles of four letters in three categories."""
    path = tmp_path_factory.mktemp("cell") / "items.tsv"
    rows = [f"t{i:03d}\t{('red', 'green', 'blue')[i % 3]}" for i in range(120)]
    path.write_text("title\tcategory\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def cell(corpus: str, model_folder: Make) -> Cell:
    """Two updates of RLOO on short lists, judged before, between and after."""
    options = {
        "corpus": corpus,
        "n_items": 2,
        "max_targets": 1,
        "n_prompts": 20,
        "max_prompt_tokens": 64,
        "max_new_tokens": 6,
        "template": TEMPLATE,
    }
    return {
        "kind": "cell",
        "environment": {"name": "toy", "id": "textenvs/ContextSelect-v0", "options": options},
        "gold": "recall",
        "design": {
            "name": "mixed",
            "reward": {
                "terms": [
                    {"reward": "context-match-f1", "weight": 0.7},
                    {"reward": f"{__name__}:shortness", "weight": 0.3},
                ]
            },
            "kl_coef": 0.05,
            "kl_target": None,
            "kl_timing": "episode",
        },
        "agent": {
            "name": "rloo",
            "agent": "RLOO",
            "model": str(model_folder()),
            "updates": 2,
            "num_envs": 4,
            "options": {"learning_rate": 1e-2},
            "temperature": 1.0,
        },
        "evaluation": {"every": 1, "prompts": 6},
        "seed": 3,
        "needs": [],
        "hashes": {},
    }


def shortness(prompt: Prompt, completion: str) -> float:
    """Pay for saying little."""
    return 1.0 / (1 + len(completion))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a study name functions of this module."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_records_of_a_cell(cell: Cell, tmp_path: Path) -> None:
    cell = resolve_cell(cell)
    threads = torch.get_num_threads()
    (tmp_path / ANSWERS).write_text("left by an earlier attempt\n")
    run_cell(cell, tmp_path, tmp_path)
    assert torch.get_num_threads() == threads
    checkpoints, answers = rows(tmp_path, CHECKPOINTS), rows(tmp_path, ANSWERS)
    assert [(row["checkpoint"], row["update"]) for row in checkpoints] == [(0, 0), (1, 1), (2, 2)]
    assert [row["episodes"] for row in checkpoints] == [0, 4, 8]
    assert 0 == checkpoints[0]["timesteps"] < checkpoints[1]["timesteps"]
    assert not any(checkpoints[0]["seconds"].values())
    seconds = checkpoints[1]["seconds"]
    assert set(seconds) == {"rollout", "reward", "reference", "update"}
    assert all(value > 0 for value in seconds.values())
    first, last = checkpoints[0]["metrics"], checkpoints[-1]["metrics"]
    assert first["kl_sequence"] == first["kl_token"] == 0 < last["kl_token"]
    assert first["win_rate"] == 0.5
    assert {"gold/recall", "term/context_match", "term/shortness"} < set(last)
    assert [row["update"] for row in rows(tmp_path, UPDATES)] == [1, 2]
    for number, row in enumerate(checkpoints):
        own = [a for a in answers if a["checkpoint"] == number]
        assert len({a["prompt_id"] for a in own}) == len(own) == 6
        for metric, name in (("proxy", "proxy"), ("kl_sequence", "kl"), ("length", "length")):
            assert row["metrics"][metric] == pytest.approx(np.mean([a[name] for a in own]))
        for a in own:
            assert sum(a["terms"].values()) == pytest.approx(a["proxy"])
            assert 0.3 * shortness(Prompt("", ""), a["completion"]) == a["terms"]["shortness"]
    rollouts = rows(tmp_path, ROLLOUTS)
    assert [r["completion"] for r in rollouts] == [a["completion"] for a in answers[-6:]]
    for rollout, answer in zip(rollouts, answers[-6:], strict=True):
        count = answer["length"]
        assert len(rollout["tokens"]) == len(rollout["token_kl"]) == count
        assert "".join(rollout["tokens"]) == rollout["completion"]
        assert sum(rollout["token_rewards"]) == pytest.approx(answer["proxy"])
        assert sum(rollout["token_kl"]) == pytest.approx(answer["kl"])


def test_the_same_cell_in_another_process_leaves_the_same_bytes(cell: Cell, tmp_path: Path) -> None:
    cell["design"]["reward"] = {"reward": "context-match-f1"}  # importable everywhere
    cell["evaluation"]["decoding"] = "sampled"
    cell = resolve_cell(cell)
    here, there, other = tmp_path / "here", tmp_path / "there", tmp_path / "other"
    run_cell(cell, here, tmp_path)
    code = (
        "import json, sys; from pathlib import Path; from agents.benchmark_cell import run_cell;"
        "run_cell(json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(cell), str(there)], check=True)
    run_cell({**cell, "seed": 4}, other, tmp_path)
    for name in (ANSWERS, ROLLOUTS, UPDATES):
        assert (here / name).read_bytes() == (there / name).read_bytes()
        assert (here / name).read_bytes() != (other / name).read_bytes()
    ours, theirs = ([{**r, "seconds": {}} for r in rows(f, CHECKPOINTS)] for f in (here, there))
    assert ours == theirs


def test_looking_more_often_changes_no_training(cell: Cell, tmp_path: Path) -> None:
    cell["design"]["reward"] = {"reward": f"{__name__}:Learning"}
    cell["evaluation"]["decoding"] = "sampled"
    for every in (1, 5):
        cell["evaluation"]["every"] = every
        run_cell(resolve_cell(cell), tmp_path / str(every), tmp_path)
    assert (tmp_path / "1" / UPDATES).read_bytes() == (tmp_path / "5" / UPDATES).read_bytes()
    often, seldom = (rows(tmp_path / e, CHECKPOINTS) for e in "15")
    assert [row["update"] for row in seldom] == [0, 2]
    assert often[-1]["metrics"] == seldom[-1]["metrics"]


class Learning(RunningNormalised):
    """A reward whose scores depend on what it has scored before."""

    def __init__(self) -> None:
        super().__init__(shortness)


def test_a_preparation_is_the_start_of_the_cells_that_need_it(cell: Cell, tmp_path: Path) -> None:
    agent = {"model": cell["agent"]["model"], "sft": {"steps": 3, "batch_size": 4}}
    common = {"environment": cell["environment"], "seed": 3, "needs": [], "hashes": {}}
    preparation = resolve_cell({"kind": "preparation", "agent": agent, **common})
    assert preparation["agent"]["sft"]["learning_rate"] > 0
    cell["needs"] = ["start"]
    cell["agent"]["sft"] = agent["sft"]
    cell = resolve_cell(cell)
    with pytest.raises(CheckpointError, match="has left no model"):
        run_cell(cell, tmp_path / "cells/one", tmp_path)
    run_cell(preparation, tmp_path / "cells/start", tmp_path)
    run_cell(preparation, tmp_path / "cells/again", tmp_path)
    weights = "model/model.safetensors"
    begun = (tmp_path / "cells/start" / weights).read_bytes()
    assert begun == (tmp_path / "cells/again" / weights).read_bytes()
    assert begun != (Path(agent["model"]) / "model.safetensors").read_bytes()
    run_cell(cell, tmp_path / "cells/one", tmp_path)
    run_cell({**cell, "needs": []}, tmp_path / "cells/raw", tmp_path)
    prepared, raw = (
        rows(tmp_path / "cells" / n, CHECKPOINTS)[0]["metrics"] for n in ("one", "raw")
    )
    assert prepared["kl_sequence"] == 0 and prepared["entropy"] != raw["entropy"]


@pytest.mark.parametrize("agent", ["PPO", "GRPO"])
def test_other_agents_without_kl_are_still_measured_against_the_reference(
    cell: Cell, tmp_path: Path, agent: str
) -> None:
    cell["agent"] |= {"agent": agent, "lora": agent == "GRPO"}
    cell["design"]["kl_coef"] = 0.0
    cell["evaluation"]["every"] = 2
    run_cell(resolve_cell(cell), tmp_path, tmp_path)
    last = rows(tmp_path, CHECKPOINTS)[-1]
    assert last["seconds"]["reference"] == 0
    assert last["metrics"]["kl_sequence"] > 0


class Chatter:
    """An agent with a model of its own: it learns to say one more "t" an update."""

    def __init__(self, env: Any, *, seed: int = 0, step: int = 1) -> None:
        self.env, self.step, self.said = env.unwrapped, step, 0

    def learn(self, total_timesteps: int, callback: Any = None) -> None:
        for update in range(9):
            self.said += self.step
            if callback({"timesteps": 10.0 * (update + 1), "episodes": 2.0}) is False:
                return

    def save(self, path: str) -> None:
        """Keep nothing."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 0
    ) -> tuple[np.ndarray, None]:
        start = self.env.batch.num_prompt_columns
        spoken = observation["attention_mask"][:, start:].sum(1)
        letter = self.env.tokenizer.encode_completion("t")[0]
        return np.where(spoken < self.said, letter, self.env.tokenizer.eos_id), None


def test_an_agent_that_brings_its_own_model(cell: Cell, byte_folder: Path, tmp_path: Path) -> None:
    cell["agent"] = {
        "name": "own",
        "agent": f"{__name__}:Chatter",
        "updates": 4,
        "num_envs": 2,
        "options": {"step": 1},
    }
    cell["environment"]["options"]["tokenizer"] = str(byte_folder)
    with pytest.raises(ConfigError, match="kl_coef means nothing"):
        resolve_cell(cell)
    cell["design"]["kl_coef"] = 0.0
    cell["evaluation"]["every"] = 3
    run_cell(resolve_cell(cell), tmp_path, tmp_path)
    checkpoints = rows(tmp_path, CHECKPOINTS)
    assert [row["update"] for row in checkpoints] == [0, 3, 4]
    assert [row["timesteps"] for row in checkpoints] == [0, 30, 40]
    assert [row["metrics"]["length"] for row in checkpoints] == [1, 4, 5]
    assert checkpoints[-1]["metrics"]["kl_sequence"] is None
    assert checkpoints[-1]["metrics"]["self_bleu"] == 1.0
    assert rows(tmp_path, ROLLOUTS)[0]["token_kl"] is None


def test_resolving_says_every_default_and_is_done_once(cell: Cell) -> None:
    resolved = resolve_cell(cell)
    assert resolve_cell(resolved) == resolved == json.loads(json.dumps(resolved))
    assert resolved["agent"]["samples_per_prompt"] == 4
    assert resolved["agent"]["options"]["learning_rate"] == 1e-2
    assert resolved["agent"]["options"]["max_grad_norm"] == 1.0
    assert resolved["evaluation"]["options"] == {"self_bleu_texts": 32}
    assert "samples_per_prompt" not in cell["agent"]  # the caller's cell is left alone


@pytest.mark.parametrize(
    ("place", "key", "value", "said"),
    [
        ("environment", "id", "textenvs/ContextSelekt-v0", "Did you mean 'textenvs/ContextSelect"),
        ("environment", "options", {"n_itmes": 3}, "'n_items'"),
        ("agent", "agent", "RLO", "Did you mean 'RLOO'"),
        ("agent", "options", {"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ("agent", "options", {"learning_rate": -1.0}, "above 0"),
        ("agent", "sft", {"stepps": 3}, "Did you mean 'steps'"),
        ("agent", "num_envs", 3, "multiple of 2"),
        ("design", "reward", {"reward": "context-match-f2"}, "Did you mean 'context-match-f1'"),
        ("evaluation", "options", {"self_blue_texts": 4}, "Did you mean 'self_bleu_texts'"),
        ("evaluation", "options", {"self_bleu_texts": 1}, "at least 2"),
        (None, "gold", "corect", "Did you mean 'correct'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_run(
    cell: Cell, place: str | None, key: str, value: Any, said: str
) -> None:
    (cell if place is None else cell[place])[key] = value
    with pytest.raises(TextEnvsError, match=said):
        resolve_cell(cell)


def test_kl_and_entropy_are_those_of_whole_distributions(
    make_venv: Make, make_policy: Make
) -> None:
    """Against log-probabilities read off the logits one state at a time."""
    policy: CausalLMPolicy = make_policy()
    reference = make_policy(seed=1).reference()
    venv = make_venv(6, autoreset_mode="disabled")
    policy.check_vocabulary(venv.tokenizer.vocab_size)
    reference.bind(venv.batch.num_prompt_columns, venv.tokenizer.vocab_size)
    held_out = HeldOut(venv, HeldOutSettings(6), policy, reference)
    for index, answer in enumerate(held_out.judge(policy)):
        assert answer.kl is not None and answer.entropy is not None
        ids = [*venv.batch.encoded(index)[1].tolist(), *answer.info["completion_ids"]]
        at = len(ids) - len(answer.info["completion_ids"]) - 1
        tables = []
        for model in (policy.model, reference.model):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, at:-1]
            tables.append(logits.double().log_softmax(-1).numpy())
        assert answer.kl == pytest.approx(kl_estimate(*tables, "full"), abs=1e-5)
        entropy = -(np.exp(tables[0]) * tables[0]).sum(-1)
        assert answer.entropy == pytest.approx(entropy, abs=1e-5)
        assert answer.kl.min() > 0


def test_wins_are_against_the_first_answers_judged(make_venv: Make, make_policy: Make) -> None:
    venv = make_venv(6, autoreset_mode="disabled")
    held_out = HeldOut(venv, HeldOutSettings(6))
    first, second = make_policy(), make_policy(seed=2)
    before, after = held_out.judge(first), held_out.judge(second)
    assert [answer.win for answer in before] == [0.5] * 6
    for old, new in zip(before, after, strict=True):
        assert old.proxy is not None and new.proxy is not None
        assert new.win == 0.5 * (np.sign(new.proxy - old.proxy) + 1)
    assert [answer.win for answer in held_out.judge(first)] == [0.5] * 6


def test_a_timed_reward_scores_as_the_one_within_and_forgets_what_it_is_told_to() -> None:
    timed = TimedReward(RunningNormalised(shortness))
    episodes = [Episode(Prompt("p", "ask"), text) for text in ("", "abc")]
    with timed.unchanged():
        inside = timed(episodes)
        assert isinstance(timed.reward, BaseReward) and timed.reward.moments.count == 2
    assert timed.reward.moments.count == 0 and timed.seconds > 0
    assert inside.scores.tolist() == RunningNormalised(shortness)(episodes).scores.tolist()
    assert timed.term_weights() == timed.reward.term_weights()
    assert timed.bounds(episodes[0].prompt) == timed.reward.bounds(episodes[0].prompt)


def scored_if_low(prompt: Prompt, completion: str) -> float | None:
    """Tell nothing of answers that begin with a high byte."""
    return float(len(completion)) if completion[:1] < "P" else None


def test_an_answer_without_a_score_has_no_proxy_and_wins_nothing(
    make_venv: Make, make_policy: Make
) -> None:
    venv = make_venv(6, autoreset_mode="disabled", reward=scored_if_low, on_unscored="skip")
    policy = make_policy()
    held_out = HeldOut(venv, HeldOutSettings(6, greedy=False, seed=1), policy)
    answers = held_out.judge(policy)
    proxies = [answer.proxy for answer in answers]
    told = [value for value in proxies if value is not None]
    assert told and len(told) < 6, "the seed gives answers of both kinds"
    assert held_out.metrics(answers)["proxy"] == pytest.approx(np.mean(told))
    assert [answer.win for answer in answers] == [0.5 if p is not None else None for p in proxies]
    assert all(answer.answer_row()["kl"] is None for answer in answers)
    json.dumps([answer.rollout_row() for answer in answers], allow_nan=False)
