-- Renew the lease of what an operation holds. ARGV: the operation. Answers 1, or 0 if it holds none.

local op = ARGV[FIRST]
if redis.call('HEXISTS', prefix .. 'held', op) == 0 then
  return 0
end
redis.call('ZADD', prefix .. 'leases', now + lease, op)
finish(load())
return 1
