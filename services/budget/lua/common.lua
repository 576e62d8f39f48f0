-- What every script of the ledger begins with: the budgets of one request, read once, changed in
-- memory, written back by finish().
--
-- KEYS[1]  longthink:{request}:budget:<path>, the budget asked about; it also names the slot
-- ARGV     prefix ("longthink:{request}"), path, ttl (ms), lease (ms), then the script's own
--
-- Three keys a budget, each with the same time to live:
--   <prefix>:budget:<path>  hash: state, parent, asked, limits, spent, held, booked, deadline, ...
--   <prefix>:ops:<path>     hash: operation -> "held:<vector>" | "refused" | "settled"
--   <prefix>:leases:<path>  zset: operation that holds -> when its lease runs out (server, ms)
--
-- A vector is six integers joined by commas, in the order of planner.domain.Cost; "-" stands for
-- no limit. Lua's doubles are exact to 2^53, and "%.0f" writes them whole where tostring would
-- fall into exponents.
--
-- A child's set-aside is the operation "child:<path>" of its parent. While it stands, the child
-- is "open" and its spending is its own; once it ended ("closed" by its holder, "lapsed" with its
-- lease) the parent has been charged, and `booked` says for how much.

local OK, UNKNOWN, CONFLICT, REFUSED = 0, 1, 2, 3
local CHILD = 'child:'

local prefix, here = ARGV[1], ARGV[2]
local ttl, lease = tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST = 5 -- where the script's own arguments begin

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function key(kind, path)
  return prefix .. ':' .. kind .. ':' .. path
end

-- Vectors ---------------------------------------------------------------------------------------

local function parse(text)
  local vector = {}
  for word in string.gmatch(text, '[^,]+') do
    vector[#vector + 1] = tonumber(word) or false
  end
  return vector
end

local function write(vector)
  local words = {}
  for i = 1, 6 do
    words[i] = vector[i] and string.format('%.0f', vector[i]) or '-'
  end
  return table.concat(words, ',')
end

local function zero()
  return { 0, 0, 0, 0, 0, 0 }
end

-- into += sign * vector; a dimension without a limit counts as nothing.
local function add(into, vector, sign)
  for i = 1, 6 do
    into[i] = into[i] + (sign or 1) * (vector[i] or 0)
  end
end

-- Budgets ---------------------------------------------------------------------------------------

local budgets = {} -- path -> budget, or false where there is none

local function load(path)
  if budgets[path] == nil then
    local fields = redis.call('HMGET', key('budget', path), 'state', 'parent', 'asked', 'limits',
      'spent', 'held', 'booked', 'deadline', 'ran_out', 'renewal', 'kept')
    budgets[path] = fields[1] and {
      path = path, state = fields[1], parent = fields[2], asked = fields[3],
      limits = parse(fields[4]), spent = parse(fields[5]), held = parse(fields[6]),
      booked = parse(fields[7]), deadline = fields[8],
      ran_out = fields[9], -- "1" where a lease ran out since the last renewal
      renewal = fields[10], kept = fields[11], -- the last renewal's name and verdict
    }
  end
  return budgets[path]
end

-- Write back every budget that this run has read, and let all their keys live on.
local function finish()
  for path, budget in pairs(budgets) do
    if budget then
      local at = key('budget', path)
      redis.call('HSET', at, 'state', budget.state, 'asked', budget.asked,
        'limits', write(budget.limits), 'spent', write(budget.spent),
        'held', write(budget.held), 'booked', write(budget.booked),
        'deadline', budget.deadline, 'ran_out', budget.ran_out,
        'renewal', budget.renewal, 'kept', budget.kept)
      if budget.parent then
        redis.call('HSET', at, 'parent', budget.parent)
      end
      redis.call('PEXPIRE', at, ttl)
      redis.call('PEXPIRE', key('ops', path), ttl)
      redis.call('PEXPIRE', key('leases', path), ttl)
    end
  end
end

local function fits(budget, asked)
  for i = 1, 6 do
    local limit = budget.limits[i]
    if limit and budget.spent[i] + budget.held[i] + (asked[i] or 0) > limit then
      return false
    end
  end
  return true
end

-- Operations ------------------------------------------------------------------------------------

local function set_aside(budget, op, vector)
  add(budget.held, vector)
  redis.call('HSET', key('ops', budget.path), op, 'held:' .. write(vector))
  redis.call('ZADD', key('leases', budget.path), now + lease, op)
end

-- What `op` holds, or nil.
local function holding(budget, op)
  local known = redis.call('HGET', key('ops', budget.path), op)
  return known and string.sub(known, 1, 5) == 'held:' and parse(string.sub(known, 6)) or nil
end

-- Give back what `op` holds, and forget the operation.
local function release(budget, op)
  local vector = holding(budget, op)
  if vector then
    add(budget.held, vector, -1)
    redis.call('HDEL', key('ops', budget.path), op)
    redis.call('ZREM', key('leases', budget.path), op)
  end
  return vector
end

-- Count a cost as spent. A child that ended has nothing set aside any more, so its parent pays.
local function charge(budget, cost)
  add(budget.spent, cost)
  if budget.parent and budget.state ~= 'open' then
    add(budget.booked, cost)
    local parent = load(budget.parent)
    if parent then
      charge(parent, cost)
    end
  end
end

local function child_of(op)
  return string.sub(op, 1, #CHILD) == CHILD and string.sub(op, #CHILD + 1) or nil
end

local settle

-- Take back what `op` holds before its holder settled it. A child is ended, which charges what it
-- had spent; one whose keys are gone could have spent all it had, and counts so.
local function lapse(budget, op)
  local path = child_of(op)
  local child = path and load(path)
  if child then
    settle(child, 'lapsed')
  else
    local vector = release(budget, op)
    if path and vector then
      charge(budget, vector)
    end
  end
end

-- End an open budget: everything it holds goes back, its children end first, and its parent is
-- charged for what it spent and gets back the rest.
function settle(budget, state)
  for _, op in ipairs(redis.call('ZRANGE', key('leases', budget.path), 0, -1)) do
    lapse(budget, op)
  end
  budget.state = state
  if state == 'lapsed' then
    budget.ran_out = '1'
  end
  local parent = budget.parent and load(budget.parent)
  if parent then
    local due = zero()
    add(due, budget.spent)
    add(due, budget.booked, -1)
    add(budget.booked, due)
    release(parent, CHILD .. budget.path)
    charge(parent, due)
  end
end

local function reap(budget)
  for _, op in ipairs(redis.call('ZRANGEBYSCORE', key('leases', budget.path), '-inf', now)) do
    lapse(budget, op)
    budget.ran_out = '1'
  end
end

-- The budget at `path` with everything reaped from its root down to it; or nil and the path of
-- the one that is missing.
local function enter(path)
  local budget = load(path)
  if not budget then
    return nil, path
  end
  if budget.parent then
    local parent, missing = enter(budget.parent)
    if not parent then
      return nil, missing
    end
  end
  reap(budget)
  return budget
end

-- What every script answers with: the account as it now stands, then what it has to say itself.
local function account(budget, answer, code)
  finish()
  return {
    code or OK, write(budget.limits), write(budget.spent), write(budget.held), budget.deadline,
    answer or '',
  }
end

