"""What survives an interruption of training: complete checkpoints, and the figures of the epochs so far."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from speechbrain.utils.checkpoints import Checkpointer, mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_barrier, main_process_only

from cochlea_sb.errors import UserError
from cochlea_sb.files import whole_file


@register_checkpoint_hooks
class History:
    """Figures of each epoch so far. Checkpoints hold them, so that the curves survive an interruption."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @mark_as_saver  # type: ignore[untyped-decorator]
    @main_process_only  # type: ignore[untyped-decorator]
    def save(self, path: str | os.PathLike[str]) -> None:
        """Checkpoint hook."""
        Path(path).write_text(yaml.safe_dump(self.rows), encoding="utf-8")

    @mark_as_loader  # type: ignore[untyped-decorator]
    def load(self, path: str | os.PathLike[str], end_of_epoch: bool) -> None:
        """Checkpoint hook."""
        self.rows = yaml.safe_load(Path(path).read_text(encoding="utf-8"))


class AtomicCheckpointer(Checkpointer):  # type: ignore[misc]
    """SpeechBrain's checkpointer, but a checkpoint counts only when all of it is on disk.

    The meta file makes a folder a checkpoint. SpeechBrain writes it first, so that a kill during the rest leaves a
    checkpoint that can't be loaded; here it is written last. The folder is made with the first checkpoint.
    """

    def __init__(self, checkpoints_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        folder = Path(checkpoints_dir)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        super().__init__(checkpoints_dir, *args, **kwargs)
        for path in missing:
            with suppress(OSError):  # another process has put something there
                path.rmdir()

    def _list_checkpoint_dirs(self) -> list[Path]:
        return super()._list_checkpoint_dirs() if self.checkpoints_dir.is_dir() else []

    def recover_if_possible(self, *args: Any, **kwargs: Any) -> Any:
        """As SpeechBrain's; UserError for a checkpoint of another model."""
        try:
            return super().recover_if_possible(*args, **kwargs)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"The checkpoint in '{self.checkpoints_dir}' does not fit this experiment "
                f"({str(error).splitlines()[0]}): choose another --output_folder, or delete that folder to start over."
            ) from error

    def _save_checkpoint_metafile(
        self, fpath: Path, meta_to_include: dict[str, Any] | None = None, end_of_epoch: bool = True
    ) -> dict[str, Any]:
        self._unwritten_meta = fpath, meta_to_include or {}, end_of_epoch
        return {"end-of-epoch": end_of_epoch} | (meta_to_include or {})

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """As `speechbrain.utils.checkpoints.Checkpointer.save_checkpoint`."""
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if checkpoint is not None:
            path, meta, end_of_epoch = self._unwritten_meta
            with whole_file(path) as partial:
                super()._save_checkpoint_metafile(partial, meta, end_of_epoch)
        ddp_barrier()  # all processes then list the same checkpoints when they delete old ones together
        return checkpoint
