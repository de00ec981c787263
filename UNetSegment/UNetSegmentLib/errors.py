"""Errors whose text is written for the person at the screen.

Every message is one sentence that says what is wrong, with which input, and what to do about it. Callers show
``str(error)`` as it is.
"""

from __future__ import annotations


class UNetSegmentError(Exception):
    """Base of all errors that are shown to the user as they are."""


class InputError(UNetSegmentError):
    """An image, or the set of images, cannot be used."""


class PackageError(UNetSegmentError):
    """A model package is damaged, incomplete, too new or not allowed."""


class BackendError(UNetSegmentError):
    """The network cannot run here: a library or a device is missing."""


class OutputError(UNetSegmentError):
    """A result cannot be written where the user asked for it."""


class DownloadError(UNetSegmentError):
    """A file could not be fetched: no connection, a server that refuses, or content that is not what was promised."""


class Cancelled(UNetSegmentError):
    """The user stopped the work; nothing was changed."""

    def __init__(self, message: str = "Cancelled; nothing was changed.") -> None:
        super().__init__(message)


class WorkerError(UNetSegmentError):
    """The process that runs models could not start, ended, or does not answer."""
