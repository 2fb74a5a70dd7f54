"""Metrics that a run file names by their place on the Hub, beside the built-in ones."""

from functools import cache

import evaluate

from hf_mtl.errors import UserError


@cache
def hub_metric(name: str) -> evaluate.Metric:
    """A metric of the Hub ("user/metric") or of a folder ("./my_metric"), loaded once; its code runs on this machine.

    It gets what the built-in metric of the task gets: label ids, lists of 0 and 1, numbers or lists of tags.

    Raises:
        UserError: it is not there, or its code needs a package that is not installed or another kind of call.
    """
    if "/" not in name:
        raise UserError(f"metric {name!r} is not built in, and a metric of the Hub is written user/metric.")
    try:
        return evaluate.load(name, module_type="metric", keep_in_memory=True)
    except Exception as error:  # the metric's own code runs here and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"metric {name!r} could not be loaded: {reason} Check the name (user/metric, or ./folder for one on this "
            "machine) and that this machine reaches the Hub: without a network only metrics used before can be loaded."
        ) from error
