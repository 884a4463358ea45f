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
    #: It may be missing: a member of the group that was full, or the table was emptied meanwhile.
    is_sure: bool = True
    is_group: bool = False


@dataclass
class Model:
    """All channels and groups, in the eyes of somebody who sees everything."""

    step: int = 0
    #: For each channel, and each process that sends to it, what has not been received.
    waiting: dict[str, dict[int, deque[Sent]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(deque))
    )
    groups: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    #: Of channels that have one below what the machine sends.
    capacities: dict[str, int] = field(default_factory=dict)
    #: What may be in their mailboxes, expired or not.
    held: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def send(self, process: int, channel: str, message: dict) -> None:
        self._add(channel, process, Sent(message, self.step))

    def group_send(self, process: int, group: str, message: dict) -> None:
        for channel in self.groups[group]:
            capacity = self.capacities.get(channel)
            is_sure = capacity is None or self._in_the_way(channel) < capacity
            self._add(channel, process, Sent(message, self.step, is_sure, is_group=True))

    def _add(self, channel: str, process: int, sent: Sent) -> None:
        self.waiting[channel][process].append(sent)
        self.held[channel] += 1
        if "!" in channel and channel in self.capacities:
            self._doubt(channel)

    def _doubt(self, channel: str) -> None:
        """Of two senders' messages the later may be in the mailbox first, and fill it."""
        count = self._in_the_way(channel)
        for sent in self.waiting[channel].values():
            others = count - len(sent)
            for place, each in enumerate(sent):
                if each.is_group and others + place >= self.capacities[channel]:
                    each.is_sure = False

    def expected(self, channel: str) -> list[dict]:
        """What may come next: of each sender its oldest message that is sure, or one before it."""
        messages = []
        for sent in self.waiting[channel].values():
            while sent and self.step - sent[0].step >= STEPS_OF_A_MESSAGE:
                sent.popleft()
            for each in sent:
                messages.append(each.message)
                if each.is_sure:
                    break
        return messages

    def is_due(self, channel: str) -> bool:
        """Whether a message has to come."""
        self.expected(channel)
        return any(each.is_sure for sent in self.waiting[channel].values() for each in sent)

    def count(self, channel: str) -> int:
        self.expected(channel)
        return sum(map(len, self.waiting[channel].values()))

    def _in_the_way(self, channel: str) -> int:
        """How many messages may take room in its mailbox.

        An expired one does, if it is behind one of another sender that has not expired.
        """
        count = self.count(channel)
        return self.held[channel] if count and "!" in channel else count

    def receive(self, channel: str, message: dict) -> None:
        """``message`` came: it was due, and it does not come again."""
        assert message in self.expected(channel), (message, self.waiting[channel])
        for sent in self.waiting[channel].values():
            for place, each in enumerate(sent):
                if each.message == message:
                    for _ in range(place + 1):
                        sent.popleft()
                    # What had expired before it is gone.
                    self.held[channel] = self.count(channel)
                    return

    def may_be_full(self, channel: str) -> bool:
        """Whether the channel may refuse a message."""
        count = self.held[channel] if "!" in channel else self.count(channel)
        return channel in self.capacities and count >= self.capacities[channel]

    def rewind(self) -> None:
        """The table was emptied: what is in memory may still come, and no group has members."""
        for by_sender in self.waiting.values():
            for sent in by_sender.values():
                for each in sent:
                    each.is_sure = False
        self.groups.clear()

    def flush(self) -> None:
        self.a_day_passes()
        self.held.clear()

    def a_day_passes(self) -> None:
        """Everything expires."""
        self.waiting.clear()
        self.groups.clear()
