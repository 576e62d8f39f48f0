-- The budget as it stands.

local budget, missing = enter(here)
if not budget then
  return { UNKNOWN, missing }
end
return account(budget)
