"""The members and histories of groups, for `base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from channels.layers import BaseChannelLayer

from channels_lite.delivery.log import Log, without_history
from channels_lite.delivery.remembered import HistoryMessage
from channels_lite.errors import InvalidMessage
from channels_lite.history import History, Joined, parse
from channels_lite.layers.engine import Engine
from channels_lite.layers.keys import HISTORY_ID, HISTORY_IS_COMPLETE, TRACE
from channels_lite.process import enter
from channels_lite.serializers import BaseMessageSerializer, UndecodableMessage

__all__ = ["GroupMethods", "require_no_position", "tell_position"]


def tell_position(message: dict[str, Any], taken: HistoryMessage) -> None:
    """Adds to a received message where it is in the history."""
    message[HISTORY_ID] = taken.position
    if not taken.is_complete:
        message[HISTORY_IS_COMPLETE] = False


def require_no_position(message: Mapping[str, Any]) -> None:
    """Raises ``InvalidMessage`` if it has keys that the layer adds to received messages."""
    for key in (HISTORY_ID, HISTORY_IS_COMPLETE):
        if key in message:
            raise InvalidMessage(f"a message to a group with a history must not contain {key}")


class GroupMethods(BaseChannelLayer):  # type: ignore[misc]
    """The methods of a layer for groups, except ``group_send``."""

    serializer: BaseMessageSerializer
    group_expiry: float
    _engine: Engine

    def _log_of(self, group: str) -> Log | None:
        """The log that has the history of ``group``; None: it has none."""
        log = self._engine.log
        return None if log is None or log.limits(group) is None else log

    async def group_add(self, group: str, channel: str, after: str | None = None) -> Joined | None:
        """Makes ``channel`` a member of ``group`` for ``group_expiry`` seconds from now.

        Returns None if the group has no history (``CONFIG["group_history"]``).

        Otherwise returns a `Joined`, which is true if the channel will miss nothing.  ``after`` is
        the ``history_id`` of the last message that a client has received, or a ``position``: the
        channel first receives the messages after it, in their order, and then new ones.  If some
        of them are gone, or the position is of another group or history, the result is false, and
        the channel receives new messages only.

        Without ``after``, an existing membership is only renewed.

        Raises ``TypeError`` for an invalid name, ``InvalidPosition`` (a ``ValueError``) if
        ``after`` is no position, ``ValueError`` if it is given for a plain channel, and
        ``ImproperlyConfigured`` if it is given for a group without a history.  Then nothing has
        changed.
        """
        enter()
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        log = self._log_of(group)
        if log is None:
            if after is not None:
                raise without_history(group)
            self._engine.has_joined = True
            await self._engine.sending.join(group, channel, self.group_expiry)
            return None
        position = None if after is None else parse(after)
        if position is not None and "!" not in channel:
            raise ValueError(f"{channel} is a plain channel, which cannot join after a position")
        self._engine.has_joined = True
        forget = self._engine.forget_membership
        return await log.join(group, channel, self.group_expiry, position, forget)

    async def group_history(
        self, group: str, after: str | None = None, limit: int | None = None
    ) -> History:
        """The messages of ``group`` after a position, oldest first.  Nobody joins.

        With ``limit``, at most so many: the first ones after the position ``after``.  Without
        ``after``, or if the position is not known any more, the last ones of the history.

        Raises ``TypeError`` for an invalid name, ``InvalidPosition`` (a ``ValueError``) if
        ``after`` is no position, ``ValueError`` if ``limit`` is not a positive number, and
        ``ImproperlyConfigured`` if the group has no history.
        """
        enter()
        self.require_valid_group_name(group)
        log = self._log_of(group)
        if log is None:
            raise without_history(group)
        if limit is not None and limit <= 0:
            raise ValueError(f"limit must be positive, but is {limit}")
        position = None if after is None else parse(after)
        rows, is_complete, end = await log.read(group, position, limit)
        messages = []
        for row in rows:
            try:
                message = self.serializer.deserialize(row.data)
            except UndecodableMessage as error:
                log.drop(group, str(row.position), error)
                continue
            message.pop(TRACE, None)
            message[HISTORY_ID] = str(row.position)
            messages.append(message)
        return History(messages, is_complete, str(end))

    async def group_discard(self, group: str, channel: str) -> None:
        """Ends a membership.  Does nothing if there is none."""
        enter()
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self._engine.sending.leave(group, channel)

    async def group_channels(self, group: str) -> list[str]:
        """The full names of the members of ``group``, sorted.  It is not in the specification.

        Channels of killed processes are included until they are cleaned up.
        """
        enter()
        self.require_valid_group_name(group)
        return await self._engine.sending.members(group)
