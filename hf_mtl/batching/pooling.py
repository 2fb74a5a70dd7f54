"""Steps of sequences of like length, without losing the mix of data sets or the randomness of the order."""

import numpy as np
from numpy.typing import NDArray

from hf_mtl.batching.draws import Integers, random_bits, random_order


def pooled(lengths: Integers, step_size: int, pool_size: int, *key: int | str) -> NDArray[np.intp]:
    """The order in which a stream of draws fills its steps, the short one last; each step's longest draw first.

    `pool_size` steps are drawn together, sorted by length, cut into steps, and these shuffled. Draws of equal length
    keep the order in which they were drawn, so that a step mixes the units that are equally long. Where the sorted
    last pool gives up the short step's draws is random: it is not always the longest or the shortest that come last.

    Args:
        lengths: the pieces of each draw, `[draws]`.
        step_size: how many draws a step has.
        pool_size: how many steps a pool has.
        key: seed and names that determine the random choices.
    """
    pool = step_size * min(pool_size, len(lengths) // step_size + 1)
    whole = len(lengths) // pool * pool
    shortness = lengths.max(initial=0) - lengths
    order = np.argsort(shortness[:whole].reshape(-1, pool), axis=1, kind="stable") + np.arange(0, whole, pool)[:, None]
    steps = order.reshape(-1, pool // step_size, step_size)
    shuffle = np.argsort(random_bits(whole // step_size, *key, "steps").reshape(steps.shape[:2]), axis=1, kind="stable")
    steps = np.take_along_axis(steps, shuffle[:, :, None], axis=1)

    last = whole + np.argsort(shortness[whole:], kind="stable")
    full, short = divmod(len(last), step_size)
    cut = int(random_bits(1, *key, "short")[0] % np.uint64(full + 1)) * step_size
    rest = np.delete(last, slice(cut, cut + short)).reshape(full, step_size)
    rest = rest[random_order(full, *key, "last steps")]
    return np.concatenate((steps.reshape(-1), rest.reshape(-1), last[cut : cut + short]))
