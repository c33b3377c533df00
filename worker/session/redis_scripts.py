"""The shared session's Redis scripts: each is one atomic step of the protocol that `shared_session.py` describes.

Every script may be run twice for the same owner, because a client that lost the answer asks again: the second run
gives the same answer and leaves the same state. All durations are milliseconds, all times are Redis' own clock.

All take the same KEYS, which share one hash tag so that Redis Cluster keeps them together:

    KEYS[1] session           hash   generation, blob, expires_at, renew_after, obtained_at, life, origin, credential,
                                     written_by, fingerprint, refresh_token_used_by
    KEYS[2] renewal_lease     hash   owner, generation, length             expires unless extended
    KEYS[3] last_generation   int    the last generation that a renewal lease was given
    KEYS[4] cooldown          hash   class, reason, until, length, failures; refused:<fingerprint of the credentials>:
                                     until, length and reason of a refused login, which a failure of other
                                     credentials leaves alone
    KEYS[5] pace              owner of the last token call                 expires

All answer an array: a word, Redis' clock, then what belongs to that word. `SESSION` below stands for the eleven fields
of the session in the order above. They are nil if the session is not whole: any other value in one of our keys, from
whatever wrote it, counts as no session and no lease, so that the fleet logs in again.
"""

_HEAD = """
local S, L, G, C, P = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- What has more time left than these, or than its own length, is not ours or from before Redis' clock was set back.
local LONGEST_COOLDOWN, LONGEST_LEASE, LONGEST_PACE = 3600000, 600000, 10000
local CLOCK_STEP = 5000  -- a clock that is set back by less ends nothing
local HIGHEST = now * 200  -- a higher generation is not from these scripts, and too few numbers could follow it
local function int(x) return string.format('%.0f', x) end
local function is(key, type) return redis.call('TYPE', key).ok == type end
local function field(key, name) return is(key, 'hash') and redis.call('HGET', key, name) or nil end
local function text(key) return is(key, 'string') and redis.call('GET', key) or nil end
local function number(value)
  if not value or not string.match(value, '^%d+$') or #value > 15 then return nil end
  return tonumber(value)
end
local function reply(word, more)
  local out = {word, int(now)}
  for i = 1, #more do out[i + 2] = more[i] end
  return out
end
local function session()
  local none = {false, false, false, false, false, false, false, false, false, false, false}
  if not is(S, 'hash') then return none end
  local found = redis.call('HMGET', S, 'generation', 'blob', 'expires_at', 'renew_after', 'obtained_at', 'life',
                           'origin', 'credential', 'written_by', 'fingerprint', 'refresh_token_used_by')
  for i = 1, 10 do if not found[i] then return none end end
  for _, i in ipairs({1, 3, 4, 5, 6}) do if not number(found[i]) then return none end end
  if number(found[1]) > HIGHEST then return none end
  return found
end
local function generation() return number(session()[1]) or 0 end
-- Whether a key expires within this time. Any other key is ignored: it never expires, or Redis' clock was set back and
-- the key would stay until the clock has caught up.
local function expires(key, longest)
  local left = redis.call('PTTL', key)
  return left >= 0 and left <= longest
end
local function most_left(length, longest) return math.min(number(length) or longest, longest) + CLOCK_STEP end
local function lease_owner()
  return expires(L, most_left(field(L, 'length'), LONGEST_LEASE)) and field(L, 'owner') or nil
end
local function left_until(instant, length)
  local left = (number(instant) or 0) - now
  return left > 0 and left <= most_left(length, LONGEST_COOLDOWN) and left or 0
end
local function cooldown_left() return left_until(field(C, 'until'), field(C, 'length')) end
local function failures() return number(field(C, 'failures')) or 0 end
"""

# SEEN, now, SESSION, owner of the renewal lease, cooldown class, reason, ms left (0: none)
LOOK = (
    _HEAD
    + """
local out = reply('SEEN', session())
out[14] = lease_owner() or false
out[15] = field(C, 'class') or false
out[16] = field(C, 'reason') or false
out[17] = int(cooldown_left())
return out
"""
)

# ARGV: owner, expected generation, lease ms, fingerprint of the credentials, '1' = in spite of a cool-down
# NEWER, now, SESSION    the stored generation is above the expected one: use it
# BUSY, now, ttl         another owner holds the renewal lease, or has just talked to B2COPY
# COOLDOWN, now, left, class, reason    nobody asks for `left` ms, or nobody with these credentials
# LEADER, now, SESSION, generation to write, failures so far
ACQUIRE = (
    _HEAD
    + """
local owner, expected, lease, credentials, forced = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5] == '1'
local stored = generation()
if stored > expected then return reply('NEWER', session()) end
local holder = lease_owner()
if holder and holder ~= owner then return reply('BUSY', {redis.call('PTTL', L)}) end
if not forced and not holder then
  -- A refused login binds those who have the credentials that were refused, and every other failure binds everybody.
  local class, reason = field(C, 'class'), field(C, 'reason')
  local left = class ~= 'terminal' and cooldown_left() or 0
  local ends, length, why = string.match(field(C, 'refused:' .. credentials) or '', '^(%d+) (%d+) (.*)$')
  if left_until(ends, length) > left then left, class, reason = left_until(ends, length), 'terminal', why end
  if left > 0 then return reply('COOLDOWN', {int(left), class or false, reason or false}) end
end
local paced = expires(P, LONGEST_PACE) and text(P)
if paced and paced ~= owner then return reply('BUSY', {redis.call('PTTL', P)}) end
local mine = number(field(L, 'generation')) or 0
if not holder then
  -- Redis' clock lets generations rise even when everything stored was lost.
  local last = number(text(G)) or 0
  mine = math.max((last <= HIGHEST and last or 0) + 1, stored + 1, expected + 1, now)
  redis.call('SET', G, int(mine))  -- first, because a Redis that is out of memory refuses it, but no write after a DEL
  redis.call('DEL', L)
  redis.call('HSET', L, 'owner', owner, 'generation', int(mine), 'length', lease)
end
redis.call('PEXPIRE', L, lease)
local out = reply('LEADER', session())
out[14] = int(mine)
out[15] = int(failures())
return out
"""
)

