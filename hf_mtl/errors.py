"""Errors that are the user's to mend: shown without a traceback, exit status 2."""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user gave is wrong; the message says where, what was found, what is allowed and what to do.

    Attributes:
        told: whether another process of the run tells it, so that this one is to be silent.
    """

    told = False


class ConfigError(UserError):
    """All errors of one run file at once.

    Args:
        source: the run file, or "run config" for a dict.
        errors: (key path, message) pairs, in the order of the file.
    """

    def __init__(self, source: str, errors: Sequence[tuple[str, str]]) -> None:
        self.source = source
        self.errors = list(errors)
        count = f"{len(self.errors)} error" + ("" if len(self.errors) == 1 else "s")
        lines = [f"  {path}: {message}" if path else f"  {message}" for path, message in self.errors]
        super().__init__("\n".join([f"{source} has {count}:", *lines]))


class DataError(UserError):
    """A row, file or split that cannot be read as the run file says; several are joined, a line each."""


class FinishedError(UserError):
    """A run that was to be resumed is finished: nothing is wrong and nothing is left to do; exit status 0."""


class StoppedError(Exception):
    """A run that ended before its last step, through no fault of the run file: the message says how to go on.

    Args:
        message: where it stopped and what to do.
        status: the exit status: 128 + the signal's number for a signal, else 1.
        told: as for `UserError`.
    """

    def __init__(self, message: str, status: int, told: bool = False) -> None:
        super().__init__(message)
        self.status, self.told = status, told
