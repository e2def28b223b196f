"""What does the K-wise loss cost, against single forwards and against pairs?

`python benchmarks/kwise_loss/run.py` scores the nine answers to each of some prompts in four
ways that take turns, forward alone and with the backward pass, and writes README.md beside
this file.
"""

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers.utils import logging

from agents.evaluation import Interval, bootstrap_mean
from agents.preferences import Ranking
from agents.reward_modeling import kwise_loss
from agents.reward_modeling.initialisation import begin_reward_model
from agents.reward_modeling.scorer import AnswerScorer, Rows
from textenvs.rewards.learned.model_texts import PLAIN_TEMPLATE

HERE = Path(__file__).parent
K = 9
PROMPTS = 2
MOST_TOKENS = 512
MODEL = "tiny-lm"
KINDS = {"float32": False, "bfloat16": True}
TEXT = """# What the K-wise loss costs

Command: `OMP_NUM_THREADS=1 python benchmarks/kwise_loss/run.py --repeats {repeats}`.

Machine: {machine}

K = {k} answers to each of {prompts} prompts of `textenvs/ContextSelect-v0` ({prompt_tokens} \
tokens a prompt and {answer_tokens} an answer, on average), ranked without ties: {pairs} pairs a \
prompt. The model is `{model}` with a head of one label. A prompt is one element of the batch. \
The ways take turns in an order drawn anew each round; after a round that warms up, {repeats} \
rounds are measured, in processor seconds of one thread (other work on the machine does not \
count). Ratios are of one round, their mean with a 95% bootstrap interval over rounds. *Peak* is \
the resident memory that one prompt takes at its peak, in a process that has computed nothing \
but a few tokens before (Linux).

- **K-wise, shared**: what `textenvs rm` does. One forward pass in which the prompt is computed \
once, and the loss over all pairs of its {k} scores.
- **K-wise, rows**: the same in {k} rows of one pass, as where the trunk is an encoder.
- **{k} singles**: {k} forward passes of one text each.
- **{pairs} pairs**: what a trainer that knows pairs alone does: {texts} texts, since every pair \
brings both of its own. *in one batch*: {texts} rows of one pass; *one by one*: {pairs} passes of \
two rows.

All five give the same loss: they differed by {difference:.0e} at most in float32.

{sections}

Memory: without gradients, single texts are forgotten one by one, so that {k} passes peak no \
higher than the longest of them, and a row that holds {k} answers somewhat higher. In training \
the graphs of all {k} are held at once, and the shared row takes the least of all ways.

**The promise** is a forward cost within 1.2 times of {k} singles, and at least 4 times cheaper \
than {pairs} pairs. Of the way that `textenvs rm` takes, with the ends of the intervals that speak \
against it: {verdict}
"""


class Way(NamedTuple):
    """One way to the loss of a prompt: its texts and their places in, a scalar out."""

    name: str
    loss: Callable[[Rows, Tensor], Tensor]


def rankings(count: int) -> list[Ranking]:
    """Return prompts with nine answers each, those to other prompts below the right one."""
    env: Any = gym.make("textenvs/ContextSelect-v0", n_items=8, max_prompt_tokens=256).unwrapped
    found = []
    for number in range(count):
        answers: list[str] = []
        for other in range(number, len(env.prompts)):
            answer = env.oracle(env.prompts[other])
            if answer and answer not in answers:
                answers.append(answer)
            if len(answers) == K:
                break
        prompt = env.prompts[number]
        found.append(Ranking(prompt.text, tuple(answers), tuple(range(K)), prompt.group))
    return found


def ways(bfloat16: bool) -> list[Way]:
    """Return the ways that are compared, ours first."""
    loaded = begin_reward_model(MODEL)
    shared = AnswerScorer(loaded, PLAIN_TEMPLATE, bfloat16=bfloat16)
    assert shared.shares_prompts
    apart = AnswerScorer(loaded, PLAIN_TEMPLATE, bfloat16=bfloat16)
    apart.shares_prompts = False

    def kwise(scores: Tensor, ranks: Tensor) -> Tensor:
        return kwise_loss(scores, ranks, torch.zeros_like(ranks))

    def ordered(ranks: Tensor) -> list[tuple[int, int]]:
        both = combinations(range(len(ranks)), 2)
        return [(i, j) if ranks[i] < ranks[j] else (j, i) for i, j in both]

    def singles(rows: Rows, ranks: Tensor) -> Tensor:
        return kwise(torch.cat([apart.scores([[row]]) for row in rows]), ranks)

    def pairs_at_once(rows: Rows, ranks: Tensor) -> Tensor:
        pairs = ordered(ranks)
        chosen, rejected = zip(*pairs, strict=True)
        scores = apart.scores([[rows[i] for i in (*chosen, *rejected)]])
        better, worse = scores.chunk(2)
        return -logsigmoid(better - worse).mean()

    def pairs_one_by_one(rows: Rows, ranks: Tensor) -> Tensor:
        losses = []
        for i, j in ordered(ranks):
            better, worse = apart.scores([[rows[i], rows[j]]])
            losses.append(-logsigmoid(better - worse))
        return torch.stack(losses).mean()

    return [
        Way("K-wise, shared", lambda rows, ranks: kwise(shared.scores([rows]), ranks)),
        Way("K-wise, rows", lambda rows, ranks: kwise(apart.scores([rows]), ranks)),
        Way(f"{K} singles", singles),
        Way("pairs in one batch", pairs_at_once),
        Way("pairs one by one", pairs_one_by_one),
    ]


