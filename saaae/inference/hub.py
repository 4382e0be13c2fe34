"""The Hugging Face hub, to which exported folders can be uploaded."""

from pathlib import Path

from saaae.errors import RunFailedError


def push(repository: str, folder: Path) -> str:
    """Uploads an exported folder; gives its address.

    Raises:
        RunFailedError: If the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        hub.create_repo(repository, private=True, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder))
    except Exception as error:  # of the network, of the token, of the hub
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunFailedError(
            f"push={repository}: not uploaded ({reason}); to try again: hf upload {repository} {folder}"
        ) from None
