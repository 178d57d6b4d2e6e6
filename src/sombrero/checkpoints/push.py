"""Send a baked checkpoint to the hub. The folder stays as it is, whatever happens to the upload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sombrero.checkpoints.record import read_record
from sombrero.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What uploads and file managers leave in a folder, and what was never finished.
_NOT_SENT = ("*.unfinished", ".cache/**", "**/__pycache__/**")


def check_repository(repository: str) -> None:
    """Raise CheckpointError unless ``repository`` is a name that the hub can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise CheckpointError(f"{repository!r} is no name of a repository: {error}; give owner/name") from error


def push(folder: Path, repository: str, *, api: HfApi | None = None) -> str:
    """Upload the baked checkpoint in ``folder`` to the hub as ``repository`` (owner/name); return the commit's address.

    A repository that does not exist is made private: whoever owns it decides who sees it. The upload goes on where an
    earlier one stopped: files that are there already are skipped. api: where to, and as whom (default: the hub, with
    the token that is stored on this machine).

    Raises CheckpointError when the folder is no baked checkpoint, or the hub does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client the library has

    read_record(folder)
    check_repository(repository)
    hub = api or HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Edited checkpoint, baked by Sombrero",
            ignore_patterns=list(_NOT_SENT),
        )
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: from the uploader of large files
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"the hub did not take {repository!r}: {reason[0] if reason else type(error).__name__}. The checkpoint is "
            f"complete in {folder}; check the name, the network and your access token (hf auth login), and push again: "
            "what was uploaded is not sent twice"
        ) from error
    return str(commit.commit_url)
