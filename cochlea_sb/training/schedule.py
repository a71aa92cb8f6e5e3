"""How the learning rate changes during training."""

import math


def warm_up_and_cosine(step: int, total_steps: int, warm_up_steps: int) -> float:
    """Share of the peak learning rate at a step: it rises linearly, then falls along half a cosine to 0.

    It depends on the step alone, so that a finished run can go on with more epochs.

    Arguments
    ---------
    step, total_steps, warm_up_steps : int

    Returns
    -------
    float in [0, 1]
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    done = (step - warm_up_steps) / max(1, total_steps - warm_up_steps)
    return (1 + math.cos(math.pi * min(done, 1))) / 2
