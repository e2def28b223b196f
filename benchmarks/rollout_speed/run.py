"""How fast are tokens sampled through the environment, against a bare loop and `generate`?

`python benchmarks/rollout_speed/run.py` measures `agents.rollout.collect` beside two ways that
know no environment, in alternation and with the same randomly initialised model, and writes
README.md beside this file.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from agents.policy import CausalLMPolicy
from agents.rollout import Rollout, collect
from textenvs.masks import BoundMask, MaskSetting, Rows, TokenMask
from textenvs.symbols import SymbolTokenizer
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.action_mask import VectorActionMask

HERE = Path(__file__).parent
ALPHABET = "".join(chr(0x4E00 + i) for i in range(4094))
BATCH, PROMPT, RESPONSE = 64, 96, 32
SHORTEST, LONGEST, EPISODES = 4, 64, 256
GROUP = 8
KINDS = {"float32": False, "bfloat16": True}
TEXT = """# Speed of the rollout

Command: `OMP_NUM_THREADS=1 python benchmarks/rollout_speed/run.py --repeats {repeats}`.

Machine: {machine}

A randomly initialised Llama of 6.8 million weights (6 layers, width 256, feed-forward 688, \
vocabulary 4,096), prompts of 96 tokens, chance at temperature 1 over the whole vocabulary. \
The ways take turns, float32 and bfloat16 autocast too; medians of {repeats} repetitions after a \
warm-up. Only tokens of answers are counted. *Peak* is the resident memory that sampling once \
takes in a fresh process (Linux).

- `collect` is `agents.rollout.collect`: it steps the environment, scores the answers and \
returns log-probabilities. The others know no environment, no reward and no log-probability.
- The bare loop calls the model with a `DynamicCache`, then softmax and `torch.multinomial`.
- `generate` is `transformers.generate` with `do_sample=True, top_k=0`, all answers of a batch \
equally long.
- Drawn lengths are uniform and belong to the prompts: an action mask allows EOS at the drawn \
token alone and never before. `generate` answers the same prompts, 64 at a time, each batch to \
its longest.

{sections}"""


class DrawnLengths(TokenMask):
    """Ends each answer at the length its prompt was given, whatever the policy says."""

    def bind(self, setting: MaskSetting) -> BoundMask:
        """Return the mask for one environment."""
        return BoundDrawnLengths(setting.tokenizer.eos_id)


class BoundDrawnLengths:
    """`DrawnLengths` at work."""

    def __init__(self, eos_id: int) -> None:
        """Remember what ends an answer."""
        self.eos_id = eos_id

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Allow EOS alone at the last token, and everything else before."""
        prompts = zip(rows.prompts, rows.completions, strict=True)
        last = [len(said) + 1 >= prompt.metadata["length"] for prompt, said in prompts]
        allowed[:] = ~np.array(last)[:, None]
        allowed[:, self.eos_id] = last


class Way(NamedTuple):
    """One way to sample.

    Attributes:
        name: As the table says it.
        sample: Samples once; returns the tokens that belong to an answer.
    """

    name: str
    sample: Callable[[], int]


class Speed(NamedTuple):
    """Tokens a second over the repetitions."""

    median: float
    lowest: float
    highest: float


