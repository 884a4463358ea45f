"""Histories in Redis: a stream for each group, and the ids of all of them in one sequence.

An id is the time in microseconds, or one more than the last id.  So ids grow even if Redis has lost
its data, and no id is ever used twice.  A stream ends when its last message is too old, and a
sorted set keeps the last id of each group for a week longer.  So it is known exactly up to which
message a group is deleted.

Thread: the relay's loop.  It has no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import itemgetter
from typing import ClassVar

from channels_lite.history import Limit, Limits
from channels_lite.relay import Head, Page, Recent, Settings, most_of
from channels_lite.relay.redis.pipeline import Pipeline

__all__ = ["AFTER", "APPEND", "CHANGED", "Histories"]

# Seconds after which a group without messages is forgotten.  Clients that come back later load
# their state anew.
FORGET_AFTER = 7 * 86400
# Messages that one look returns, unless more groups have new ones; and bytes of a group that one
# read returns, and one message more.
MOST = 1000
READ_BYTES = 256 * 1024

# KEYS: the log (a hash: epoch, last, and the last id of groups that are forgotten), and sorted sets
# by group: the last id, up to which id it is deleted, and when it is forgotten.  Numbers below 2^53
# are exact in Lua, but tostring() shortens them.
_HEAD = """
local log, lasts, trimmed, ends, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number) return string.format('%.0f', number) end
local function get(field) return tonumber(redis.call('HGET', log, field) or '0') end
if get('epoch') == 0 then
  redis.call('HSET', log, 'epoch', text(now), 'last', text(now), 'forgotten', text(now))
end
local function id_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
"""
# More KEYS: the plain channels of the group.  ARGV: group, data, how many are kept, for how many
# microseconds, for how many more the group is known, and what is published.
APPEND = (
    _HEAD
    + """
local group, most, age = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 10)) do
  local last = tonumber(redis.call('ZSCORE', lasts, old) or '0')
  if last > get('forgotten') then redis.call('HSET', log, 'forgotten', text(last)) end
  for _, set in ipairs({lasts, trimmed, ends}) do redis.call('ZREM', set, old) end
end
if not redis.call('ZSCORE', lasts, group) then
  redis.call('ZADD', trimmed, redis.call('HGET', log, 'forgotten'), group)
elseif redis.call('EXISTS', stream) == 0 then
  redis.call('ZADD', trimmed, redis.call('ZSCORE', lasts, group), group)
end
local id = math.max(get('last') + 1, now)
redis.call('XADD', stream, text(id) .. '-0', 'd', ARGV[2])
redis.call('HSET', log, 'last', text(id))
redis.call('ZADD', lasts, text(id), group)
redis.call('ZADD', ends, text(now + age + tonumber(ARGV[5])), group)
local extra = redis.call('XLEN', stream) - most
for number = 1, 100 do
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if number > extra and id_of(first) > now - age then break end
  redis.call('XDEL', stream, first[1])
  if id_of(first) > tonumber(redis.call('ZSCORE', trimmed, group)) then
    redis.call('ZADD', trimmed, text(id_of(first)), group)
  end
end
redis.call('PEXPIRE', stream, math.ceil(age / 1000))
redis.call('PUBLISH', ARGV[6], ARGV[7])
return redis.call('ZRANGEBYSCORE', KEYS[6], '(' .. text(now / 1000), '+inf')
"""
)
# ARGV: an id.
CHANGED = (
    _HEAD
    + """
local found = redis.call('ZRANGEBYSCORE', lasts, '(' .. ARGV[1], '+inf')
return {redis.call('HGET', log, 'epoch'), redis.call('HGET', log, 'last'), found}
"""
)
# ARGV: group, an id, the number of messages, and of bytes, and for how many microseconds they are
# kept.  An older one may still be there until the next is appended.
AFTER = (
    _HEAD
    + """
