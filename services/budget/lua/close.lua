-- End a budget: what it holds goes back, and a child's parent gets what the child did not spend.

local budget, missing = enter(here)
if not budget then
  return { UNKNOWN, missing }
end
if budget.state == 'open' then
  settle(budget, 'closed')
end
budget.state = 'closed'
return account(budget)
