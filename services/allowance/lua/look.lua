-- How a tenant stands. Answers OK, the vectors spent and held, requests and candidates at a time,
-- and by dimension the milliseconds until some of it, and all of it, doesn't count any more ("-"
-- where nothing was spent); or LAPSED and what is to be settled first (see `lapsed`).

local dead = lapsed()
if #dead > 0 then
  return { LAPSED, unpack(dead) }
end
local state = load()
local slices, spent = spending()
local first, last = {}, {}
for i = 1, DIMENSIONS do
  first[i] = frees(slices, i, math.min(1, spent[i])) or false
  last[i] = frees(slices, i, spent[i]) or false
  if spent[i] == 0 then
    first[i], last[i] = false, false
  end
end
return {
  OK, write(spent), write(state.held), redis.call('ZCARD', prefix .. 'leases'), state.at_once,
  write(first), write(last),
}
