"""Work that the fork server of warm.py does once, after its imports, so that no script has to do it."""

import gc

from numba.core.registry import cpu_target

# What numba does before it loads or compiles the first function.
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
gc.freeze()  # or the garbage collector of each fork would copy all memory that it shares with the server
