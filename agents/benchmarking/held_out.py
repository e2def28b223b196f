"""A checkpoint on held-out prompts: what it answers, what that is worth, how far it drifted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.evaluation import play_prompts
from agents.full_kl import full_kl_and_entropy
from agents.policy import CausalLMPolicy
from agents.rollout_metrics import term_metrics
from agents.seeded_player import SeededPlayer
from textenvs.benchmark.measures import (
    SELF_BLEU_TEXTS,
    context_texts,
    copied_fraction,
    distinct_n,
    matched_spans,
    mean_of,
    self_bleu,
    wins,
)
from textenvs.reference import Reference
from textenvs.rendering import token_pieces
from textenvs.rewards.results import paid_at_the_end
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv

LOGITS_AT_ONCE = 2**23
"""Logits of one pass for the exact KL: 32 MiB in float32, twice (policy and reference)."""


@dataclass(frozen=True)
class HeldOutSettings:
    """How checkpoints are judged.

    Attributes:
        n_prompts: The first so many prompts of the split, each answered once.
        greedy: Take the likeliest token; else sample, every time with the same seed.
        seed: Of sampling and of the texts that self-BLEU draws.
        gold: The metric that decides who wins; None lets the trained reward decide.
        self_bleu_texts: Answers that self-BLEU compares.
    """

    n_prompts: int
    greedy: bool = True
    seed: int = 0
    gold: str | None = None
    self_bleu_texts: int = SELF_BLEU_TEXTS


@dataclass(frozen=True)
class HeldOutAnswer:
    """One answer of T tokens.

    Attributes:
        prompt: What was asked.
        info: The final info of the episode.
        pieces: What each token adds to the text.
        kl: float64 [T], exact KL to the reference before each token, in nats; None without
            a reference.
        entropy: float64 [T], of the policy before each token, in nats; None likewise.
        win: 1, 0.5 or 0 against the reference's answer; None if nothing could be compared.
    """

    prompt: Prompt
    info: Mapping[str, Any]
    pieces: tuple[str, ...]
    kl: np.ndarray | None
    entropy: np.ndarray | None
    win: float | None

    @property
    def proxy(self) -> float | None:
        """The trained reward; None where it could not score."""
        return finite(self.info["task_reward"]) if self.info["scored"] else None

    @property
    def gold(self) -> dict[str, float | None]:
        """Every metric of the environment."""
        return {name: finite(value) for name, value in self.info["metrics"].items()}

    @property
    def sequence_kl(self) -> float | None:
        """Summed over the answer, in nats."""
        return None if self.kl is None else finite(self.kl.sum())

    def answer_row(self) -> dict[str, Any]:
        """Return the line of `answers.jsonl`, less the number of the checkpoint."""
        return {
            "prompt_id": self.prompt.id,
            "group": self.prompt.group,
            "proxy": self.proxy,
            "terms": _finite_values(self.info["reward_terms"]),
            "gold": self.gold,
            "kl": self.sequence_kl,
            "length": len(self.info["completion_ids"]),
            "finish_reason": self.info["finish_reason"],
            "win": self.win,
            "completion": self.info["completion"],
        }

    def rollout_row(self) -> dict[str, Any]:
        """Return the line of `rollouts.jsonl`."""
        completion, ids = self.info["completion"], self.info["completion_ids"]
        paid = self.info.get("reward_per_token")
        if paid is None:
            paid = paid_at_the_end(len(ids), self.info["task_reward"]).tolist()
        return {
            "prompt_id": self.prompt.id,
            "prompt": self.prompt.text,
            "completion": completion,
            "tokens": list(self.pieces),
            "token_rewards": [finite(share) for share in paid],
            "token_kl": None if self.kl is None else [finite(term) for term in self.kl],
            "proxy": self.proxy,
            "gold": self.gold,
            "terms": _finite_values(self.info["reward_terms"]),
            "spans": [list(span) for span in matched_spans(completion, context_texts(self.prompt))],
        }


class HeldOut:
    """The held-out prompts of a cell; every checkpoint answers the same.

    The first one judged is the reference: later ones are compared with its answers.
    """

    def __init__(
        self,
        venv: TextVectorEnv,
        settings: HeldOutSettings,
        policy: CausalLMPolicy | None = None,
        reference: Reference | None = None,
    ) -> None:
        """Keep the environment.

        Args:
            venv: Of the held-out split, with autoreset disabled, paying the trained reward.
            settings: How to judge.
            policy: What is trained, if it is one of ours; KL and entropy are of it.
            reference: What the KL is to, bound to the environment.
        """
        self.venv, self.settings = venv, settings
        self.policy, self.reference = policy, reference
        self.count = min(settings.n_prompts, len(venv.prompts))
        self._baseline: list[float | None] | None = None

    def judge(self, agent: Any) -> list[HeldOutAnswer]:
        """Return the answers of an agent as it is now, one a prompt.

        Args:
            agent: Has `predict`; not asked where there is a policy, which is then sampled
                with a generator of its own, so that looking changes no training.
        """
        player = agent
        if self.policy is not None:
            player = SeededPlayer(self.policy, self.settings.seed)
        infos = play_prompts(player, self.venv, self.count, self.settings.greedy)
        values = [self._contested(info) for info in infos]
        if self._baseline is None:
            self._baseline = values
        prompts = [self.venv.prompts[i] for i in range(self.count)]
        drift = self._drift([info["completion_ids"] for info in infos])
        rows = zip(prompts, infos, drift, wins(values, self._baseline), strict=True)
        tokenizer = self.venv.batch.tokenizer
        return [
            HeldOutAnswer(
                prompt, info, tuple(token_pieces(tokenizer, info["completion_ids"])), kl, h, win
            )
            for prompt, info, (kl, h), win in rows
        ]

    def metrics(self, answers: Sequence[HeldOutAnswer]) -> dict[str, float | None]:
        """Return what a checkpoint is summed up by; docs/measures.md explains each."""
        texts = [answer.info["completion"] for answer in answers]
        scored = [answer.info for answer in answers if answer.info["scored"]]
        terms = term_metrics(scored) if scored else {}
        copied = [copied_fraction(a.info["completion"], context_texts(a.prompt)) for a in answers]
        seed, n_texts = self.settings.seed, self.settings.self_bleu_texts
        return {
            "proxy": mean_of([answer.proxy for answer in answers]),
            "kl_sequence": mean_of([answer.sequence_kl for answer in answers]),
            "kl_token": _token_mean([answer.kl for answer in answers]),
            "entropy": _token_mean([answer.entropy for answer in answers]),
            "distinct_1": distinct_n(texts, 1),
            "distinct_2": distinct_n(texts, 2),
            "self_bleu": self_bleu(texts, seed=seed, n_texts=n_texts),
            "length": float(np.mean([len(answer.info["completion_ids"]) for answer in answers])),
            "copied_fraction": float(np.mean(copied)),
            "win_rate": mean_of([answer.win for answer in answers]),
            **{
                f"gold/{name}": mean_of([a.gold[name] for a in answers]) for name in answers[0].gold
            },
            **{
                f"term/{name.removeprefix('reward/')}": finite(value)
                for name, value in terms.items()
                if name.startswith("reward/")
            },
        }

    def _contested(self, info: Mapping[str, Any]) -> float | None:
        """Return what decides who wins."""
        if self.settings.gold is not None:
            return finite(info["metrics"][self.settings.gold])
        return finite(info["task_reward"]) if info["scored"] else None

    def _drift(
        self, completions: Sequence[Sequence[int]]
    ) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """Return for each answer the KL to the reference and the entropy before each token."""
        policy, reference = self.policy, self.reference
        if policy is None or reference is None:
            return [(None, None)] * len(completions)
        ids, mask, start = finished_rows(self.venv.batch, completions)
        device = policy.device
        rows = max(1, LOGITS_AT_ONCE // (policy.vocab_size * (ids.shape[1] - start)))
        found: list[tuple[np.ndarray | None, np.ndarray | None]] = []
        for at in range(0, len(ids), rows):
            part = torch.from_numpy(ids[at : at + rows]).to(device)
            seen = torch.from_numpy(mask[at : at + rows]).to(device)
            both = full_kl_and_entropy(policy, reference, part, seen, start)
            kl, entropy = (table.cpu().numpy().astype(np.float64) for table in both)
            lengths = mask[at : at + rows, start:].sum(1, dtype=np.int64).tolist()
            found += [(kl[i, :n], entropy[i, :n]) for i, n in enumerate(lengths)]
        return found


def finished_rows(
    batch: Any, completions: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the observations at the end of answers to the first prompts.

    Args:
        batch: The environment's `EpisodeBatch`.
        completions: Token ids, answer i to prompt i.

    Returns:
        int64 [B, P + T] tokens, int8 [B, P + T] mask, and P; T is that of the longest answer.
    """
    start = batch.num_prompt_columns
    shape = (len(completions), start + max(map(len, completions)))
    ids = np.full(shape, batch.tokenizer.pad_id, np.int64)
    mask = np.zeros(shape, np.int8)
    for row, completion in enumerate(completions):
        _, prompt_ids, _ = batch.encoded(row)
        columns = slice(start - len(prompt_ids), start + len(completion))
        ids[row, columns] = [*prompt_ids.tolist(), *completion]
        mask[row, columns] = 1
    return ids, mask, start


def finite(value: float) -> float | None:
    """Return a number, None if it is NaN or infinite: JSON has no word for these."""
    number = float(value)
    return number if np.isfinite(number) else None


def _finite_values(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in values.items()}


def _token_mean(rows: Sequence[np.ndarray | None]) -> float | None:
    """Return the mean over all tokens of all answers."""
    there = [row for row in rows if row is not None]
    return finite(np.concatenate(there).mean()) if there else None
