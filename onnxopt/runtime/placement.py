"""Which provider each node was given to, as ONNX Runtime tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxopt.target import PROVIDERS

RECORD = "session.record_ep_graph_assignment_info"
"""The option of a session without which it forgets."""


@dataclass(frozen=True)
class Placed:
    """A node of the graph as it was when nodes were given to providers: some were fused before, others are later.

    Attributes:
        provider: as ONNX Runtime calls it.
        operator: with its domain, where that is not ONNX's.
        node: its name, which may be empty.
    """

    provider: str
    operator: str
    node: str

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes it."""
        return self.provider == PROVIDERS["cpu"]


def placed(session: Any) -> tuple[Placed, ...] | None:
    """All nodes of an InferenceSession that was told to record them (``RECORD``).

    None where ONNX Runtime cannot say (before 1.24).
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return tuple(
        Placed(part.ep_name, f"{node.domain}:{node.op_type}" if node.domain else node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )
