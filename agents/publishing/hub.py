"""The way of a saved folder to a hub; nothing goes there unless it is asked for."""

import os
import shlex
from pathlib import Path

from agents.publishing.card import HUB_NAME
from textenvs.errors import ConfigError, TextEnvsError

NOT_PUSHED = ("training.json", "training.safetensors", ".*")
"""What only `textenvs train --resume` reads: the optimiser's state, as large as the model."""


class PushError(TextEnvsError, RuntimeError):
    """A folder is saved, but a hub did not take it."""


def check_repository(repository: str) -> None:
    """Refuse what is no name of a hub's repository, before anything is trained.

    Raises:
        ConfigError: if it is not of the form "user/name".
    """
    if not HUB_NAME.fullmatch(repository):
        raise ConfigError(
            f"a hub's repository is user/name, got {repository!r}; e.g. --push-to-hub me/my-model"
        )


def push_folder(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload a model folder to a hub, at $HF_ENDPOINT if that is set.

    The token is the one that `hf auth login` keeps, or $HF_TOKEN.

    Args:
        folder: Whole, with its model card.
        repository: "user/name"; made if it does not exist.
        private: Whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: if the repository's name is none.
        PushError: if the hub cannot be reached, wants a token or refuses; the folder stays.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HTTPError,  # of whichever HTTP library this version of huggingface_hub uses
        OfflineModeIsEnabled,
    )

    check_repository(repository)
    if get_token() is None:
        why = "no token is known; set HF_TOKEN, or run `hf auth login`"
        raise _not_pushed(folder, repository, private, why)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload with textenvs",
            ignore_patterns=list(NOT_PUSHED),
        )
    except OfflineModeIsEnabled as error:
        why = "HF_HUB_OFFLINE is set; unset it"
        raise _not_pushed(folder, repository, private, why) from error
    except HfHubHTTPError as error:
        raise _not_pushed(folder, repository, private, f"refused: {error}") from error
    except ValueError as error:
        raise _not_pushed(folder, repository, private, f"refused: {error}") from error
    except RuntimeError as error:  # what the library makes of a large file's failed upload
        why = f"broken off: {error} {error.__cause__ or ''}"
        raise _not_pushed(folder, repository, private, why) from error
    except (HTTPError, OSError) as error:
        raise _not_pushed(folder, repository, private, f"not reached: {error}") from error
    return str(commit.commit_url)


def _not_pushed(folder: Path, repository: str, private: bool, why: str) -> PushError:
    left_out = " ".join(f"--exclude {shlex.quote(pattern)}" for pattern in NOT_PUSHED)
    visibility = " --private" if private else ""
    command = f"hf upload {repository} {shlex.quote(str(folder))}{visibility} {left_out}"
    return PushError(
        f"saved at {folder}; not pushed: {' '.join(why.split())}. Push later with `{command}`"
    )
