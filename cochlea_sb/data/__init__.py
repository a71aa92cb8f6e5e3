"""Where sounds come from: corpora, frames, batches. What is imported with this is next to nothing."""

LIBRARY_MANIFEST = "library.json"  # marks the folder of a `SoundLibrary`, which holds no sounds itself
