"""The learning rate schedule."""

import math


def warm_up_and_cosine(step: int, total_steps: int, warm_up_steps: int) -> float:
    """Factor of the peak learning rate at a step, in [0, 1].

    The factor grows linearly to 1 in ``warm_up_steps``, then falls along half a cosine to 0 at ``total_steps``.
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    done = (step - warm_up_steps) / max(1, total_steps - warm_up_steps)
    return (1 + math.cos(math.pi * min(done, 1))) / 2
