"""How many files a process may have open: each shard of a data set stays open while it is read at random."""

import resource

from aa_flax.data.errors import DataError

_OTHERS = 512  # checkpoints, logs, sockets and libraries


class OpenFilesError(DataError):
    """The process may not open as many files as its data set has; nothing is wrong with the data."""


def make_room(files: int) -> None:
    """Raise this process's limit of open files as far as it may, if readers of so many files could need more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * files + _OTHERS  # a training and a held-out split, or the same files twice
    if resource.RLIM_INFINITY != soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def check_room(error: Exception, place: str, files: int) -> None:
    """Raise OpenFilesError if an error in reading an example says that no more files may be open.

    Args:
        error: what a reader raised.
        place: the file and the example, for the message.
        files: the number of files of the split.
    """
    if "Too many open files" in str(error):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise OpenFilesError(
            f"{place}: too many open files; the split has {files}, and this process may have {limit} open in all; "
            "`ulimit -n` shows and changes that"
        ) from None
