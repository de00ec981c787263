"""The long-lived process that keeps a model warm, and what talks to it: protocol, server, client, shared memory."""

from typing import TYPE_CHECKING

from ..later import names

if TYPE_CHECKING:
    from .client import Worker
    from .job import Job, Outcome

__all__ = ["Job", "Outcome", "Worker"]
__getattr__ = names(__name__, client=("Worker",), job=("Job", "Outcome"))
