"""The members in this process of groups with a history, and where each of them is.

Called under the lock of `histories`; only `Roll.known` and reading ``Roll.behind`` need none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field

from channels_lite.store.history import Known, Membership

__all__ = ["Group", "Member", "Roll"]

# Groups whose members are read again at each `Roll.check_some`.
CHECKED = 50


@dataclass(eq=False, slots=True)
class Member:
    """A channel of this process in a group."""

    group: str
    channel: str
    #: The id of the membership.
    id: int
    #: The last message that it has got, or that came before it joined.
    position: int
    #: Whether it gets no message before those that it has missed.
    is_behind: bool = False
    #: Whether some of those are gone.
    has_gap: bool = False
    #: The loop that reads for it.
    reading: asyncio.AbstractEventLoop | None = None


@dataclass(eq=False, slots=True)
class Group:
    """The members of one group in this process."""

    known: Known = Known(None, float("inf"))
    members: dict[str, Member] = field(default_factory=dict)


class Roll:
    """All of them."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        #: Those that are behind, by channel and group.
        self.behind: dict[str, dict[str, Member]] = {}
        #: The groups and channels of members whose positions were lost when ids started again.
        self._lost: set[tuple[str, str]] = set()
        #: The last id then: they get the messages after it.
        self._begins = 0
        self._unchecked: set[str] = set()
        self._to_check: list[str] = []

    def known(self, group: str) -> Known | None:
        """What is known of the members; None: there are none here.  Thread: any."""
        found = self._groups.get(group)
        return None if found is None else found.known

    @property
    def has_members(self) -> bool:
        """Whether there are any."""
        return bool(self._groups)

    def members(self, group: str) -> Mapping[str, Member]:
        """The members of ``group``, by channel."""
        found = self._groups.get(group)
        return {} if found is None else found.members

    def member(self, group: str, channel: str) -> Member | None:
        """Returns it, or None."""
        found = self._groups.get(group)
        return None if found is None else found.members.get(channel)

    def add(self, membership: Membership, row: int) -> bool:
        """Adds a member; the log was read up to ``row``.  Whether it is new, and behind."""
        name, channel = membership.group, membership.channel
        group = self._groups.setdefault(name, Group())
        known = group.members.get(channel)
        if known is not None and known.id == membership.id:
            return False
        if known is not None:
            self.remove(known, keeps_group=True)
        position = row if membership.after is None else membership.after
        member = Member(name, channel, membership.id, position)
        if (name, channel) in self._lost:
            member.position, member.has_gap = self._begins, True
        group.members[channel] = member
        until = min(group.known.until, membership.expires_at)
        group.known = group.known._replace(until=until)
        if member.position < row:
            self.fall_behind(member, member.position)
        return member.is_behind

    def keep(self, name: str, version: Hashable, members: Collection[Membership]) -> None:
        """Removes all members of a group but these, which `add` adds."""
        group = self._groups.get(name)
        if group is None:
            return
        ids = {each.id for each in members}
        for member in [each for each in group.members.values() if each.id not in ids]:
            self.remove(member, keeps_group=True)
        until = min((each.expires_at for each in members), default=float("inf"))
        group.known = Known(version, until)
        if not members:
            del self._groups[name]

    def remove(self, member: Member, *, keeps_group: bool = False) -> None:
        """It has left."""
        self.catch_up(member)
        group = self._groups[member.group]
        del group.members[member.channel]
        if not group.members and not keeps_group:
            del self._groups[member.group]

    def fall_behind(self, member: Member, position: int) -> None:
        """It has not got the messages after ``position``."""
        member.position = position
        member.is_behind = True
        self.behind.setdefault(member.channel, {})[member.group] = member

    def catch_up(self, member: Member) -> None:
        """It is level with the others, or gone."""
        member.is_behind = False
        groups = self.behind.get(member.channel)
        if groups is not None and groups.get(member.group) is member:
            del groups[member.group]
            if not groups:
                del self.behind[member.channel]

    def begin_again(self, row: int) -> None:
        """Ids have started again, and ``row`` is the last: positions mean nothing any more.

        The next look adds all members again.
        """
        for name, group in self._groups.items():
            self._lost.update((name, channel) for channel in group.members)
        self._begins = row
        self._groups.clear()
        self.behind.clear()

    def has_begun(self) -> None:
        """All members were added again."""
        self._lost.clear()

    def check_some(self) -> None:
        """Lets the next look read the members of some groups again, in turn."""
        if not self._to_check:
            self._to_check = list(self._groups)
        self._unchecked.update(self._to_check[-CHECKED:])
        del self._to_check[-CHECKED:]

    def take_unchecked(self) -> set[str]:
        """The groups whose members must be read again."""
        unchecked, self._unchecked = self._unchecked, set()
        return unchecked
