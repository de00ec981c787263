"""What a prediction tells the person who waits for it: how far it is, and what looks wrong about the inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SEVERE = frozenset(
    ("constant", "labels", "ct_for_mr", "ct_for_pt", "ct_for_us", "not_ct", "ct_8bit", "ct_offset", "ct_scale")
    + ("ct_inverted", "field_of_view_large", "spacing", "same_image", "swapped", "apart")
)
"""Codes of what makes a result meaningless, or a run long for nothing: a person should have read it before."""
STOPS = frozenset({"refused", "model"})
"""Codes of what a run would end with: because of an input, or of the model."""
ANYWAY = "it can be run anyway"
"""How the sentences end that stop nothing."""


@dataclass(frozen=True)
class Progress:
    """How far a prediction is: the stage in words, 0..1 over the whole run, and a line for the user."""

    stage: str
    fraction: float
    message: str


@dataclass(frozen=True)
class InputWarning:
    """Something about an input that looks wrong.

    Args:
        channel: Name of the manifest's channel; "" where it concerns all of them.
        code: Stable short name, such as ``ct_for_mr``.
        message: One sentence: which input, what looks wrong, what it may mean, and that it can be run anyway.
    """

    channel: str
    code: str
    message: str

    @property
    def is_severe(self) -> bool:
        """Whether the result probably means nothing."""
        return self.code in SEVERE

    @property
    def short(self) -> str:
        """The sentence without that it can be run anyway: where a button says so, or it has been run."""
        return self.message.replace(f"; {ANYWAY}.", ".")

    @property
    def stops(self) -> bool:
        """Whether a run would end with it."""
        return self.code in STOPS

    def to_dict(self) -> dict[str, str]:
        """For JSON: ``{"channel": ..., "code": ..., "message": ...}``."""
        return asdict(self)
