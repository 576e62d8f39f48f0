-- Set anew what a child may spend in all, as far as its parent has it.
-- ARGV: limits (vector), in the dimensions that the child is limited in.
--
-- What it has spent and holds it keeps, however little it is to have; what it gets beyond what it
-- has is what its parent has left, if that is less. So a resize never fails, and done twice does
-- what it does once. The child's name for what it was opened with stays as it was.

local budget, missing = enter(here)
if not budget then
  return { UNKNOWN, missing }
end

local parent = budget.parent and load(budget.parent)
if not parent then
  return { CONFLICT, budget.asked, budget.deadline }
end

if budget.state == 'open' then
  local wanted = parse(ARGV[FIRST])
  local aside = zero() -- what it has yet to be charged for
  for i = 1, 6 do
    local limit = budget.limits[i]
    if wanted[i] and limit then
      local more = math.max(wanted[i], budget.spent[i] + budget.held[i]) - limit
      if more > 0 and parent.limits[i] then
        local left = parent.limits[i] - parent.spent[i] - parent.held[i]
        more = math.max(0, math.min(more, left))
      end
      limit = limit + more
      budget.limits[i] = limit
    end
    aside[i] = math.max(0, (limit or 0) - budget.booked[i])
  end
  release(parent, CHILD .. here)
  set_aside(parent, CHILD .. here, aside)
end
return account(budget)
