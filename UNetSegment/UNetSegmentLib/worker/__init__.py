"""The long-lived process that keeps a model warm, and what talks to it: protocol, server, client, shared memory."""

from .client import Job, Worker

__all__ = ["Job", "Worker"]
