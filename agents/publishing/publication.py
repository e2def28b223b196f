"""What every stage does with its model folder: the card, the kind, and a push if asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.publishing.card import ModelCard
from agents.publishing.hub import push_folder
from agents.publishing.stages import ADAPTER_CONFIG, STAGE_FILE, folder_kind, is_model
from agents.runs import RunFolder, write_text
from textenvs.errors import ModelError

CARD_FILE = "README.md"


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the model card (`README.md`) and `stage.json` into a model's folder.

    Args:
        folder: As `save_pretrained` wrote it.
        card: What to say.

    Raises:
        ModelError: if the folder holds no model.
    """
    if not is_model(folder):
        raise ModelError(f"{str(folder)!r} holds no model; write it with save_pretrained first")
    kind = folder_kind(folder)
    text = card.render(kind or "causal-lm", adapter=(folder / ADAPTER_CONFIG).is_file())
    write_text(folder / CARD_FILE, text)
    stage = {"stage": card.stage, "kind": kind, "base_model": card.base_model}
    write_text(folder / STAGE_FILE, json.dumps(stage, indent=2, ensure_ascii=False) + "\n")


def publish(
    folder: Path, card: ModelCard, *, push_to_hub: str | None = None, private: bool = True
) -> None:
    """Write a model's card, and push the folder to a hub if that is asked for.

    Args:
        folder: As `save_pretrained` wrote it.
        card: What to say.
        push_to_hub: "user/name" of a repository; None keeps the model here.
        private: Whether a new repository is private.

    Raises:
        ModelError: if the folder holds no model.
        PushError: if the hub did not take it; everything is saved then.
    """
    write_card(folder, card)
    if push_to_hub is not None:
        push_folder(folder, push_to_hub, private=private)


def finish_stage(
    run: RunFolder,
    folder: Path,
    card: ModelCard,
    summary: Mapping[str, Any],
    *,
    push_to_hub: str | None = None,
    private: bool = True,
) -> str | None:
    """End a run: the card, then the manifest, then the push, so that a refused push costs nothing.

    Args:
        run: The run.
        folder: Its last checkpoint.
        card: Of that checkpoint.
        summary: What came out, for the manifest.
        push_to_hub: As in `publish`.
        private: As in `publish`.

    Returns:
        The address of the commit, None if nothing was pushed.

    Raises:
        ModelError: if the folder holds no model.
        PushError: if the hub did not take it; the run is finished then.
    """
    write_card(folder, card)
    run.finish(summary)
    return None if push_to_hub is None else push_folder(folder, push_to_hub, private=private)
