"""Answer only from the list: base, SFT and PPO with LoRA, judged on held-out titles.

`python examples/context_only/run.py` trains SmolLM2-135M-Instruct on lists of 10 titles, BBC news
and films together. On two processor cores SFT took 23 minutes and PPO 26, an hour in all;
`--device cuda --items 30 --seeds 5` is the size of the published experiment. A stage that stands
in the run folder is not run again, so a run that was stopped goes on; `--write` puts the table
into README.md beside this file.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from measures import measure
from page import write_page
from titles import write_corpus

import agents
from agents.evaluation import answer_prompts
from agents.runs import write_text
from textenvs.models import model_folder
from textenvs.wrappers.reference_kl import VectorReferenceKL

ENV = "textenvs/ContextSelect-v0"
TOKENS_AN_ITEM, TOKENS_AROUND = 26, 96


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the result of a run."""

    model: str = "smollm2-135m"
    items: int = 10
    prompts: int = 500
    curve_prompts: int = 100
    sft_steps: int = 120
    sft_batch: int = 16
    sft_rate: float = 5e-4
    updates: int = 30
    episodes: int = 128
    samples_per_prompt: int = 8
    ppo_rate: float = 1e-4
    kl_coef: float = 0.02
    updates_a_point: int = 10
    device: str = "cpu"

    def task(self, folder: Path) -> dict[str, Any]:
        """Return the options of the environment; the corpus is written once."""
        return {
            "corpus": str(write_corpus(folder / "titles.tsv")),
            "n_items": self.items,
            "max_prompt_tokens": TOKENS_AROUND + TOKENS_AN_ITEM * self.items,
            "max_new_tokens": 64,
            "tokenizer": model_folder(self.model),
            "chat": self.model != "tiny-lm",  # which has no chat template
            "reward": "context-match-f1",
        }


class Experiment:
    """One seed of the experiment: its stages, its curve, and where they are kept."""

    def __init__(self, settings: Settings, seed: int, folder: Path) -> None:
        """Make the folder and the held-out prompts."""
        self.settings, self.seed = settings, seed
        self.folder = folder / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.task = settings.task(folder)
        self.test = gym.make(ENV, split="test", **self.task).unwrapped
        self.validation = gym.make(ENV, split="validation", **self.task).unwrapped
        self.results: dict[str, Any] = self._read()
        self._began = time.perf_counter()

    def run(self) -> dict[str, Any]:
        """Run the stages that are not done yet; return stage -> what came out."""
        self._stage("base", self._begin)
        self._stage("SFT", self._sft)
        self._stage("PPO", self._ppo)
        return self.results

    def _stage(self, name: str, make: Callable[[], Any]) -> None:
        if name in self.results:
            return
        self._began = time.perf_counter()
        agent = make()
        told = {"seconds": self._seconds(), "threads": torch.get_num_threads()}
        answers = answer_prompts(agent, self.test, self.settings.prompts)
        measured = measure(answers, self.test.prompts)
        self.results[name] = {"test": measured, **told}
        self._keep()
        lines = [json.dumps(dataclasses.asdict(answer), ensure_ascii=False) for answer in answers]
        write_text(self.folder / f"answers-{name}.jsonl", "\n".join(lines) + "\n")
        shown = "  ".join(f"{n} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for n, v in measured.items())
        print(f"seed {self.seed} {name} ({told['seconds']:.0f} s): {shown}", flush=True)

    def _begin(self) -> agents.CausalLMPolicy:
        return self._policy(self.settings.model)

    def _sft(self) -> agents.CausalLMPolicy:
        """Train adapters on right answers; save the model with them merged."""
        settings, policy = self.settings, self._policy(self.settings.model, lora=True)
        config = agents.SFTConfig(
            steps=settings.sft_steps,
            batch_size=settings.sft_batch,
            learning_rate=settings.sft_rate,
        )
        env = gym.make(ENV, **self.task)
        agents.sft(policy, env, config, seed=self.seed, log=self._log)
        policy.save_pretrained(self.folder / "SFT")
        return policy

    def _ppo(self) -> agents.PPO:
        """Train new adapters over the model of the SFT stage, which is the reference.

        Every point of the curve is a checkpoint, and a run that was stopped goes on from it.
        """
        settings, policy = self.settings, self._policy(self.folder / "SFT", lora=True)
        venv = gym.make_vec(
            ENV,
            num_envs=settings.episodes,
            samples_per_prompt=settings.samples_per_prompt,
            **self.task,
        )
        shaped = VectorReferenceKL(venv, policy.reference(), settings.kl_coef)
        curve = self.results.setdefault("curve", [])
        if curve:
            agent = agents.PPO.load(self.folder / "PPO", shaped)
            self._began -= curve[-1]["seconds"]
        else:
            config = agents.PPOConfig(
                learning_rate=settings.ppo_rate, n_epochs=2, gae_lambda=1.0, anneal=False
            )
            agent = agents.PPO(policy, shaped, config, seed=self.seed)
            self._point(agent)

        def log(metrics: Mapping[str, float]) -> bool:
            self._log(metrics)
            last = agent.num_updates == settings.updates
            if last or agent.num_updates % settings.updates_a_point == 0:
                self._point(agent)
            return agent.num_updates < settings.updates

        if agent.num_updates < settings.updates:
            tokens = settings.updates * settings.episodes * 64
            agent.learn(tokens, log, reset_num_timesteps=False)
        return agent

    def _point(self, agent: agents.PPO) -> None:
        """Save the agent and add a point; the validation titles are in no other split."""
        agent.save(self.folder / "PPO")
        seconds = self._seconds()
        answers = answer_prompts(agent, self.validation, self.settings.curve_prompts)
        measured = measure(answers, self.validation.prompts)
        self._began = time.perf_counter() - seconds  # measuring is no part of the stage's cost
        update = agent.num_updates
        self.results["curve"] += [{"update": update, "seconds": seconds, "validation": measured}]
        self._keep()
        strict, low, high = measured["strict"]
        print(f"  update {update}: strict {strict:.3f} [{low:.3f}, {high:.3f}]", flush=True)

    def _seconds(self) -> float:
        return time.perf_counter() - self._began

    def _keep(self) -> None:
        write_text(self.folder / "results.json", json.dumps(self.results, indent=2) + "\n")

    def _policy(self, model: str | Path, *, lora: bool = False) -> agents.CausalLMPolicy:
        return agents.CausalLMPolicy.from_pretrained(model, lora=lora, device=self.settings.device)

    def _log(self, metrics: Mapping[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(metrics)) + "\n")

    def _read(self) -> dict[str, Any]:
        path = self.folder / "results.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main() -> None:
    """Run the seeds and print, or write, the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--out", type=Path, default=Path("runs/context_only"))
    parser.add_argument("--write", action="store_true", help="write README.md beside this file")
    given = vars(parser.parse_args())
    seeds, out, write = (given.pop(name) for name in ("seeds", "out", "write"))
    settings = Settings(**given)
    results = [Experiment(settings, seed, out).run() for seed in range(seeds)]
    write_page(Path(__file__).parent / "README.md" if write else None, settings, results)


if __name__ == "__main__":
    main()
