"""Work in as many threads as torch uses, which stops soon after Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Made = TypeVar("Made")


class _StoppedError(Exception):
    """Ends a thread whose result is no longer needed."""


_THREAD = threading.local()


def in_threads(work: Callable[[Job], Made], jobs: Sequence[Job]) -> list[Made]:
    """Do all jobs, in as many threads as torch uses; the results are in the order of the jobs."""
    workers = min(torch.get_num_threads(), len(jobs))
    if workers <= 1:
        return [work(job) for job in jobs]
    inference = torch.is_inference_mode_enabled()  # a thread does not inherit it
    stop = threading.Event()

    def begin(job: Job) -> Made:
        _THREAD.stop = stop
        with torch.inference_mode(inference):
            return work(job)

    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(begin, jobs))
    except BaseException:
        stop.set()  # after Ctrl-C, running jobs end at their next piece
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # and no other job starts


def raise_if_stopped() -> None:
    """End this thread if the call that started it was interrupted."""
    stop = getattr(_THREAD, "stop", None)
    if stop is not None and stop.is_set():
        raise _StoppedError
