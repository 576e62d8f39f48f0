-- What every script of the allowances begins with: what one tenant spent in its window, and holds.
--
-- KEYS[1]  longthink:{tenant:<id>}:spent; it also names the slot
-- ARGV     prefix ("longthink:{tenant:<id>}:"), window (ms), ttl (ms), lease (ms), then the script's
--
--   <prefix>spent    hash: end of a slice of time (ms) -> vector spent in it
--   <prefix>held     hash: operation -> vector held, then the candidates it may have at a time
--   <prefix>leases   zset: operation that holds -> when its lease runs out (server, ms)
--   <prefix>state    hash: held (the sum), at_once (the sum), due (of the rate, us)
--   <prefix>op:<op>  what an operation was charged, and in which slice
--
-- A vector is four integers joined by commas: completion tokens, reward tokens, candidates,
-- micro-dollars; "-" stands for none. Lua's doubles are exact to 2^53.
--
-- A window is cut into sixty slices. What is spent in one counts until a window after its end, so
-- that within no window, wherever it begins, more is spent than the limit.

local OK, LAPSED, REFUSED = 0, 1, 2
local DIMENSIONS = 4

local prefix, window, ttl, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST = 5 -- where the script's own arguments begin

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)
local slice = math.ceil(window / 60)

local function parse(text)
  local vector = {}
  for word in string.gmatch(text, '[^,]+') do
    vector[#vector + 1] = tonumber(word) or false
  end
  return vector
end

local function write(vector)
  local words = {}
  for i = 1, #vector do
    words[i] = vector[i] and string.format('%.0f', vector[i]) or '-'
  end
  return table.concat(words, ',')
end

local function add(into, vector, sign)
  for i = 1, DIMENSIONS do
    into[i] = into[i] + (sign or 1) * (vector[i] or 0)
  end
end

-- The slices that still count, oldest first, each as { end, vector }, and their sum.
local function spending()
  local slices, sum = {}, { 0, 0, 0, 0 }
  local fields = redis.call('HGETALL', prefix .. 'spent')
  for i = 1, #fields, 2 do
    local ends = tonumber(fields[i])
    if ends + window <= now then
      redis.call('HDEL', prefix .. 'spent', fields[i])
    else
      local vector = parse(fields[i + 1])
      slices[#slices + 1] = { ends, vector }
      add(sum, vector)
    end
  end
  table.sort(slices, function(one, other) return one[1] < other[1] end)
  return slices, sum
end

-- Milliseconds until so much of a dimension doesn't count any more; nil where it never was spent.
local function frees(slices, i, much)
  for _, one in ipairs(slices) do
    much = much - one[2][i]
    if much <= 0 then
      return one[1] + window - now
    end
  end
  return nil
end

local function load()
  local fields = redis.call('HMGET', prefix .. 'state', 'held', 'at_once', 'due')
  return {
    held = parse(fields[1] or '0,0,0,0'), at_once = tonumber(fields[2] or 0),
    due = tonumber(fields[3] or 0),
  }
end

-- Write the state back, and let all that there is live on.
local function finish(state)
  redis.call('HSET', prefix .. 'state', 'held', write(state.held),
    'at_once', string.format('%.0f', state.at_once), 'due', string.format('%.0f', state.due))
  for _, name in ipairs({ 'spent', 'held', 'leases', 'state' }) do
    redis.call('PEXPIRE', prefix .. name, ttl)
  end
end

-- Operations whose lease ran out, but `mine`, each followed by the milliseconds since then.
local function lapsed(mine)
  local dead = {}
  local found = redis.call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', now, 'WITHSCORES',
    'LIMIT', 0, 64)
  for i = 1, #found, 2 do
    if found[i] ~= mine then
      dead[#dead + 1] = found[i]
      dead[#dead + 1] = now - tonumber(found[i + 1])
    end
  end
  return dead
end

-- What an operation was charged until now, and the end of the slice of the last of it.
local function charged(op)
  local said = redis.call('GET', prefix .. 'op:' .. op)
  if not said then
    return { 0, 0, 0, 0 }, nil
  end
  local words = parse(said)
  return words, words[5]
end