local group, row, most, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local last = tonumber(redis.call('ZSCORE', lasts, group) or '0')
local gone = tonumber(redis.call('ZSCORE', trimmed, group) or redis.call('HGET', log, 'forgotten'))
if last > 0 and redis.call('EXISTS', stream) == 0 then gone = last end
local old = redis.call('XREVRANGE', stream, text(now - tonumber(ARGV[5])), '-', 'COUNT', 1)[1]
if old then gone = math.max(gone, id_of(old)) end
local found, size, from, is_all = {}, 0, math.max(row, gone), 0
while #found < 2 * most and size <= bytes do
  local some = redis.call('XRANGE', stream, text(from + 1), '+', 'COUNT', 10)
  for _, entry in ipairs(some) do
    if #found == 2 * most or size > bytes then break end
    from, size = id_of(entry), size + #entry[2][2]
    found[#found + 1] = text(from)
    found[#found + 1] = entry[2][2]
  end
  if #some < 10 then break end
end
if #redis.call('XRANGE', stream, text(from + 1), '+', 'COUNT', 1) == 0 then is_all = 1 end
return {redis.call('HGET', log, 'epoch'), redis.call('HGET', log, 'last'), is_all, text(gone),
        text(last), found}
"""
)


class Histories:
    """Appends and reads."""

    #: The kind of the streams' keys.
    KIND: ClassVar[str] = "h"

    def __init__(
        self, settings: Settings, pipeline: Pipeline, members: Callable[[str], str]
    ) -> None:
        self._pipeline = pipeline
        #: The key of a group's plain channels.
        self._members = members
        self._streams = f"{settings.prefix}:{self.KIND}:"
        name = f"{settings.prefix}:histories"
        self._log = [name, f"{name}:last", f"{name}:trimmed", f"{name}:ends"]

    def _keys(self, group: str) -> list[str]:
        return [*self._log, f"{self._streams}{group}"]

    async def append(
        self, group: str, data: bytes, limit: Limit, told: tuple[str, bytes]
    ) -> list[str]:
        """By `APPEND`."""
        keys = [*self._keys(group), self._members(group)]
        kept = most_of(limit), _microseconds(limit.seconds), _microseconds(FORGET_AFTER)
        channels = await self._pipeline.run(APPEND, keys, group, data, *kept, *told)
        return [channel.decode() for channel in channels]

    async def recent(self, row: int | None, limit_of: Limits) -> Recent:
        """By `CHANGED`, and then `AFTER` for each of these groups."""
        asked = "+inf" if row is None else row
        epoch, last, changed = await self._pipeline.run(CHANGED, self._keys(""), asked)
        head = Head(int(epoch), int(last))
        limits = {group: limit_of(group) for group in map(bytes.decode, changed)}
        wanted = {group: limit for group, limit in limits.items() if limit is not None}
        share = max(10, MOST // max(1, len(wanted)))
        reading = [self.after(group, row or 0, share, limit) for group, limit in wanted.items()]
        pages = dict(zip(wanted, await asyncio.gather(*reading), strict=True))
        ends = [page.rows[-1][0] for page in pages.values() if not page.is_all]
        through = min([head.last, *ends])
        rows = [
            (group, id_, data)
            for group, page in pages.items()
            for id_, data in page.rows
            if id_ <= through  # others have come since, perhaps also of other groups
        ]
        rows.sort(key=itemgetter(1))
        return Recent(head, through, rows, {group: each.trimmed for group, each in pages.items()})

    async def after(self, group: str, row: int, most: int, limit: Limit) -> Page:
        """By `AFTER`."""
        bounds = row, most, READ_BYTES, _microseconds(limit.seconds)
        found = await self._pipeline.run(AFTER, self._keys(group), group, *bounds)
        epoch, last, is_all, trimmed, newest, flat = found
        rows = [(int(row), data) for row, data in zip(flat[::2], flat[1::2], strict=True)]
        head = Head(int(epoch), int(last))
        return Page(head, rows, bool(is_all), int(trimmed), int(newest))

    async def before(self, group: str, most: int) -> int:
        """From the end.  What is too old is not read anyway."""
        what = "XREVRANGE", f"{self._streams}{group}", "+", "-", "COUNT", most
        found = await self._pipeline.ask(*what)
        return int(found[-1][0].partition(b"-")[0]) - 1 if found else 0

    async def kept(self) -> tuple[int, int]:
        """Counts each stream."""
        groups = await self._pipeline.ask("ZRANGE", self._log[1], 0, -1)
        asked = (self._pipeline.ask("XLEN", f"{self._streams}{each.decode()}") for each in groups)
        counts = list(filter(None, await asyncio.gather(*asked)))
        return sum(counts), len(counts)

    async def clear(self) -> None:
        """Ends the log.  What is left of streams then is from before the next one, and so gone."""
        await self._pipeline.ask("UNLINK", *self._log)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
