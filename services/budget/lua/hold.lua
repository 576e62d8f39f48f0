-- Set costs aside, each wholly or not at all, in order.
-- ARGV: operation and cost (vector), again and again. Answers with "1" or "0" for each.
--
-- "1" means that the cost is set aside now. A refusal is remembered, so that asking again gives
-- the same verdict; an operation whose lease ran out is forgotten, and judged as new.

local budget, missing = enter(here)
if not budget then
  return { UNKNOWN, missing }
end

local verdicts = {}
for i = FIRST, #ARGV, 2 do
  local op, cost = ARGV[i], parse(ARGV[i + 1])
  local granted = holding(budget, op) ~= nil
  if not granted and redis.call('HEXISTS', key('ops', here), op) == 0 then
    granted = budget.state == 'open' and fits(budget, cost)
    if granted then
      set_aside(budget, op, cost)
    else
      redis.call('HSET', key('ops', here), op, 'refused')
    end
  end
  verdicts[#verdicts + 1] = granted and '1' or '0'
end
return account(budget, table.concat(verdicts))
