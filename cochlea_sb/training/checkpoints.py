"""Checkpoints that an interruption of training cannot damage, and the figures of all epochs so far."""

import os
from pathlib import Path
from typing import Any

import yaml
from speechbrain.utils.checkpoints import Checkpointer, mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_barrier, main_process_only

from cochlea_sb.errors import UserError
from cochlea_sb.files import whole_file


@register_checkpoint_hooks
class History:
    """Figures of each epoch. Checkpoints store them, so a continued run plots the curves from the first epoch on."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @mark_as_saver  # type: ignore[untyped-decorator]
    @main_process_only  # type: ignore[untyped-decorator]
    def save(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_text(yaml.safe_dump(self.rows), encoding="utf-8")

    @mark_as_loader  # type: ignore[untyped-decorator]
    def load(self, path: str | os.PathLike[str], end_of_epoch: bool) -> None:
        self.rows = yaml.safe_load(Path(path).read_text(encoding="utf-8"))


class AtomicCheckpointer(Checkpointer):  # type: ignore[misc]
    """SpeechBrain's checkpointer, but an interrupted save leaves no incomplete checkpoint.

    A folder counts as a checkpoint if it contains the meta file. SpeechBrain writes the meta file first; this class
    writes it last. The folder of all checkpoints is created with the first checkpoint.
    """

    def __init__(self, checkpoints_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        folder = Path(checkpoints_dir)
        super().__init__(next(path for path in (folder, *folder.absolute().parents) if path.exists()), *args, **kwargs)
        self.checkpoints_dir = folder  # SpeechBrain would create it here

    def _list_checkpoint_dirs(self) -> list[Path]:
        return super()._list_checkpoint_dirs() if self.checkpoints_dir.is_dir() else []

    def recover_if_possible(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().recover_if_possible(*args, **kwargs)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"The checkpoint in '{self.checkpoints_dir}' does not fit this experiment "
                f"({str(error).splitlines()[0]}): choose another --output_folder, or delete the checkpoint."
            ) from error

    def _save_checkpoint_metafile(
        self, fpath: Path, meta_to_include: dict[str, Any] | None = None, end_of_epoch: bool = True
    ) -> dict[str, Any]:
        self._unwritten_meta = fpath, meta_to_include or {}, end_of_epoch
        return {"end-of-epoch": end_of_epoch} | (meta_to_include or {})

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if checkpoint is not None:
            path, meta, end_of_epoch = self._unwritten_meta
            with whole_file(path) as partial:
                super()._save_checkpoint_metafile(partial, meta, end_of_epoch)
        ddp_barrier()  # all processes must list the same checkpoints before they delete old ones
        return checkpoint