def tokens_of(prompts: list[Ranking]) -> list[Rows]:
    """Return the texts of each prompt as the model reads them."""
    scorer = AnswerScorer(begin_reward_model(MODEL), PLAIN_TEMPLATE)
    return [scorer.rows(ranking, MOST_TOKENS)[0] for ranking in prompts]


def run(way: Way, rows: Rows, backward: bool) -> float:
    """Return the loss of a prompt by one way, after its backward pass if there is one."""
    ranks = torch.arange(K)
    with nullcontext() if backward else torch.no_grad():
        loss = way.loss(rows, ranks)
    if backward:
        loss.backward()
    return loss.item()


def measured(
    known: dict[str, list[Way]], prompts: list[Rows], repeats: int, backward: bool
) -> dict[str, dict[str, np.ndarray]]:
    """Return type -> way -> processor seconds a prompt in each round, float64 [repeats]."""
    rng = np.random.default_rng(0)
    seconds: dict[str, dict[str, list[float]]] = {
        kind: {way.name: [] for way in own} for kind, own in known.items()
    }
    for _ in range(repeats + 1):
        turns = [(kind, way) for kind, own in known.items() for way in own]
        for i in rng.permutation(len(turns)):
            kind, way = turns[i]
            began = time.process_time()
            for rows in prompts:
                run(way, rows, backward)
            seconds[kind][way.name].append((time.process_time() - began) / len(prompts))
    return {k: {w: np.array(v[1:]) for w, v in own.items()} for k, own in seconds.items()}


def greatest_difference(own: list[Way], prompts: list[Rows]) -> float:
    """Return by how much the losses of the ways differ at most."""
    losses = [[run(way, rows, False) for rows in prompts] for way in own]
    return float(np.ptp(losses, axis=0).max())


def peaks_of(known: dict[str, list[Way]], rows: Rows, backward: bool) -> dict[str, list[float]]:
    """Return type -> MiB that a prompt takes by each way; each is measured in a fork.

    Call it before anything else is computed: freed memory that a process keeps would hide
    what is taken.
    """
    context = multiprocessing.get_context("fork")
    found: dict[str, list[float]] = {}
    for kind, own in known.items():
        for way in own:
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_send_peak, args=(sender, way, rows, backward))
            child.start()
            found.setdefault(kind, []).append(receiver.recv())
            child.join()
    return found


def _send_peak(sender: Connection, way: Way, rows: Rows, backward: bool) -> None:
    run(way, [row[-8:] for row in rows], backward)  # what a first pass keeps for good
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    run(way, rows, backward)
    sender.send((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """Return KiB of resident memory: "VmRSS" of now, "VmHWM" at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def ratios(own: dict[str, np.ndarray], name: str) -> tuple[Interval, Interval]:
    """Return the cost of a way over that of the singles, and that of pairs over its own.

    Pairs are taken in their cheaper way.
    """
    cheaper = min((n for n in own if n.startswith("pairs")), key=lambda n: own[n].mean())
    return (
        bootstrap_mean(own[name] / own[f"{K} singles"]),
        bootstrap_mean(own[cheaper] / own[name]),
    )


def table(
    title: str, seconds: dict[str, dict[str, np.ndarray]], peaks: dict[str, list[float]]
) -> list[str]:
    """Return the lines of a section."""
    lines = [
        f"## {title}",
        "",
        f"| type | way | ms a prompt, median | over {K} singles | pairs over it | peak, MiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for kind, own in seconds.items():
        for (name, values), peak in zip(own.items(), peaks[kind], strict=True):
            over, under = (f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in ratios(own, name))
            median = 1e3 * np.median(values)
            lines.append(f"| {kind} | {name} | {median:,.0f} | {over} | {under} | {peak:,.1f} |")
    return [*lines, ""]


def verdict(seconds: dict[str, dict[str, np.ndarray]]) -> str:
    """Say whether the forward cost keeps the promise, in each type."""
    words = []
    for kind, own in seconds.items():
        over, under = ratios(own, next(iter(own)))
        kept = over.high <= 1.2 and under.low >= 4
        words.append(
            f"in {kind} at most {over.high:.2f} times the singles and at least {under.low:.1f} "
            f"times cheaper than pairs, so it is {'kept' if kept else 'broken'}"
        )
    return "; ".join(words) + "."


def main() -> None:
    """Measure everything and write README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=6, help="measured rounds of each way")
    parser.add_argument("--out", type=Path, default=HERE / "README.md", help="where to write")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = tokens_of(rankings(PROMPTS))
    known = {kind: ways(bfloat16) for kind, bfloat16 in KINDS.items()}
    peaks = [peaks_of(known, rows[0], backward) for backward in (False, True)]
    forward = measured(known, rows, options.repeats, backward=False)
    both = measured(known, rows, options.repeats, backward=True)
    sections = [
        *table("Forward alone", forward, peaks[0]),
        *table("Forward and backward", both, peaks[1]),
    ]
    shortest = [len(os.path.commonprefix(list(own))) for own in rows]
    answers = [len(row) - stem for own, stem in zip(rows, shortest, strict=True) for row in own]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    text = TEXT.format(
        repeats=options.repeats,
        machine=f"{platform.machine()}, {os.cpu_count()} processors, CPU only, "
        f"{torch.get_num_threads()} thread. {versions}.",
        k=K,
        prompts=PROMPTS,
        prompt_tokens=round(np.mean(shortest)),
        answer_tokens=round(np.mean(answers)),
        pairs=K * (K - 1) // 2,
        texts=K * (K - 1),
        model=MODEL,
        difference=greatest_difference(known["float32"], rows),
        sections="\n".join(sections).rstrip(),
        verdict=verdict(forward),
    )
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
