"""`textenvs rm`: a reward model, or several, trained on ranked answers and judged on others."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from transformers.utils import logging as transformers_logging

from agents.command_line.console import Console, metrics_table
from agents.command_line.held_out import metric_names, print_resolved
from agents.command_line.settings import read_settings
from agents.config import LoRAConfig
from agents.evaluation import Interval
from agents.preferences import Ranking, pairs, read_rankings, split_by_group
from agents.publishing import (
    ModelCard,
    check_repository,
    folder_kind,
    push_folder,
    stage_model,
    write_card,
)
from agents.reward_modeling import training
from agents.reward_modeling.calibration import Calibration, plot_calibration
from agents.reward_modeling.config import RewardModelingConfig
from agents.reward_modeling.held_out import (
    HeldOutReport,
    judge_reward_models,
    refuse_shared_groups,
)
from agents.reward_modeling.training import TrainedRewardModel, steps_of
from agents.runs import RunFolder, free_folder, plain
from agents.validation import count, require
from textenvs.errors import ConfigError, MissingDependencyError, ModelError
from textenvs.rewards.learned.similarity import MINILM

TITLE = "Held-out rankings, 95% intervals over prompts"
PLOT = "calibration.svg"


@dataclasses.dataclass(frozen=True)
class RewardModelSettings:
    """Train a reward model on ranked answers, and judge it on rankings held out.

    Attributes:
        rankings: File of rankings or of chosen and rejected answers, as `textenvs
            preferences` writes it.
        held_out: Another such file to judge on; no group may stand in both.
        held_out_share: Without it, the share of the groups of `rankings` to judge on.
        model: What to begin from: "tiny-lm", "smollm2-135m", "minilm" (an encoder), a run
            folder of pretrain, sft or rm, a Hugging Face folder, a hub name.
        out: Run folder; by default runs/rm-SEED.
        lora: Train low-rank adapters and the head; they are merged when saved.
        ensemble: Reward models to train, with the seeds SEED, SEED + 1, ...
        seed: Decides the split, the head and the order of the rankings.
        device: "cpu", "cuda", ...
        push_to_hub: Also upload the model to this repository of the Hugging Face hub.
        rm: Settings of the training.
    """

    rankings: Path | None = None
    held_out: Path | None = None
    held_out_share: float = 0.2
    model: str = "tiny-lm"
    out: Path | None = None
    lora: bool = False
    ensemble: int = 1
    seed: int = 0
    device: str = "cpu"
    push_to_hub: str | None = None
    rm: RewardModelingConfig = dataclasses.field(default_factory=RewardModelingConfig)


def train_reward_model(arguments: Sequence[str], console: Console) -> int:
    """Train, judge and keep a run folder."""
    settings, dry_run = read_settings(RewardModelSettings, arguments, command="rm")
    _check(settings)
    if print_resolved(settings, dry_run, console):
        return 0
    transformers_logging.set_verbosity_error()  # that the head is new is what is wanted
    train, test = _rankings(settings, console)
    model = _starting_model(settings.model, console)
    run = RunFolder(settings.out or free_folder(f"rm-{settings.seed}"), settings)
    members = _train(settings, model, train, run, console)
    _say_how_it_went(members, console)
    rewards = {path.name: member.reward for path, member in members.items()}
    report = judge_reward_models(rewards, test, train, seed=settings.seed)
    _show(report, console)
    _plot({name: found.calibration for name, found in report.judged.items()}, run, console)
    pushed = _finish(settings, arguments, members, report, run)
    folders = "\n".join(f"Model: {path}" for path in members)
    console.say(f"Run folder: {run.path}\n{folders}")
    if pushed is not None:
        console.say(f"Pushed: {pushed}")
    return 0


def _check(settings: RewardModelSettings) -> None:
    """Refuse settings that cannot work."""
    count(settings, "ensemble")
    require(settings, "held_out_share", "above 0 and below 1", lambda value: 0 < value < 1)
    if settings.rankings is None:
        raise ConfigError(
            "--rankings FILE is needed: ranked answers, as `textenvs preferences` writes them"
        )
    if settings.push_to_hub is not None:
        check_repository(settings.push_to_hub)
        if settings.ensemble > 1:
            raise ConfigError(
                f"--push-to-hub takes one model, and --ensemble {settings.ensemble} makes several; "
                "leave one of the two out, or push the members' folders with `hf upload`"
            )


def _rankings(
    settings: RewardModelSettings, console: Console
) -> tuple[Sequence[Ranking], Sequence[Ranking]]:
    """Return what to train on and what to judge on, and print how much there is."""
    assert settings.rankings is not None, "checked before"
    found = read_rankings(settings.rankings)
    train: Sequence[Ranking] = found.rankings
    notes, counts = list(found.notes), dict(found.counts)
    if settings.held_out is not None:
        other = read_rankings(settings.held_out)
        test: Sequence[Ranking] = other.rankings
        notes += other.notes
        counts = {k: counts.get(k, 0) + other.counts.get(k, 0) for k in {**counts, **other.counts}}
        refuse_shared_groups(train, test)
    else:
        train, test = split_by_group(train, held_out=settings.held_out_share, seed=settings.seed)
    for words, part in (("train on", train), ("held out", test)):
        console.say(f"{words}: {_amount(part)}")
    for what, number in counts.items():
        if number:
            console.say(f"left out or merged: {number} {what}")
    for note in notes:
        console.say(f"note: {note}")
    return train, test


def _amount(rankings: Sequence[Ranking]) -> str:
    answers = sum(len(ranking.answers) for ranking in rankings)
    return f"{len(rankings)} rankings, {answers} answers, {len(pairs(rankings))} pairs"


def _starting_model(name: str, console: Console) -> str:
    """Return the folder or hub name of a language model, an encoder or a reward model."""
    if name == MINILM:
        return name
    try:
        found = stage_model(name, wants="causal-lm")
    except ModelError as error:
        try:
            found = stage_model(name, wants="reward-model")
        except ModelError:
            raise error from None
    if Path(found).is_dir() and folder_kind(Path(found)) == "reward-model":
        console.say(f"{found} is a reward model: its training goes on, its head is kept")
    return found


def _train(
    settings: RewardModelSettings,
    model: str,
    train: Sequence[Ranking],
    run: RunFolder,
    console: Console,
) -> dict[Path, TrainedRewardModel]:
    """Return the members by their folder."""
    steps = steps_of(len(train), settings.rm)
    members = {}
    for seed in range(settings.seed, settings.seed + settings.ensemble):
        alone = settings.ensemble == 1
        folder = run.checkpoint(steps) if alone else run.path / "checkpoints" / f"seed-{seed}"
        with console.progress(f"RM, seed {seed}", steps) as advance:

            def log(values: Mapping[str, Any], seed: int = seed) -> None:
                run.log({"seed": seed, **values})
                advance(f"loss {values['loss']:.3f}  accuracy {values['accuracy']:.2f}")

            members[folder] = training.train_reward_model(
                train,
                folder,
                model=model,
                config=settings.rm,
                lora=LoRAConfig() if settings.lora else None,
                seed=seed,
                device=settings.device,
                name="reward_model" if alone else f"rm_{seed}",
                log=log,
            )
    return members


def _say_how_it_went(members: Mapping[Path, TrainedRewardModel], console: Console) -> None:
    trained = next(iter(members.values()))
    how = "computed once for all" if trained.shares_prompts else "computed anew for each"
    console.say(f"prompts were {how} of their answers")
    if trained.cut:
        console.say(
            f"{trained.cut} texts were longer than {trained.longest} tokens and lost their "
            "beginning; --rm.max-tokens, or a model that reads more, changes that"
        )
    if trained.pads_with_eos:
        console.say(
            "the padding of this model is its end-of-text token: a text is scored at the last "
            "token that is not one"
        )


def _show(report: HeldOutReport, console: Console) -> None:
    """Print what the models are worth, and their calibration."""
    table = {
        name: {metric: value for metric, value in row.items() if isinstance(value, Interval)}
        for name, row in report.metrics().items()
    }
    console.print(metrics_table(TITLE, table, metric_names(table)))
    console.say(
        f"{report.pairs} pairs of {report.prompts} prompts. The length ruler ({report.ruler.words}"
        f", chosen on the training data) is right in {report.ruler_accuracy.mean:.3f} of them."
    )
    for name, found in report.judged.items():
        console.print(_calibration_table(name, found.calibration))


def _calibration_table(name: str, calibration: Calibration) -> Table:
    table = Table(title=f"Calibration of {name}: expected error {calibration.error:.3f}")
    for column in ("probability", "pairs", "predicted", "observed"):
        table.add_column(column, justify="right")
    for part in calibration.bins:
        cells = f"{part.low:.2f}..{part.high:.2f}", f"{part.pairs}"
        table.add_row(*cells, f"{part.predicted:.3f}", f"{part.observed:.3f}")
    return table


def _plot(calibrations: Mapping[str, Calibration], run: RunFolder, console: Console) -> None:
    try:
        plot_calibration(calibrations, run.path / PLOT)
    except MissingDependencyError as error:
        console.say(f"no plot: {error}")
    else:
        console.say(f"Calibration plot: {run.path / PLOT}")


def _finish(
    settings: RewardModelSettings,
    arguments: Sequence[str],
    members: Mapping[Path, TrainedRewardModel],
    report: HeldOutReport,
    run: RunFolder,
) -> str | None:
    """Write the cards and the manifest; push if asked, and return the address."""
    metrics = report.metrics()
    for folder, member in members.items():
        card = ModelCard(
            stage="rm",
            base_model=settings.model,
            data=f"Rankings of {settings.rankings}; {report.pairs} pairs of {report.prompts} "
            "prompts were held out, groups kept whole.",
            command=shlex.join(["textenvs", "rm", *arguments]),
            settings=plain(settings),
            metrics=metrics[folder.name],
            notes=(
                f"Scores have mean 0 and variance 1 on the answers it was trained on: the logit "
                f"less {member.reward.mean:.4g}, over {member.reward.std:.4g}.",
                f"The length ruler that it has to beat says that {report.ruler.words}.",
                "Trained on all pairs of a prompt at once (arXiv:2203.02155, eq. 1).",
            ),
        )
        write_card(folder, card)
    summary = {
        "prompts": report.prompts,
        "pairs": report.pairs,
        "ruler": report.ruler.words,
        **metrics,
        "calibration": {k: dataclasses.asdict(v.calibration) for k, v in report.judged.items()},
    }
    run.finish(summary)
    if settings.push_to_hub is None:
        return None
    return push_folder(next(iter(members)), settings.push_to_hub)
