"""Catalogs on web servers: their addresses, and the last copy of each, so that lists open without waiting for a network.

``catalogs/addresses.txt`` in the cache folder has one address per line; an administrator may write it. The copies lie in
``catalogs/fetched``.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from ..errors import Cancelled, PackageError, UNetSegmentError
from . import catalog
from .lock import locked
from .package import cache_folder
from .records import write_whole, written


def addresses() -> list[str]:
    """The addresses that were added, in that order; empty where there is none."""
    try:
        lines = _list().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def copy_of(address: str) -> Path:
    """Where the last copy of that catalog is kept; it need not be there yet."""
    return cache_folder() / "catalogs" / "fetched" / f"{sha256(address.encode()).hexdigest()[:16]}.json"


def add(address: str) -> tuple[str, list[str]]:
    """Fetch a catalog and remember its address.

    Args:
        address: Of the catalog, or of the folder that holds a ``catalog.json``, as ``publish --url`` has it.

    Returns:
        The catalog's address, and a sentence for each of its entries that was refused.

    Raises:
        DownloadError: It cannot be fetched.
        PackageError: It is no address, or no catalog.
        OutputError: The cache folder cannot be written.
    """
    address = address.strip()
    if len(address.split()) != 1 or not address.lower().startswith(("http://", "https://")):
        raise PackageError(f"'{address[:200]}' is not the address of a catalog; give one that begins with https://.")
    if not address.lower().endswith(".json"):
        address = f"{address.rstrip('/')}/catalog.json"
    refused = fetch(address)
    _remember(lambda known: known if address in known else [*known, address])
    return address, refused


def remove(address: str) -> None:
    """Forget an address and its copy; models that came from there stay.

    Raises:
        PackageError: It was not added.
        OutputError: The cache folder cannot be written.
    """
    if address not in addresses():
        raise PackageError(
            f"The catalog '{address}' was not added; 'unetsegment models catalogs' lists those that were."
        )
    _remember(lambda known: [line for line in known if line != address])
    copy_of(address).unlink(missing_ok=True)


def refresh(cancelled: Callable[[], bool] = lambda: False) -> list[str]:
    """Fetch every catalog that was added again; where that fails its last copy stays.

    Returns:
        A sentence for each that could not be fetched.

    Raises:
        Cancelled: ``cancelled`` said so, between two of them.
    """
    remarks = []
    for address in addresses():
        if cancelled():
            raise Cancelled()
        try:
            fetch(address)
        except UNetSegmentError as error:
            remarks.append(f"{error} Its last copy is shown." if copy_of(address).exists() else str(error))
    return remarks


def fetch(address: str) -> list[str]:
    """Fetch one catalog; where it is sound it takes the place of its last copy. See :func:`add`."""
    from .download import read_text

    text = read_text(address)
    with written(copy_of(address), text.encode()) as part:
        return catalog.read(part, address)[1]


def _list() -> Path:
    return cache_folder() / "catalogs" / "addresses.txt"


def _remember(change: Callable[[list[str]], list[str]]) -> None:
    with locked(_list().with_suffix(".lock")):
        write_whole(_list(), "".join(f"{address}\n" for address in change(addresses())).encode())
