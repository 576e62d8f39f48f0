-- Give back what an operation holds and charge what it cost.
-- ARGV: the operation, and all that it cost until now (vector), "" for all that it held.
--
-- Said again, only the difference is charged; less than before is taken off where that was counted.

local op = ARGV[FIRST]
local state = load()
local holding = redis.call('HGET', prefix .. 'held', op)
local before, counted = charged(op)
local cost = before
if ARGV[FIRST + 1] ~= '' then
  cost = parse(ARGV[FIRST + 1])
elseif holding then
  cost = { 0, 0, 0, 0 }
  add(cost, before)
  add(cost, parse(holding))
end

if holding then
  local words = parse(holding)
  redis.call('HDEL', prefix .. 'held', op)
  redis.call('ZREM', prefix .. 'leases', op)
  add(state.held, words, -1)
  state.at_once = state.at_once - words[DIMENSIONS + 1]
end

local here = (math.floor(now / slice) + 1) * slice
local function count(ends, vector)
  local field = string.format('%.0f', ends)
  local kept = redis.call('HGET', prefix .. 'spent', field)
  if kept or ends == here then
    local sum = parse(kept or '0,0,0,0')
    add(sum, vector)
    for i = 1, DIMENSIONS do
      sum[i] = math.max(0, sum[i])
    end
    redis.call('HSET', prefix .. 'spent', field, write(sum))
  end
end

local more, less = {}, {}
for i = 1, DIMENSIONS do
  more[i] = math.max(0, cost[i] - before[i])
  less[i] = math.min(0, cost[i] - before[i])
end
if counted then
  count(counted, less)
end
count(here, more)
local counted_in = here
if counted and more[1] + more[2] + more[3] + more[4] == 0 then
  counted_in = counted -- where it can still be taken off
end
local record = { cost[1], cost[2], cost[3], cost[4], counted_in }
redis.call('SET', prefix .. 'op:' .. op, write(record), 'PX', ttl)
finish(state)
return OK
