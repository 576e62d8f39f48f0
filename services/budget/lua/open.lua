-- Open a budget, or say how it stands if it is open already.
-- ARGV: asked limits (vector), deadline, "1" and the parent's path for a child or "0".

local asked, deadline = ARGV[FIRST], ARGV[FIRST + 1]
local parent_path = ARGV[FIRST + 2] == '1' and ARGV[FIRST + 3] or false

local parent
if parent_path then
  local missing
  parent, missing = enter(parent_path)
  if not parent then
    return { UNKNOWN, missing }
  end
end

local budget = load(here)
if budget then
  if budget.asked ~= asked or budget.deadline ~= deadline or budget.parent ~= parent_path then
    return { CONFLICT, budget.asked, budget.deadline }
  end
  enter(here)
else
  budget = {
    path = here, parent = parent_path, state = parent and 'lapsed' or 'open',
    asked = asked, deadline = deadline, limits = parse(asked),
    spent = zero(), held = zero(), booked = zero(), ran_out = '', renewal = '', kept = '',
  }
  -- Where only the parent is limited, the child takes all that the parent has left.
  for i = 1, 6 do
    if parent and not budget.limits[i] and parent.limits[i] then
      budget.limits[i] = math.max(0, parent.limits[i] - parent.spent[i] - parent.held[i])
    end
  end
end

-- A child that is new, or whose lease ran out, has its limits less what it spent set aside.
if parent and budget.state == 'lapsed' then
  local rest = zero()
  for i = 1, 6 do
    rest[i] = math.max(0, (budget.limits[i] or 0) - budget.spent[i])
  end
  if parent.state ~= 'open' or not fits(parent, rest) then
    return account(parent, write(rest), REFUSED)
  end
  set_aside(parent, CHILD .. here, rest)
  budget.state = 'open'
end

budgets[here] = budget
return account(budget)
