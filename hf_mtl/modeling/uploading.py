"""transformers' own `push_to_hub`, for folders in folders: adapters lie two deep, and it looks one deep."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import PreTrainedModel

from hf_mtl.errors import UserError


class Uploading(PreTrainedModel):
    """A model that `push_to_hub` publishes whole."""

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Publish the model, as every `push_to_hub` of transformers; `hf-mtl push` takes a run's card and metrics too.

        Raises:
            UserError: if its adapters stand on an encoder in a folder of this machine.
        """
        base = getattr(self, "base", None)
        if base is not None and os.path.isabs(base.encoder):
            raise UserError(
                f"push_to_hub: the adapters stand on an encoder in a folder here ({Path(base.encoder).name}), "
                "which nobody else has; publish a merged model, or single tasks"
            )
        return super().push_to_hub(repo_id, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, files_timestamps: Any, **commit: Any) -> Any:
        # Called by transformers' push_to_hub with a folder that it has just filled.
        files = sorted(path for path in Path(working_dir).rglob("*") if path.is_file())
        operations = [CommitOperationAdd(path.relative_to(working_dir).as_posix(), str(path)) for path in files]
        api, token = HfApi(), commit.get("token")
        if (branch := commit.get("revision")) is not None and not branch.startswith("refs/pr"):
            api.create_branch(repo_id, branch=branch, token=token, exist_ok=True)
        message = commit.pop("commit_message", None) or "Upload model"
        return api.create_commit(repo_id, operations, commit_message=message, **commit)
