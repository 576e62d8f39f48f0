-- Set aside for a request what it may spend, all that is asked or what there is of it.
-- ARGV: operation; asked, least and soft (vectors); candidates at a time; then the limits: a vector,
-- requests and candidates at a time ("-" for none), the rate as microseconds a request ("-"), burst.
--
-- Of a dimension that is soft, of which the request itself said nothing, it gets half of what is
-- left if that does, so that others can run beside it. An operation that holds already keeps that.
-- Answers OK, the vector granted, candidates at a time, the vector left; LAPSED and what is to
-- be settled first (see `lapsed`); or REFUSED, by which limit, and milliseconds until there is more ("" if never).

local op = ARGV[FIRST]
local asked, least = parse(ARGV[FIRST + 1]), parse(ARGV[FIRST + 2])
local soft, at_once = parse(ARGV[FIRST + 3]), tonumber(ARGV[FIRST + 4])
local limits = parse(ARGV[FIRST + 5])
local most_requests, most_at_once = tonumber(ARGV[FIRST + 6]), tonumber(ARGV[FIRST + 7])
local interval, burst = tonumber(ARGV[FIRST + 8]), tonumber(ARGV[FIRST + 9])

local dead = lapsed(op) -- its own is taken up again
if #dead > 0 then
  return { LAPSED, unpack(dead) }
end

local state = load()
local slices, spent = spending()

local function left()
  local rest = {}
  for i = 1, DIMENSIONS do
    rest[i] = limits[i] and math.max(0, limits[i] - spent[i] - state.held[i])
  end
  return rest
end

local holding = redis.call('HGET', prefix .. 'held', op)
if holding then
  local words = parse(holding)
  redis.call('ZADD', prefix .. 'leases', now + lease, op)
  finish(state)
  local slots = table.remove(words)
  return { OK, write(words), slots, write(left()) }
end

if interval then
  local early = math.max(state.due, now_us) - now_us - (burst - 1) * interval
  if early > 0 then
    return { REFUSED, 'rate', math.ceil(early / 1000) }
  end
  state.due = math.max(state.due, now_us) + interval
end

local function refuse(limit, wait)
  finish(state)
  return { REFUSED, limit, wait }
end

if most_requests and redis.call('ZCARD', prefix .. 'leases') >= most_requests then
  return refuse('requests', 1000)
end
if most_at_once then
  at_once = math.min(at_once, most_at_once - state.at_once)
  if at_once < 1 then
    return refuse('candidates_at_once', 1000)
  end
end

local before, rest, granted = charged(op), left(), {}
for i = 1, DIMENSIONS do
  granted[i] = asked[i] and math.max(0, asked[i] - before[i])
  if limits[i] then
    local enough = math.max(0, least[i] - before[i])
    if rest[i] < enough then
      local wait = frees(slices, i, enough - rest[i])
      if least[i] > limits[i] then
        wait = '' -- the whole window wouldn't do
      end
      return refuse(i, wait or 1000) -- by what others hold: until one of them ends
    end
    local fair = soft[i] == 1 and math.max(enough, math.floor(rest[i] / 2)) or rest[i]
    granted[i] = math.min(granted[i] or rest[i], fair)
  end
end

local hold = {}
for i = 1, DIMENSIONS do
  hold[i] = granted[i] or 0
end
add(state.held, hold)
state.at_once = state.at_once + at_once
hold[DIMENSIONS + 1] = at_once
redis.call('HSET', prefix .. 'held', op, write(hold))
redis.call('ZADD', prefix .. 'leases', now + lease, op)
finish(state)
return { OK, write(granted), at_once, write(left()) }
