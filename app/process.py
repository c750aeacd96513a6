"""What a process that serves or measures asks of Python and of the system it runs on."""

import gc
import resource
from contextlib import suppress

MAX_DESCRIPTORS = 65_536
_GC_THRESHOLDS = (50_000, 20, 50)


def descriptors() -> int:
    """How many files and sockets this process may have open, after asking for as many as it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft < wanted:
        with suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def settle_garbage_collector() -> None:
    """Take what exists now for good: not looking at it again saves a third of the time of a request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
