-- Settle operations: what was held goes back, what it cost is spent, once for each operation.
-- ARGV: operation and cost (vector), again and again.
--
-- A cost counts whether or not anything was held for it: it is real.

local budget, missing = enter(here)
if not budget then
  return { UNKNOWN, missing }
end

for i = FIRST, #ARGV, 2 do
  local op, cost = ARGV[i], parse(ARGV[i + 1])
  if redis.call('HGET', key('ops', here), op) ~= 'settled' then
    release(budget, op)
    charge(budget, cost)
    redis.call('HSET', key('ops', here), op, 'settled')
  end
end
return account(budget)
