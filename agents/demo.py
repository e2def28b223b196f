"""`textenvs demo`: the whole road on one small model, judged on held-out titles.

Pretraining on the domain, supervised fine-tuning, a reward model on ranked answers, PPO on
that reward; beside it what the road is compared with: best-of-n, DPO, PPO on the rule reward.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agents.best_of_n import BestOfN
from agents.command_line.console import Console, metrics_table
from agents.command_line.held_out import as_lists
from agents.command_line.settings import DEFAULT_ENV, DemoSettings
from agents.config import PPOConfig, SFTConfig
from agents.dpo import DPOConfig, dpo
from agents.evaluation import Answer, Interval, answer_prompts, bootstrap_mean, summarise
from agents.fine_tuning import sft
from agents.perplexity import perplexity
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.preferences import Ranking, from_context, from_samples, write_rankings
from agents.pretraining import PretrainingConfig, pretrain
from agents.pretraining_texts import pretraining_texts
from agents.reward_modeling import RewardModelingConfig, judge_reward_models, train_reward_model
from agents.reward_modeling.training import steps_of
from agents.runs import RunFolder, free_folder
from textenvs.errors import NothingToRankError
from textenvs.rewards import RewardModel
from textenvs.wrappers.reference_kl import VectorReferenceKL

SHOWN = ("correct", "listed", "precision", "recall", "empty", "copied_fraction", "reward")
PRETRAINING = PretrainingConfig(steps=40, learning_rate=1e-4, batch_size=16)
SFT = SFTConfig(batch_size=32, learning_rate=3e-4)
REWARD_MODELING = RewardModelingConfig(learning_rate=1e-3)
DPO = DPOConfig(steps=100, learning_rate=5e-5)
PPO_SETTINGS = PPOConfig(
    learning_rate=1.5e-4,
    anneal=False,
    n_epochs=2,
    rollout_episodes=128,
    batch_size=64,
    gae_lambda=1.0,
)
KL_COEF, LEARNED_KL_COEF = 0.02, 0.05
ROWS = 128
SAMPLES, BEST_OF = 4, 16
SAMPLED_SHARE = 0.2
"""Of the ranked prompts, those whose answers the model has given itself."""
MEASURED_PROMPTS = 300
MEASURED_TEXTS = 300
RULE = "context-match-f1"
"""The reward of the task. Rankings are made by it too, as if by somebody who ranks by it."""


class Demonstration:
    """The stages of the demo, in order; each begins from what the one before it saved."""

    def __init__(self, settings: DemoSettings, console: Console) -> None:
        """Make the run folder and the environments."""
        self.settings, self.console = settings, console
        self.run = RunFolder(settings.out or free_folder(f"demo-{settings.seed}"), settings)
        self.options: dict[str, Any] = {
            "corpus": settings.corpus,
            "n_items": settings.n_items,
            "max_prompt_tokens": 48 + 20 * settings.n_items,
            "reward": RULE,
        }
        self.train: Any = gym.make(DEFAULT_ENV, **self.options).unwrapped
        self.validation: Any = gym.make(DEFAULT_ENV, split="validation", **self.options).unwrapped
        self.test: Any = gym.make(DEFAULT_ENV, split="test", **self.options).unwrapped
        self.answers: dict[str, list[Answer]] = {}
        self.measured: dict[str, Any] = {}

    def play(self) -> dict[str, Any]:
        """Run every stage, print the table, and write the run folder.

        Returns:
            Stage -> metric -> [mean, low, high], and what was measured on the way.
        """
        began = time.perf_counter()
        settings, say = self.settings, self.console.say
        say(f"The task: {settings.n_items} titles of {settings.corpus}, one category asked.")
        policy = CausalLMPolicy.from_pretrained("tiny-lm")
        self._judge("base", policy)
        self._pretrain(policy)
        self._fine_tune(policy)
        self._judge("SFT", policy)
        rankings = self._rank(policy, self.train, settings.ranked_prompts)
        write_rankings(self.run.path / "rankings.jsonl", rankings)
        reward = self._reward_model(policy, rankings)
        best = BestOfN(policy, self.test, BEST_OF, reward=reward, seed=settings.seed)
        self._judge(f"best of {BEST_OF}", best)
        self._judge("DPO", self._dpo(rankings))
        self._judge("PPO, rule", self._ppo("ppo-rule", RULE, KL_COEF))
        self._judge("PPO, learned", self._ppo("ppo-learned", reward, LEARNED_KL_COEF))
        return self._finish(time.perf_counter() - began)

    @property
    def tuned(self) -> Path:
        """Where the fine-tuned model is, which everything after it begins from."""
        return self.run.path / "checkpoints" / "sft"

    def _judge(self, stage: str, agent: Any) -> None:
        self.answers[stage] = answer_prompts(agent, self.test, self.settings.prompts_asked)
        interval = summarise(self.answers[stage])["correct"]
        self.console.say(
            f"{stage}: correct {_shown(interval)} on {len(self.answers[stage])} held-out lists"
        )

    def _pretrain(self, policy: CausalLMPolicy) -> None:
        """Read titles with their categories as running text; test titles are never read."""
        tokenizer, corpus = self.train.tokenizer, self.settings.corpus
        held_out = pretraining_texts(corpus, "held-out")[:MEASURED_TEXTS]
        before = perplexity(policy, tokenizer, held_out)
        config = dataclasses.replace(PRETRAINING, steps=self.settings.pretrain_steps)
        with self._progress("pretrain", config.steps, "loss {loss:.3f}") as log:
            texts = pretraining_texts(corpus)
            pretrain(policy, tokenizer, texts, config, seed=self.settings.seed, log=log)
        after = perplexity(policy, tokenizer, held_out)
        self.measured["perplexity"] = {"before": list(before), "after": list(after)}
        self.console.say(
            f"Pretraining: perplexity of held-out titles {_shown(before, 1)} to {_shown(after, 1)}"
        )

    def _fine_tune(self, policy: CausalLMPolicy) -> None:
        config = dataclasses.replace(SFT, steps=self.settings.sft_steps)
        with self._progress("SFT", config.steps, "loss {loss:.3f}") as log:
            sft(policy, self.train, config, seed=self.settings.seed, log=log)
        policy.save_pretrained(self.tuned)

    def _rank(self, policy: CausalLMPolicy, env: Any, n_prompts: int) -> list[Ranking]:
        """Rank answers in two ways, to prompts of one split.

        Right titles of the list stand above wrong and invented ones; and what the
        fine-tuned model has sampled is ranked by the rule, where one is better than another:
        after a few steps of fine-tuning all may be worth the same.
        """
        seed = self.settings.seed
        of_context = from_context(
            env,
            n_prompts,
            rejected=("wrong-category", "unlisted"),
            part=True,
            generator=np.random.default_rng(seed),
        )
        asked = max(2, round(n_prompts * SAMPLED_SHARE))
        try:
            sampled: Sequence[Ranking] = from_samples(
                policy, env, asked, samples_per_prompt=SAMPLES, rank_by=RULE, seed=seed
            )
        except NothingToRankError:
            self.console.say(f"Answers sampled to {asked} prompts: none is better than another")
            sampled = ()
        return [*of_context, *sampled]

    def _reward_model(self, policy: CausalLMPolicy, rankings: Sequence[Ranking]) -> RewardModel:
        """Train a reward model and measure it on rankings over titles it has not seen."""
        steps = steps_of(len(rankings), REWARD_MODELING)
        with self._progress("reward model", steps, "loss {loss:.3f}") as log:
            trained = train_reward_model(
                rankings,
                self.run.path / "checkpoints" / "reward-model",
                model=self.tuned,
                config=REWARD_MODELING,
                seed=self.settings.seed,
                log=log,
            )
        count = min(MEASURED_PROMPTS, self.settings.ranked_prompts)
        held_out = self._rank(policy, self.validation, count)
        judged = judge_reward_models({"reward model": trained.reward}, held_out, rankings)
        self.measured["reward model"] = judged.metrics()["reward model"]
        found = judged.judged["reward model"]
        self.console.say(
            f"Reward model: right on {_shown(found.accuracy)} of {judged.pairs} held-out pairs; "
            f"by length alone {_shown(judged.ruler_accuracy)}"
        )
        return trained.reward

    def _dpo(self, rankings: Sequence[Ranking]) -> CausalLMPolicy:
        """Learn from the same rankings without a reward model."""
        policy = CausalLMPolicy.from_pretrained(self.tuned)
        with self._progress("DPO", DPO.steps, "loss {loss:.3f}  margin {margin:.2f}") as log:
            seed = self.settings.seed
            dpo(policy, rankings, DPO, env_or_tokenizer=self.train, seed=seed, log=log)
        policy.save_pretrained(self.run.path / "checkpoints" / "dpo")
        return policy

    def _ppo(self, name: str, reward: Any, kl_coef: float) -> PPO:
        policy = CausalLMPolicy.from_pretrained(self.tuned)
        venv = gym.make_vec(DEFAULT_ENV, num_envs=ROWS, **{**self.options, "reward": reward})
        shaped = VectorReferenceKL(venv, policy.reference(), kl_coef)
        agent = PPO(policy, shaped, PPO_SETTINGS, seed=self.settings.seed)
        updates = self.settings.ppo_updates
        words = "score {score:.2f}  correct {gold/correct:.2f}  KL {kl:.2f}"
        with self._progress(name, updates, words) as log:

            def told(metrics: Mapping[str, Any]) -> bool:
                log(metrics)
                return agent.num_updates < updates

            agent.learn(updates * ROWS * 1_000, told)
        agent.save(self.run.path / "checkpoints" / name)
        return agent

    @contextmanager
    def _progress(self, stage: str, total: int, words: str) -> Any:
        """Yield a function that keeps the numbers of a step and shows some of them."""
        with self.console.progress(stage, total) as advance:

            def log(values: Mapping[str, Any]) -> None:
                self.run.log({"stage": stage, **values})
                advance(words.format_map(values))

            yield log

    def _finish(self, seconds: float) -> dict[str, Any]:
        """Print the table and some answers; write the answers and the manifest."""
        table = {stage: summarise(given) for stage, given in self.answers.items()}
        title = "Held-out titles, greedy decoding, 95% intervals"
        self.console.print(metrics_table(title, table, SHOWN))
        gains = {}
        for stage in list(self.answers)[2:]:
            gain = paired_difference(self.answers[stage], self.answers["SFT"], "correct")
            gains[f"{stage} - SFT"] = list(gain)
            self.console.say(
                f"{stage} minus SFT, correct: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] "
                "(paired over prompts)"
            )
        self._show_answers()
        for stage, given in self.answers.items():
            for answer in given:
                self.run.log({"stage": stage, **dataclasses.asdict(answer)}, "answers.jsonl")
        summary: dict[str, Any] = as_lists(table)
        summary |= {"gains in correct": gains, **self.measured, "seconds": seconds}
        self.run.finish(summary)
        self.console.say(f"Run folder: {self.run.path} ({seconds:.0f} s)")
        return summary

    def _show_answers(self) -> None:
        """Print a few prompts with what each stage said."""
        rows = []
        for i in range(min(3, len(self.answers["base"]))):
            prompt = self.test.prompts[i]
            said = (given[i].completion for given in self.answers.values())
            rows.append((prompt.metadata["category"], self.test.oracle(prompt), *said))
        self.console.side_by_side(("asked for", "right answer", *self.answers), rows)


def paired_difference(new: list[Answer], old: list[Answer], metric: str) -> Interval:
    """Return the mean difference of a metric, prompt by prompt, with its interval."""
    pairs = zip(new, old, strict=True)
    return bootstrap_mean(np.array([a.values[metric] - b.values[metric] for a, b in pairs]))


def _shown(interval: Interval, digits: int = 3) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"
