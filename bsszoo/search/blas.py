"""One thread for the search's own linear algebra.

Its matrices have some hundred rows: the threads of a BLAS cost more than they save there, many times more where workers
or an evaluation share the cores.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[Any]:
    """A context in which numpy and scipy multiply and factorise on one thread; torch keeps its own."""
    limit: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limit


@lru_cache
def _controller() -> ThreadpoolController:
    """The BLAS libraries that are loaded; finding them takes longer than an ask may."""
    return ThreadpoolController()
