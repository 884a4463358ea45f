"""What the specification promises, as plainly as it can be said: lists of what is still to come."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

#: A message expires after 60 s; the machine's clock goes on by 25 s a step.
STEP = 25.0
STEPS_OF_A_MESSAGE = 3


@dataclass
class Sent:
    """A message on its way to one channel."""

    message: dict
    step: int


@dataclass
class Model:
    """All channels and groups, in the eyes of somebody who sees everything."""

    step: int = 0
    #: For each channel, and each process that sends to it, what has not been received.
    waiting: dict[str, dict[int, deque[Sent]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(deque))
    )
    groups: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    def send(self, process: int, channel: str, message: dict) -> None:
        self.waiting[channel][process].append(Sent(message, self.step))

    def group_send(self, process: int, group: str, message: dict) -> None:
        for channel in self.groups[group]:
            self.send(process, channel, message)

    def expected(self, channel: str) -> list[dict]:
        """What may come next: of each sender its oldest message that has not expired."""
        for sent in self.waiting[channel].values():
            while sent and self.step - sent[0].step >= STEPS_OF_A_MESSAGE:
                sent.popleft()
        return [sent[0].message for sent in self.waiting[channel].values() if sent]

    def count(self, channel: str) -> int:
        self.expected(channel)
        return sum(map(len, self.waiting[channel].values()))

    def receive(self, channel: str, message: dict) -> None:
        """``message`` came: it was due, and it does not come again."""
        assert message in self.expected(channel), (message, self.waiting[channel])
        for sent in self.waiting[channel].values():
            if sent and sent[0].message == message:
                sent.popleft()
                return

    def flush(self) -> None:
        self.waiting.clear()
        self.groups.clear()

    def a_day_passes(self) -> None:
        """Everything expires."""
        self.flush()
