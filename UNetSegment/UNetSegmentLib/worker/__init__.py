"""The long-lived process that keeps a model warm, and what talks to it: protocol, server, client, shared memory."""

from .client import Worker
from .job import Job, Outcome

__all__ = ["Job", "Outcome", "Worker"]
