"""Protocols: how a cell begins, goes on and is scored; the specification says which it follows."""

from bench.core.records import Spec
from bench.core.types import Learner, Suite
from bench.protocols.episodic import Episodic
from bench.protocols.online import Online
from bench.protocols.protocol import Protocol


def protocol_of(spec: Spec, suite: Suite, algorithm: Learner, domain: Suite | None = None) -> Protocol:
    """The protocol that a specification names, of its suite and algorithm, and of the suite scored on."""
    return (Online if spec.protocol == "online" else Episodic)(spec, suite, algorithm, domain)
