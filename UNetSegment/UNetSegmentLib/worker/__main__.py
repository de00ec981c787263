"""``python -m UNetSegmentLib.worker``: what the client starts."""

from .server import main

main()