# ARGV: owner, ms of the renewal lease, pace ms       before every token call
# HELD, now, stored generation | LOST, now
EXTEND = (
    _HEAD
    + """
if lease_owner() ~= ARGV[1] then return reply('LOST', {}) end
redis.call('PEXPIRE', L, ARGV[2])
redis.call('SET', P, ARGV[1], 'PX', ARGV[3])
return reply('HELD', {int(generation())})
"""
)

# ARGV: owner, generation              before the refresh token leaves the process
# MARKED, now        by this owner: present it, once
# USED, now          somebody else marked it, or this generation is no longer the stored one: do not present it
# LOST, now
MARK_REFRESH_TOKEN_USED = (
    _HEAD
    + """
if lease_owner() ~= ARGV[1] then return reply('LOST', {}) end
if generation() ~= tonumber(ARGV[2]) then return reply('USED', {}) end
redis.call('HSETNX', S, 'refresh_token_used_by', ARGV[1])
return reply(field(S, 'refresh_token_used_by') == ARGV[1] and 'MARKED' or 'USED', {})
"""
)

# ARGV: owner, generation, ttl ms, blob, expires_at, renew_after, obtained_at, life, origin, credential, fingerprint
# COMMITTED, now, SESSION | CONFLICT, now, SESSION      a newer generation is stored: drop the pair
COMMIT = (
    _HEAD
    + """
local owner, mine = ARGV[1], tonumber(ARGV[2])
local stored = generation()
local done = stored == mine and field(S, 'written_by') == owner
if lease_owner() == owner then redis.call('DEL', L) end
if mine <= stored and not done then return reply('CONFLICT', session()) end
if not done then
  redis.call('DEL', S, C)
  redis.call('HSET', S, 'generation', ARGV[2], 'written_by', owner, 'blob', ARGV[4], 'expires_at', ARGV[5],
             'renew_after', ARGV[6], 'obtained_at', ARGV[7], 'life', ARGV[8], 'origin', ARGV[9], 'credential', ARGV[10],
             'fingerprint', ARGV[11])
  redis.call('PEXPIRE', S, ARGV[3])
  if (number(text(G)) or 0) < mine then redis.call('SET', G, ARGV[2]) end
end
return reply('COMMITTED', session())
"""
)

# ARGV: owner, class, reason, cool-down ms (0: none), fingerprint of the credentials
# FREED, now | LOST, now
FAIL = (
    _HEAD
    + """
if lease_owner() ~= ARGV[1] then return reply('LOST', {}) end
redis.call('DEL', L)
if text(P) == ARGV[1] then redis.call('DEL', P) end
local pause = tonumber(ARGV[4])
if pause > 0 then
  local count = field(C, 'class') == ARGV[2] and failures() or 0
  if not is(C, 'hash') then redis.call('DEL', C) end
  local ends, length = int(now + pause), int(pause)
  redis.call('HSET', C, 'class', ARGV[2], 'reason', ARGV[3], 'until', ends, 'length', length, 'failures',
             int(count + 1))
  if ARGV[2] == 'terminal' then
    redis.call('HSET', C, 'refused:' .. ARGV[5], ends .. ' ' .. length .. ' ' .. ARGV[3])
  end
  redis.call('PEXPIRE', C, int(math.max(redis.call('PTTL', C), pause + 60000)))
end
return reply('FREED', {})
"""
)

# ARGV: generation                     B2COPY refused its access token
# DONE, now
INVALIDATE = (
    _HEAD
    + """
local found = session()
if number(found[1]) == tonumber(ARGV[1]) then
  local at = math.min(number(found[3]), now)
  redis.call('HSET', S, 'expires_at', int(at), 'renew_after', int(math.min(number(found[4]), at)))
end
return reply('DONE', {})
"""
)

# DONE, now                            last_generation stays, so that generations go on rising
FORGET = (
    _HEAD
    + """
redis.call('DEL', S, C, P)
return reply('DONE', {})
"""
)

ALL = (LOOK, ACQUIRE, EXTEND, MARK_REFRESH_TOKEN_USED, COMMIT, FAIL, INVALIDATE, FORGET)
