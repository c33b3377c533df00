"""The shared session's Redis scripts: each is one atomic step of the protocol told in `shared.py`.

Every script may be run twice for the same owner, because a client that lost the answer asks again: the second run
gives the same answer and leaves the same state. All durations are milliseconds, all times Redis' own clock.

All take the same KEYS, which share one hash tag so that Redis Cluster keeps them together:

    KEYS[1] session   hash   gen, blob, at_exp, refresh_after, born, life, origin, key_id, writer, fp, burnt
    KEYS[2] lease     hash   owner, fence                         expires unless extended
    KEYS[3] fence     int    the last fence handed out
    KEYS[4] cooldown  hash   class, reason, until, failures, and refused:<fingerprint of the signing keys>
    KEYS[5] pace      owner of the last token call               expires

All answer an array: a word, Redis' clock, then what that word brings. `SESSION` below stands for the eleven fields of
the session in the order above (missing ones are nil).
"""

_HEAD = """
local S, L, F, C, P = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function int(x) return string.format('%.0f', x) end
local function field(key, name) return redis.call('HGET', key, name) or nil end
local function gen() return tonumber(field(S, 'gen') or 0) end
local function reply(word, more)
  local out = {word, int(now)}
  for i = 1, #more do out[i + 2] = more[i] end
  return out
end
local function session()
  return redis.call('HMGET', S, 'gen', 'blob', 'at_exp', 'refresh_after', 'born', 'life',
                    'origin', 'key_id', 'writer', 'fp', 'burnt')
end
"""

# SEEN, now, SESSION, lease owner, lease ttl, cooldown class, reason, ms left (0: none), failures
LOOK = (
    _HEAD
    + """
local out = reply('SEEN', session())
out[14] = field(L, 'owner') or false
out[15] = math.max(0, redis.call('PTTL', L))
out[16] = field(C, 'class') or false
out[17] = field(C, 'reason') or false
out[18] = int(math.max(0, tonumber(field(C, 'until') or 0) - now))
out[19] = tonumber(field(C, 'failures') or 0)
return out
"""
)

# ARGV: owner, expected generation, lease ms, fingerprint of the signing keys, '1' = through a cooldown
# NEWER, now, SESSION    the stored generation is above the expected one: use it
# BUSY, now, ttl         another owner holds the lease, or has just talked to B2COPY
# COOLDOWN, now, left    nobody asks for so long
# LEADER, now, SESSION, fence, failures so far
ACQUIRE = (
    _HEAD
    + """
local owner, expected, lease, keys, forced = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5] == '1'
local stored = gen()
if stored > expected then return reply('NEWER', session()) end
local holder = field(L, 'owner')
if holder and holder ~= owner then return reply('BUSY', {redis.call('PTTL', L)}) end
local left = tonumber(field(C, 'until') or 0) - now
if left > 0 and not forced and not holder then
  -- A refused login is not repeated, unless by somebody with other keys than those that were refused.
  local other_keys = field(C, 'class') == 'terminal' and redis.call('HEXISTS', C, 'refused:' .. keys) == 0
  if not other_keys then return reply('COOLDOWN', {int(left)}) end
end
local paced = redis.call('GET', P)
if paced and paced ~= owner then return reply('BUSY', {redis.call('PTTL', P)}) end
local fence = tonumber(field(L, 'fence') or 0)
if not holder then
  -- Redis' clock keeps fences rising even when everything stored was lost.
  fence = math.max(tonumber(redis.call('GET', F) or 0) + 1, stored + 1, expected + 1, now)
  redis.call('SET', F, int(fence))
  redis.call('HSET', L, 'owner', owner, 'fence', int(fence))
end
redis.call('PEXPIRE', L, lease)
local out = reply('LEADER', session())
out[14] = int(fence)
out[15] = tonumber(field(C, 'failures') or 0)
return out
"""
)

# ARGV: owner, lease ms, pace ms       before every token call
# HELD, now, stored generation | LOST, now
EXTEND = (
    _HEAD
    + """
if field(L, 'owner') ~= ARGV[1] then return reply('LOST', {}) end
redis.call('PEXPIRE', L, ARGV[2])
redis.call('SET', P, ARGV[1], 'PX', ARGV[3])
return reply('HELD', {int(gen())})
"""
)

# ARGV: owner, generation              before the refresh token leaves the process
# BURNT, now         by this owner: present it, once
# SPENT, now         somebody else did, or this generation is no longer the stored one: do not
# LOST, now
BURN = (
    _HEAD
    + """
if field(L, 'owner') ~= ARGV[1] then return reply('LOST', {}) end
if gen() ~= tonumber(ARGV[2]) then return reply('SPENT', {}) end
redis.call('HSETNX', S, 'burnt', ARGV[1])
return reply(field(S, 'burnt') == ARGV[1] and 'BURNT' or 'SPENT', {})
"""
)

# ARGV: owner, fence, ttl ms, then blob, at_exp, refresh_after, born, life, origin, key_id, fp
# COMMITTED, now, SESSION | CONFLICT, now, SESSION      a newer generation stands: drop the pair
COMMIT = (
    _HEAD
    + """
local owner, fence = ARGV[1], tonumber(ARGV[2])
local stored = gen()
local mine = stored == fence and field(S, 'writer') == owner
if field(L, 'owner') == owner then redis.call('DEL', L) end
if fence <= stored and not mine then return reply('CONFLICT', session()) end
if not mine then
  redis.call('DEL', S, C)
  redis.call('HSET', S, 'gen', ARGV[2], 'writer', owner, 'blob', ARGV[4], 'at_exp', ARGV[5], 'refresh_after', ARGV[6],
             'born', ARGV[7], 'life', ARGV[8], 'origin', ARGV[9], 'key_id', ARGV[10], 'fp', ARGV[11])
  redis.call('PEXPIRE', S, ARGV[3])
  if tonumber(redis.call('GET', F) or 0) < fence then redis.call('SET', F, ARGV[2]) end
end
return reply('COMMITTED', session())
"""
)

# ARGV: owner, class, reason, cooldown ms (0: none), fingerprint of the signing keys
# FREED, now | LOST, now
FAIL = (
    _HEAD
    + """
if field(L, 'owner') ~= ARGV[1] then return reply('LOST', {}) end
redis.call('DEL', L)
if redis.call('GET', P) == ARGV[1] then redis.call('DEL', P) end
local pause = tonumber(ARGV[4])
if pause > 0 then
  if field(C, 'class') ~= ARGV[2] then redis.call('DEL', C) end
  redis.call('HSET', C, 'class', ARGV[2], 'reason', ARGV[3], 'until', int(now + pause))
  redis.call('HINCRBY', C, 'failures', 1)
  if ARGV[2] == 'terminal' then redis.call('HSET', C, 'refused:' .. ARGV[5], '1') end
  redis.call('PEXPIRE', C, pause + 60000)
end
return reply('FREED', {})
"""
)

# ARGV: generation                     B2COPY refused its access token
# DONE, now
INVALIDATE = (
    _HEAD
    + """
if gen() == tonumber(ARGV[1]) then
  local at = math.min(tonumber(field(S, 'at_exp')), now)
  redis.call('HSET', S, 'at_exp', int(at), 'refresh_after', int(math.min(tonumber(field(S, 'refresh_after')), at)))
end
return reply('DONE', {})
"""
)

# DONE, now                            the fence stays, so that generations go on rising
FORGET = (
    _HEAD
    + """
redis.call('DEL', S, C, P)
return reply('DONE', {})
"""
)

ALL = (LOOK, ACQUIRE, EXTEND, BURN, COMMIT, FAIL, INVALIDATE, FORGET)
