"""Checkpoints named by a hub id (`owner/name`): what the hub's cache holds, else a download.

Knows which files a checkpoint is made of, and nothing of what is in them.
"""

from pathlib import Path

from .errors import CheckpointError
from .safetensors_files import INDEX, SINGLE, weight_files

PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
ANSWER_S = 10.0


def hub_snapshot(hub_id: str, *, answer_s: float = ANSWER_S) -> Path:
    """The folder of a hub id. What is whole in the hub's cache is taken as it is, without asking
    the hub; anything else is downloaded from one that answers within `answer_s` seconds.

    Raises CheckpointError.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            held = Path(snapshot_download(hub_id, allow_patterns=PATTERNS, local_files_only=True))
        except LocalEntryNotFoundError:
            held = None
        if held is not None and _is_whole(held):
            return held
        # The download itself would wait for ever for a hub that does not answer.
        HfApi().model_info(hub_id, timeout=answer_s)
        return Path(snapshot_download(hub_id, allow_patterns=PATTERNS))
    except Exception as failure:  # its own, the file system's and those of its HTTP client
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise CheckpointError(
            f"{hub_id}: no such folder here, and as a hub id it cannot be downloaded: {reason}"
        ) from failure


def _is_whole(folder: Path) -> bool:
    """Whether a download into `folder` was completed."""
    named = (folder / INDEX).is_file() or (folder / SINGLE).is_file()
    if not (named and all((folder / name).is_file() for name in ("config.json", "tokenizer.json"))):
        return False
    try:
        weight_files(folder)
    except CheckpointError:
        return False
    return True
