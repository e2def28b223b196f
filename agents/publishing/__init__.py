"""Stages as folders: which model a run made, its card, and the way to a hub."""

from agents.publishing.card import ModelCard
from agents.publishing.hub import PushError, check_repository, push_folder
from agents.publishing.publication import finish_stage, publish, write_card
from agents.publishing.stages import ModelKind, folder_kind, stage_model

__all__ = [
    "ModelCard",
    "ModelKind",
    "PushError",
    "check_repository",
    "finish_stage",
    "folder_kind",
    "publish",
    "push_folder",
    "stage_model",
    "write_card",
]
