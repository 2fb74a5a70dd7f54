"""Faults ordered in advance: answers that refuse, connections that end in the middle."""

import re
import threading
from dataclasses import dataclass, field

from tests.hub.exchange import Answer


@dataclass
class Plan:
    method: str
    pattern: re.Pattern[str]
    times: int
    answer: Answer | None = None
    """What to say instead of the truth; None: the connection ends."""
    after_bytes: int | None = None
    """How much of a request's body is read, or of an answer's body sent; None: the answer is lost as a whole."""
    reset: bool = False
    """End with a reset instead of an orderly end."""


@dataclass
class Plans:
    waiting: list[Plan] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, plan: Plan) -> None:
        with self.lock:
            self.waiting.append(plan)

    def take(self, method: str, path: str) -> Plan | None:
        """The oldest plan for such a call; each serves as often as it was ordered."""
        with self.lock:
            for plan in self.waiting:
                if plan.times > 0 and plan.method == method and plan.pattern.search(path):
                    plan.times -= 1
                    return plan
        return None
