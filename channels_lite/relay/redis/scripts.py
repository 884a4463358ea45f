"""Scripts that run atomically inside Redis, and use its clock."""

from __future__ import annotations

import hashlib
from functools import cache

__all__ = ["JOIN", "MEMBERS", "PUT", "TAKE", "sha_of"]

# Expired jobs do not count.  "now" is Redis's time in milliseconds.
_HEAD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local queue, waiting, ends = KEYS[1], KEYS[2], ARGV[1]
local function until_of(job) return tonumber(string.sub(job, 1, 15)) end
local function drop_expired()
  while true do
    local first = redis.call('LINDEX', queue, 0)
    if not first or until_of(first) > now then return end
    redis.call('LPOP', queue)
  end
end
"""
# Publishes a job to the first waiting process that still subscribes to ends .. token.
_HAND_OVER = """
local function hand_over(channel, job)
  while true do
    local token = redis.call('LPOP', waiting)
    if not token then return false end
    local told = tostring(until_of(job) - now) .. ' ' .. channel .. ' ' .. string.sub(job, 16)
    if redis.call('PUBLISH', ends .. token, told) > 0 then return true end
  end
end
"""
# ARGV: where jobs come, channel, data, milliseconds to live, capacity (0: none), whether it goes
# to the front.  1: done; 0: full.
PUT = (
    _HEAD
    + _HAND_OVER
    + """
drop_expired()
local ttl = tonumber(ARGV[4])
local job = string.format('%015d', now + ttl) .. ARGV[3]
if hand_over(ARGV[2], job) then return 1 end
local capacity = tonumber(ARGV[5])
if ARGV[6] == '1' then
  redis.call('LPUSH', queue, job)
else
  if capacity > 0 and redis.call('LLEN', queue) >= capacity then return 0 end
  redis.call('RPUSH', queue, job)
end
if redis.call('PTTL', queue) < ttl then redis.call('PEXPIRE', queue, ttl + 1000) end
return 1
"""
)
# ARGV: (unused), token, how many are wanted, milliseconds for which the others are waited for.
# Returns jobs, each with its milliseconds to live before it.
TAKE = (
    _HEAD
    + """
drop_expired()
local token, wanted = ARGV[2], tonumber(ARGV[3])
redis.call('LREM', waiting, 0, token)
local found = {}
while #found < 2 * wanted do
  local job = redis.call('LPOP', queue)
  if not job then break end
  if until_of(job) > now then
    found[#found + 1] = tostring(until_of(job) - now)
    found[#found + 1] = string.sub(job, 16)
  end
end
for _ = #found / 2 + 1, wanted do redis.call('RPUSH', waiting, token) end
redis.call('PEXPIRE', waiting, tonumber(ARGV[4]))
return found
"""
)
# KEYS: the group.  ARGV: channel, milliseconds; or nothing, and who is a member is asked.
JOIN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + 1000)
end
return 1
"""
MEMBERS = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
"""


@cache
def sha_of(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
