"""What survives an interruption of training: checkpoints, whole or not there at all, and the curves so far."""

from contextlib import suppress
from pathlib import Path

import yaml
from speechbrain.utils.checkpoints import Checkpointer, mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_barrier, main_process_only

from cochlea_sb.errors import UserError
from cochlea_sb.files import whole_file


@register_checkpoint_hooks
class History:
    """Figures of each epoch so far; travels in the checkpoint so that curves survive an interruption."""

    def __init__(self):
        self.rows = []

    @mark_as_saver
    @main_process_only
    def save(self, path):
        """Checkpoint hook."""
        Path(path).write_text(yaml.safe_dump(self.rows), encoding="utf-8")

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Checkpoint hook."""
        self.rows = yaml.safe_load(Path(path).read_text(encoding="utf-8"))


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, but a checkpoint counts only when all of it is on disk.

    The meta file makes a folder a checkpoint. SpeechBrain writes it first, so a kill while the rest is written leaves
    one that cannot be loaded; here it is written last. Nor does a folder appear before there is something to keep.
    """

    def __init__(self, checkpoints_dir, *args, **kwargs):
        folder = Path(checkpoints_dir)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        super().__init__(checkpoints_dir, *args, **kwargs)
        for path in missing:
            with suppress(OSError):  # another process put something there meanwhile
                path.rmdir()

    def _list_checkpoint_dirs(self):
        return super()._list_checkpoint_dirs() if self.checkpoints_dir.is_dir() else []

    def recover_if_possible(self, *args, **kwargs):
        """As SpeechBrain's; a checkpoint that does not fit is one sentence."""
        try:
            return super().recover_if_possible(*args, **kwargs)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"The checkpoint in '{self.checkpoints_dir}' does not fit this experiment "
                f"({str(error).splitlines()[0]}): choose another --output_folder, or delete that folder to start over."
            ) from error

    def _save_checkpoint_metafile(self, fpath, meta_to_include=None, end_of_epoch=True):
        self._unwritten_meta = fpath, meta_to_include or {}, end_of_epoch
        return {"end-of-epoch": end_of_epoch} | (meta_to_include or {})

    def save_checkpoint(self, *args, **kwargs):
        """As `speechbrain.utils.checkpoints.Checkpointer.save_checkpoint`."""
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if checkpoint is not None:
            path, meta, end_of_epoch = self._unwritten_meta
            with whole_file(path) as partial:
                super()._save_checkpoint_metafile(partial, meta, end_of_epoch)
        ddp_barrier()  # all processes then list the same checkpoints when they delete old ones together
        return checkpoint
