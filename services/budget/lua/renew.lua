-- Renew every lease of a budget, and of its own set-aside in each of its ancestors.
-- ARGV: a name for this renewal. Answers "1", or "0" if a lease had run out since the last one;
-- the same name gets the same answer, so that a reply lost on the wire loses no news.

local budget, missing = enter(here)
if not budget then
  return { UNKNOWN, missing }
end

local name = ARGV[FIRST]
if budget.renewal ~= name then
  local kept = budget.ran_out ~= '1' and budget.state ~= 'lapsed'
  budget.renewal, budget.kept, budget.ran_out = name, kept and '1' or '0', ''
end

-- A child kept by its parent's renewal may itself be idle: its keys must outlive its lease.
local function touch(path)
  for _, op in ipairs(redis.call('ZRANGE', key('leases', path), 0, -1)) do
    if child_of(op) and load(child_of(op)) then
      touch(child_of(op))
    end
  end
end

for _, op in ipairs(redis.call('ZRANGE', key('leases', here), 0, -1)) do
  redis.call('ZADD', key('leases', here), now + lease, op)
end
touch(here)
local child = budget
while child.parent do
  redis.call('ZADD', key('leases', child.parent), 'XX', now + lease, CHILD .. child.path)
  child = load(child.parent)
end
return account(budget, budget.kept)