def make_model() -> Any:
    """Return a Llama of 6.8 million random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        vocab_size=len(ALPHABET) + 2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def make_prompts() -> list[Prompt]:
    """Return prompts of 96 tokens, each with the length of its answer."""
    generator = np.random.default_rng(0)
    letters = generator.choice(list(ALPHABET), (1024, PROMPT))
    lengths = generator.integers(SHORTEST, LONGEST + 1, 1024).tolist()
    return [
        Prompt(id=str(i), text="".join(line), metadata={"length": length})
        for i, (line, length) in enumerate(zip(letters, lengths, strict=True))
    ]


def distinct_symbols(prompt: Prompt, completion: str) -> float:
    """Score an answer by its different symbols: a reward that costs nothing."""
    return float(len(set(completion)))


def make_venv(*, drawn: bool, samples: int = 1) -> Any:
    """Return the environment; with `drawn`, answers have the lengths of their prompts."""
    tokenizer = SymbolTokenizer(ALPHABET)
    venv = TextVectorEnv(
        make_prompts(),
        distinct_symbols,
        tokenizer,
        BATCH,
        samples_per_prompt=samples,
        max_prompt_tokens=PROMPT,
        max_new_tokens=LONGEST if drawn else RESPONSE,
    )
    venv.reset(seed=0)
    return VectorActionMask(venv, DrawnLengths()) if drawn else venv


def autocast(bfloat16: bool) -> AbstractContextManager[Any]:
    """Return bfloat16 autocast, or nothing."""
    return torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()


@torch.no_grad()
def bare_loop(model: Any, prompts: Tensor, length: int, bfloat16: bool) -> int:
    """Sample with a `DynamicCache` and nothing else, as one would by hand."""
    generator = torch.Generator().manual_seed(0)
    last = prompts
    with autocast(bfloat16):
        cache = DynamicCache(config=model.config)
        for _ in range(length):
            output = model(input_ids=last, past_key_values=cache, use_cache=True, logits_to_keep=1)
            law = output.logits[:, -1].float().softmax(-1)
            last = torch.multinomial(law, 1, generator=generator)
    return len(prompts) * length


@torch.no_grad()
def generate(model: Any, prompts: Tensor, length: int, bfloat16: bool) -> int:
    """Sample with `transformers.generate`, all answers of one length."""
    with autocast(bfloat16):
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=0,
        )
    return len(prompts) * length


def generate_batches(model: Any, rollout: Rollout | None, bfloat16: bool) -> int:
    """Answer a rollout's prompts with answers as long as its own, a batch at a time.

    A batch goes on to its longest answer; only the tokens of the answers are counted.
    """
    assert rollout is not None
    prompts, lengths = torch.from_numpy(rollout.input_ids[:, :PROMPT]), rollout.lengths
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        generate(model, prompts[part], int(lengths[part].max()), bfloat16)
    return int(lengths.sum())


class Collecting:
    """Rollouts of one environment, with the same seed each time."""

    def __init__(self, model: Any, bfloat16: bool, venv: Any, episodes: int = BATCH) -> None:
        """Wrap the model as a policy."""
        self.policy = CausalLMPolicy(model, bfloat16=bfloat16)
        self.venv, self.episodes = venv, episodes
        self.newest: Rollout | None = None

    def __call__(self) -> int:
        """Return the tokens of a rollout, which is kept as `newest`."""
        generator = torch.Generator().manual_seed(0)
        self.newest = collect(self.policy, self.venv, generator=generator, episodes=self.episodes)
        return int(self.newest.lengths.sum())


def equal_lengths(model: Any, bfloat16: bool) -> list[Way]:
    """Return the three ways to give answers of 32 tokens."""
    venv = make_venv(drawn=False)
    prompts = torch.from_numpy(venv.reset(seed=0)[0]["input_ids"][:, :PROMPT])
    return [
        Way("`collect`", Collecting(model, bfloat16, venv)),
        Way("bare loop", lambda: bare_loop(model, prompts, RESPONSE, bfloat16)),
        Way("`generate`", lambda: generate(model, prompts, RESPONSE, bfloat16)),
    ]


def drawn_lengths(model: Any, bfloat16: bool) -> list[Way]:
    """Return two ways to give 256 answers of 4 to 64 tokens to the same prompts."""
    ours = Collecting(model, bfloat16, make_venv(drawn=True), EPISODES)
    return [
        Way("`collect`", ours),
        Way("`generate`", lambda: generate_batches(model, ours.newest, bfloat16)),
    ]


def shared_prompts(model: Any, bfloat16: bool) -> list[Way]:
    """Return rollouts of 8 samples a prompt and of a prompt a row."""
    return [
        Way(f"{n} a prompt", Collecting(model, bfloat16, make_venv(drawn=False, samples=n)))
        for n in (GROUP, 1)
    ]


SHAPES: dict[str, Callable[[Any, bool], list[Way]]] = {
    f"Answers of {RESPONSE} tokens, {BATCH} rows": equal_lengths,
    f"{EPISODES} answers of {SHORTEST} to {LONGEST} tokens, {BATCH} rows": drawn_lengths,
    f"Samples that share prompts, {RESPONSE} tokens, {BATCH} rows": shared_prompts,
}


def measured(ways: dict[str, list[Way]], repeats: int) -> dict[str, dict[str, Speed]]:
    """Return the speed of each way in each type, all in turn; a first round warms up."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats + 1):
        for kind, of_kind in ways.items():
            for way in of_kind:
                began = time.perf_counter()
                tokens = way.sample()
                speed = tokens / (time.perf_counter() - began)
                speeds.setdefault((kind, way.name), []).append(speed)
    found: dict[str, dict[str, Speed]] = {kind: {} for kind in ways}
    for (kind, name), every in speeds.items():
        kept = every[1:]
        found[kind][name] = Speed(statistics.median(kept), min(kept), max(kept))
    return found


def peak_growth(shape: str, kind: str, way: int) -> float:
    """Return how many MiB sampling takes at its peak, in this process, which is a fresh one."""
    torch.set_num_threads(1)
    ways = SHAPES[shape](make_model(), KINDS[kind])
    if ways[way].name == "`generate`" and SHAPES[shape] is drawn_lengths:
        ways[0].sample()  # whose prompts and lengths it is given; it frees more than it leaves
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    ways[way].sample()
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    """Return KiB of resident memory: "VmRSS" of now, "VmHWM" at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def table(shape: str, repeats: int) -> list[str]:
    """Measure a shape in both types; return the lines of its section."""
    lines = [
        f"## {shape}",
        "",
        "| type | way | tokens/s, median | lowest | highest | first row over it | peak, MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    model = make_model()
    speeds = measured(
        {kind: SHAPES[shape](model, bfloat16) for kind, bfloat16 in KINDS.items()}, repeats
    )
    context = multiprocessing.get_context("spawn")
    for kind, of_kind in speeds.items():
        ours = next(iter(of_kind.values())).median
        for number, (name, speed) in enumerate(of_kind.items()):
            with context.Pool(1) as pool:
                peak = pool.apply(peak_growth, (shape, kind, number))
            lines.append(
                f"| {kind} | {name} | {speed.median:,.0f} | {speed.lowest:,.0f} | "
                f"{speed.highest:,.0f} | {ours / speed.median:.2f} | {peak:,.0f} |"
            )
        print("\n".join(lines[-len(of_kind) :]), flush=True)
    return [*lines, ""]


def main() -> None:
    """Measure everything and write README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds of each way")
    parser.add_argument("--out", type=Path, default=HERE / "README.md", help="where to write")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    logging.set_verbosity_error()
    sections = [line for shape in SHAPES for line in table(shape, options.repeats)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    machine = (
        f"{platform.machine()}, {os.cpu_count()} processors, CPU only, "
        f"{torch.get_num_threads()} threads. {versions}."
    )
    text = TEXT.format(repeats=options.repeats, machine=machine, sections="\n".join(sections))
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
