-- What a Redis (or Valkey) does for Tidegate: each call of this script is atomic. Keys: see redis_keys.py.
--
-- KEYS   keys of sessions
-- ARGV   verb, base of all keys, replica, milliseconds of a lease, of a held row, of a stored row; then by verb
--
-- An epoch is the time in microseconds at which it was given, or one more than the row's last: it grows even where the
-- store came back with old data, or with none. It is below 2^53, exact as a Lua number.

local verb, base, me = ARGV[1], ARGV[2], ARGV[3]
local lease_ms, held_ms, stored_ms = ARGV[4], ARGV[5], ARGV[6]
local FIRST = 7 -- of the arguments that depend on the verb

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- What says that the store is still the one it was: whoever comes first makes it.
local function generation()
  redis.call('SET', base .. 'generation', string.format('%.0f', now), 'NX')
  return redis.call('GET', base .. 'generation')
end

local function lease(replica)
  return base .. 'lease:' .. replica
end

local function wanted(replica)
  return base .. 'wanted:' .. replica
end

-- Epoch and owner of a row; nil where there is none.
local function holder(key)
  local row = redis.call('HMGET', key, 'epoch', 'owner')
  return tonumber(row[1] or nil), row[2] or ''
end

local function holds(key, epoch)
  local found, owner = holder(key)
  return found == epoch and owner == me
end

-- Whether my claim of that epoch is past. A higher one than the row's own is not: the store lost that claim.
local function lost(key, epoch)
  local found, owner = holder(key)
  return found ~= nil and (found > epoch or (found == epoch and owner ~= me))
end

-- Drops a row. Of one that was seized (taken from an owner whose lease had run out) its epoch stays: who lost it and
-- wakes up later finds that out, and does not bring an ended session back.
local function forget(key)
  if redis.call('HEXISTS', key, 'seized') == 1 then
    redis.call('HDEL', key, 'version', 'fingerprint', 'step', 'layout', 'active_at', 'content')
    redis.call('HSET', key, 'owner', '')
    redis.call('PEXPIRE', key, stored_ms)
  else
    redis.call('DEL', key)
  end
end

local alive = {} -- by owner, asked once a call
local function is_alive(owner)
  if alive[owner] == nil then
    alive[owner] = redis.call('EXISTS', lease(owner)) == 1
  end
  return alive[owner]
end

local verbs = {}

-- A row each: {epoch, version, fingerprint, step, layout, active_at, content}, or {0, owner}.
function verbs.claim()
  local answers = {}
  generation()
  for i, key in ipairs(KEYS) do
    local epoch, owner = holder(key)
    if owner ~= '' and owner ~= me and is_alive(owner) then
      redis.call('SADD', wanted(owner), key)
      redis.call('PEXPIRE', wanted(owner), lease_ms)
      answers[i] = {0, owner}
    else
      if owner ~= me then
        epoch = math.max((epoch or 0) + 1, now)
        redis.call('HSET', key, 'epoch', string.format('%.0f', epoch), 'owner', me)
        if owner ~= '' then
          redis.call('HSET', key, 'seized', '1')
        end
      end
      redis.call('PEXPIRE', key, held_ms)
      local row = redis.call('HMGET', key, 'version', 'fingerprint', 'step', 'layout', 'active_at', 'content')
      answers[i] = {epoch, row[1], row[2], row[3], row[4], row[5], row[6]}
    end
  end
  return answers
end

-- Arguments: how many layouts, then digest and bytes of each; then of each row epoch, version, fingerprint, step, digest
-- of the layout, active_at, content. Answers the places of rows that are lost, from 1.
function verbs.save()
  local answers, at = {}, FIRST + 1
  generation()
  for _ = 1, tonumber(ARGV[FIRST]) do
    redis.call('SET', base .. 'layout:' .. ARGV[at], ARGV[at + 1], 'NX')
    at = at + 2
  end
  for i, key in ipairs(KEYS) do
    if lost(key, tonumber(ARGV[at])) then
      answers[#answers + 1] = i
    else
      redis.call('HSET', key, 'epoch', ARGV[at], 'owner', me, 'version', ARGV[at + 1], 'fingerprint', ARGV[at + 2],
        'step', ARGV[at + 3], 'layout', ARGV[at + 4], 'active_at', ARGV[at + 5],
        'content', ARGV[at + 6])
      redis.call('PEXPIRE', key, held_ms)
    end
    at = at + 7
  end
  return answers
end

-- Arguments: epochs. Answers as `save` does.
function verbs.lost()
  local answers = {}
  for i, key in ipairs(KEYS) do
    if lost(key, tonumber(ARGV[FIRST + i - 1])) then
      answers[#answers + 1] = i
    end
  end
  return answers
end

-- Arguments: epochs.
function verbs.release()
  for i, key in ipairs(KEYS) do
    if holds(key, tonumber(ARGV[FIRST + i - 1])) then
      if redis.call('HEXISTS', key, 'content') == 1 then
        redis.call('HSET', key, 'owner', '')
        redis.call('PEXPIRE', key, stored_ms)
      else
        forget(key)
      end
    end
  end
end

-- Answers the places of rows that stay, from 1.
function verbs.delete()
  local answers = {}
  for i, key in ipairs(KEYS) do
    local _, owner = holder(key)
    if owner == me then
      forget(key)
    elseif owner ~= '' or redis.call('HEXISTS', key, 'content') == 1 then
      answers[#answers + 1] = i
    end
  end
  return answers
end

-- Argument: how many keys at most. Answers the generation, and then keys that others want.
function verbs.renew()
  redis.call('SET', lease(me), '1', 'PX', lease_ms)
  local answers = {generation()}
  for _, key in ipairs(redis.call('SPOP', wanted(me), ARGV[FIRST])) do
    local _, owner = holder(key)
    if owner == me then
      answers[#answers + 1] = key
    end
  end
  return answers
end

return verbs[verb]()
