"""`textenvs pretrain`: a causal language model on running text."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.command_line.console import Console, metrics_table
from agents.command_line.held_out import as_lists, named_model, print_resolved
from agents.command_line.settings import Options, read_settings
from agents.config import Adapter
from agents.evaluation import Interval
from agents.modeling.architecture import Architecture, build_causal_lm
from agents.perplexity import perplexity
from agents.policy import CausalLMPolicy
from agents.pretraining import PretrainingConfig
from agents.pretraining import pretrain as train_on_texts
from agents.pretraining_texts import DocumentRule, load_documents, texts_of
from agents.publishing import ModelCard, check_repository, finish_stage
from agents.runs import RunFolder, free_folder, plain
from agents.tokenizer_training import train_tokenizer
from textenvs.errors import ConfigError
from textenvs.tokenization import TINY_LM, TextTokenizer, load_tokenizer

TITLE = "Perplexity a token, 95% intervals over documents"


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """Train a causal language model on running text, from scratch or continued.

    Attributes:
        data: "films", "bbc-news", "movie-reviews", or a file: text (.txt), or CSV, TSV,
            JSON, JSON-lines, Parquet with a column of texts or of titles and categories; may
            be repeated.
        text_column: Column of a table that holds the text; by default "text".
        documents: What is one document of a text file: a "paragraph" (between blank
            lines), a "line", or the whole "file". A document is learned or held out whole.
        model: Continue this model ("tiny-lm", "smollm2-135m", a run folder, a Hugging Face
            folder, a hub name); none builds one from scratch, see --architecture.
        tokenizer: From scratch: use the tokenizer of this model.
        train_tokenizer: From scratch: train a byte-level BPE of so many tokens on the text.
        lora: Continue with low-rank adapters; see --adapter.
        adapter: "merge" saves a plain model; "keep" the adapters alone, for peft, which name
            their base.
        out: Run folder; by default runs/pretrain-SEED.
        seed: Decides the initial weights and the order of the blocks.
        eval_documents: Held-out documents whose perplexity is measured before and after; 0
            holds out nothing and learns all of the text.
        push_to_hub: Also upload the model to this repository of the Hugging Face hub.
        architecture: Of a model from scratch.
        training: Settings of the training.
    """

    data: Annotated[Options, tyro.conf.arg(aliases=["-d"])] = ()
    text_column: str | None = None
    documents: DocumentRule = "paragraph"
    model: str | None = None
    tokenizer: str | None = None
    train_tokenizer: int | None = None
    lora: bool = False
    adapter: Adapter = "merge"
    out: Path | None = None
    seed: int = 0
    eval_documents: int = 200
    push_to_hub: str | None = None
    architecture: Architecture = dataclasses.field(default_factory=Architecture)
    training: PretrainingConfig = dataclasses.field(default_factory=PretrainingConfig)


def pretrain(arguments: Sequence[str], console: Console) -> int:
    """Pretrain a model and keep a run folder."""
    settings, dry_run = read_settings(PretrainSettings, arguments, command="pretrain")
    _check(settings)
    if settings.model is not None:
        settings = dataclasses.replace(settings, model=named_model(settings.model))
    if print_resolved(settings, dry_run, console):
        return 0
    train, held_out = _texts(settings)
    policy, tokenizer = _model(settings, train)
    run = RunFolder(settings.out or free_folder(f"pretrain-{settings.seed}"), settings)
    console.say(
        f"{len(train)} documents to learn, {len(held_out)} held-out ones measured; "
        f"{tokenizer.vocab_size} tokens in the vocabulary, "
        f"{sum(p.numel() for p in policy.model.parameters())} weights"
    )
    table: dict[str, dict[str, Interval]] = {}

    def judge(stage: str) -> None:
        if held_out:
            block = settings.training.block_tokens
            found = perplexity(policy, tokenizer, held_out, block_tokens=block)
            table[stage] = {"perplexity": found}

    judge("before")
    _train(policy, tokenizer, train, settings, run, console)
    judge("after")
    last = policy.save_pretrained(run.checkpoint(settings.training.steps), settings.adapter)
    if table:
        console.print(metrics_table(TITLE, table, ["perplexity"]))
    card = _card(settings, arguments, table.get("after", {}))
    pushed = finish_stage(run, last, card, as_lists(table), push_to_hub=settings.push_to_hub)
    console.say(f"Run folder: {run.path}\nModel: {last}")
    if pushed is not None:
        console.say(f"Pushed: {pushed}")
    return 0


def _card(
    settings: PretrainSettings, arguments: Sequence[str], metrics: Mapping[str, Interval]
) -> ModelCard:
    return ModelCard(
        stage="pretrain",
        base_model=settings.model or "",
        data=f"{', '.join(settings.data)}; documents joined by EOS and cut into blocks.",
        command=shlex.join(["textenvs", "pretrain", *arguments]),
        settings=plain(settings),
        metrics=metrics,
        notes=(
            "Perplexity is a token's, on held-out documents, so it compares models of one "
            "tokenizer only.",
        ),
    )


def _check(settings: PretrainSettings) -> None:
    """Refuse settings that do not go together."""
    if settings.push_to_hub is not None:
        check_repository(settings.push_to_hub)
    if settings.adapter == "keep" and not settings.lora:
        raise ConfigError("--adapter keep needs adapters; add --lora and --model")
    if not settings.data:
        raise ConfigError(
            "pretraining needs text: --data films, bbc-news, movie-reviews, or the path of a file"
        )
    if settings.eval_documents < 0:
        raise ConfigError(f"eval_documents must be at least 0, got {settings.eval_documents}")
    if settings.model is None:
        if settings.lora:
            raise ConfigError("--lora adapts a trained model; name one with --model")
        if settings.tokenizer is not None and settings.train_tokenizer is not None:
            raise ConfigError("--tokenizer and --train-tokenizer exclude each other; drop one")
        return
    if settings.tokenizer is not None or settings.train_tokenizer is not None:
        raise ConfigError(
            f"the weights of {settings.model!r} are for its own tokenizer; leave out --tokenizer "
            "and --train-tokenizer, or leave out --model to begin from scratch"
        )
    if settings.architecture != Architecture():
        raise ConfigError(
            f"--architecture is that of a model from scratch, but --model {settings.model} is "
            "continued; drop one of the two"
        )


def _texts(settings: PretrainSettings) -> tuple[list[str], list[str]]:
    """Return the texts to learn and the held-out ones to measure."""
    documents = [
        document
        for source in settings.data
        for document in load_documents(
            source, text_column=settings.text_column, documents=settings.documents
        )
    ]
    if not settings.eval_documents:
        return texts_of(documents, None), []
    held_out = texts_of(documents, "held-out")[: settings.eval_documents]
    return texts_of(documents, "train"), held_out


def _model(
    settings: PretrainSettings, train: Sequence[str]
) -> tuple[CausalLMPolicy, TextTokenizer]:
    if settings.model is not None:
        policy = CausalLMPolicy.from_pretrained(settings.model, lora=settings.lora)
        if policy.tokenizer is None:
            raise ConfigError(f"{settings.model!r} has no tokenizer beside it, so it reads no text")
        return policy, policy.tokenizer
    if settings.train_tokenizer is not None:
        context = settings.architecture.context
        tokenizer: TextTokenizer = train_tokenizer(train, settings.train_tokenizer, context=context)
    else:
        named = TINY_LM if settings.tokenizer is None else named_model(settings.tokenizer)
        tokenizer = load_tokenizer(named)
    model = build_causal_lm(settings.architecture, tokenizer, seed=settings.seed)
    return CausalLMPolicy(model, tokenizer=tokenizer), tokenizer


def _train(
    policy: CausalLMPolicy,
    tokenizer: TextTokenizer,
    train: Sequence[str],
    settings: PretrainSettings,
    run: RunFolder,
    console: Console,
) -> None:
    config = settings.training
    with console.progress("Pretraining", config.steps) as advance:

        def log(values: Mapping[str, Any]) -> None:
            run.log(values)
            advance(f"loss {values['loss']:.3f}  epoch {values['epoch']:.2f}")

        train_on_texts(policy, tokenizer, train, config, seed=settings.seed, log=log)
