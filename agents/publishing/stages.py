"""From the name of a stage to the model that it made.

A run folder (`agents.runs`) keeps models under `checkpoints/`: `step-N`, of which the last
counts, or one with a name. What kind of model a folder holds is read from its `config.json`
or `adapter_config.json`, as Hugging Face writes them, so folders from elsewhere serve too.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from agents.runs import MANIFEST
from textenvs.errors import CheckpointError, ConfigError, ModelError, UnknownNameError
from textenvs.models import model_folder

ModelKind = Literal["causal-lm", "reward-model"]

CONFIG, ADAPTER_CONFIG, STAGE_FILE = "config.json", "adapter_config.json", "stage.json"
MAKERS: Mapping[str, str] = {
    "causal-lm": "textenvs sft --model NAME (or pretrain, dpo, train) makes a language model",
    "reward-model": "textenvs rm --rankings FILE makes a reward model",
}
"""Kind -> the command that makes it, for messages."""

_STEP = re.compile(r"step-(\d+)")


def stage_model(name: str | Path, wants: ModelKind = "causal-lm") -> str:
    """Return what `from_pretrained` takes for the model of a stage.

    Args:
        name: A finished run folder, whose last checkpoint of the wanted kind is taken; a
            checkpoint or any other Hugging Face folder; an alias ("tiny-lm"); a hub name,
            which goes through unread.
        wants: The kind of model that is needed.

    Returns:
        A folder or a hub name.

    Raises:
        CheckpointError: if the run is unfinished, or it is open which checkpoint is meant.
        ModelError: if the folder holds a model of another kind, or none; the message names
            the command that makes the right one.
        UnknownNameError: if there is no such folder, alias or kind.
    """
    if wants not in get_args(ModelKind):
        raise UnknownNameError("kind of model", wants, get_args(ModelKind))
    path = Path(name)
    if not path.is_dir():
        _refuse_missing(path)
        found = model_folder(name)
        if Path(found).is_dir():
            _require_kind(Path(found), wants)
        return found
    if not is_model(path) and (path / "checkpoints").is_dir():
        return str(_last_checkpoint(path, wants))
    if not is_model(path):
        raise ModelError(
            f"{str(path)!r} holds neither a model ({CONFIG}) nor a run (checkpoints/); "
            f"{MAKERS[wants]}"
        )
    _require_kind(path, wants)
    return str(path)


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a Hugging Face model or an adapter for one."""
    return (folder / CONFIG).is_file() or (folder / ADAPTER_CONFIG).is_file()


def folder_kind(folder: Path) -> str | None:
    """Return the kind of model in a folder.

    Returns:
        "causal-lm", "reward-model" (a classifier with one label), another architecture's
        name, or None where the folder does not say.

    Raises:
        ModelError: if its description is no JSON object.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        task = str(_json_object(folder / ADAPTER_CONFIG).get("task_type"))
        kinds = {"CAUSAL_LM": "causal-lm", "SEQ_CLS": "reward-model", "None": None}
        return kinds.get(task, f"adapter for {task}")
    if not (folder / CONFIG).is_file():
        return None
    config = _json_object(folder / CONFIG)
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal-lm"
    if architecture.endswith("ForSequenceClassification"):
        # Two labels are the default of transformers, and then not written down.
        labels = len(config.get("id2label") or ("", ""))
        return "reward-model" if labels == 1 else f"classifier of {labels} labels"
    return architecture or None


def _require_kind(folder: Path, wants: ModelKind) -> None:
    """Refuse a model that is known to be of another kind.

    An architecture without a head can become either kind, so the loader judges it.
    """
    kind = folder_kind(folder)
    if kind == wants or kind is None or not (kind in MAKERS or kind.startswith("classifier")):
        return
    raise ModelError(f"{str(folder)!r} holds a {kind}, but a {wants} is needed; {MAKERS[wants]}")


def _last_checkpoint(run: Path, wants: ModelKind) -> Path:
    """Return the last checkpoint of a finished run that holds the wanted kind of model."""
    folders = sorted(p for p in (run / "checkpoints").iterdir() if p.is_dir())
    models = [p for p in folders if is_model(p) and not p.name.startswith(".")]
    if not (run / MANIFEST).is_file():
        rest = f", or name a checkpoint: {models[-1]}" if models else ""
        raise CheckpointError(
            f"the run {str(run)!r} is not finished: it has no {MANIFEST}; let it end, begin it "
            f"again{rest}"
        )
    fitting = [p for p in models if folder_kind(p) in (wants, None)]
    if not fitting:
        for folder in models:
            _require_kind(folder, wants)
        raise ModelError(f"the run {str(run)!r} holds no {wants}; {MAKERS[wants]}")
    numbered = {int(m[1]): p for p in fitting if (m := _STEP.fullmatch(p.name))}
    if numbered:
        return numbered[max(numbered)]
    if len(fitting) > 1:
        names = " or ".join(str(p) for p in fitting)
        raise CheckpointError(f"the run {str(run)!r} has several models; name one: {names}")
    return fitting[0]


def _refuse_missing(path: Path) -> None:
    """Refuse what can only be a path, since a hub's server would be asked for it otherwise."""
    if path.exists():
        raise ConfigError(f"{str(path)!r} is a file; name the folder of a run or a model")
    text, parent = str(path), path.parent
    if path.is_absolute() or text.startswith((".", "~")) or len(path.parts) > 2:
        known = [str(p) for p in sorted(parent.iterdir())] if parent.is_dir() else []
    elif len(path.parts) == 2 and parent.is_dir():  # "runs/sft-1" where runs/ is a folder
        known = [str(p) for p in sorted(parent.iterdir())]
    else:
        return
    raise UnknownNameError("run or model folder", text, known)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}; write the folder again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; write the folder again")
    return value
