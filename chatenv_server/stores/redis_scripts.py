"""The scripts that run inside Redis, each wholly or not at all, with nothing of another client's in between.

Keys of a bucket: `use`, a sorted set of live ids by their last use; `totals`, a hash; for each episode a hash with
where it stands (`end` says that it ended, and then it expires), and for each live one a list of entries, its journal.
In the place of the journal of one that has ended stands, for a while, what was told with the end.
"""

from __future__ import annotations

from typing import Final

WRITE: Final = """
local key, arg, episodes_more, held_more = 2, 0, 0, 0

local function taken()
    arg = arg + 1
    return ARGV[arg]
end

local function sum_up(id, episode, version, summary, held_before)
    redis.call('HSET', episode, 'version', version, 'last_used', summary.last_used, 'held_tokens', summary.held,
        'figures', summary.figures, 'metadata', summary.metadata)
    redis.call('ZADD', KEYS[1], summary.last_used, id)
    held_more = held_more + summary.held - held_before
end

local function summary_taken()
    return {last_used = taken(), held = taken(), figures = taken(), metadata = taken()}
end

local make, refused = {}, {}

function make.append(id, episode, journal)
    local run, version, continues, entry, summary = taken(), taken(), taken(), taken(), summary_taken()
    local is = redis.call('HMGET', episode, 'run', 'version', 'end', 'held_tokens')
    if is[1] ~= run or is[2] ~= version or is[3] or (continues == '1' and refused[run]) then
        refused[run] = true
        return 0
    end
    redis.call('RPUSH', journal, entry)
    sum_up(id, episode, version + 1, summary, is[4])
    return 1
end

function make.begin(id, episode, journal)
    local run, replaces, summary, count = taken(), taken(), summary_taken(), tonumber(taken())
    local first = arg
    arg = arg + count
    local is = redis.call('HMGET', episode, 'run', 'end', 'held_tokens')
    local live = is[1] and not is[2]
    if live and replaces == '0' then
        return 0
    end
    redis.call('UNLINK', episode, journal)
    for number = 1, count do
        redis.call('RPUSH', journal, ARGV[first + number])
    end
    redis.call('HSET', episode, 'run', run)
    sum_up(id, episode, count, summary, live and is[3] or 0)
    if not live then
        episodes_more = episodes_more + 1
    end
    return 1
end

function make.finish(id, episode, journal)
    local run, unused_since, version, how, remembered = taken(), taken(), taken(), taken(), taken()
    local answer, kept = taken(), taken()
    local is = redis.call('HMGET', episode, 'run', 'end', 'held_tokens', 'last_used', 'version')
    if is[1] ~= run or is[2] or tonumber(is[4]) > tonumber(unused_since) or (version ~= '' and is[5] ~= version) then
        return 0
    end
    redis.call('UNLINK', journal)
    if answer ~= '' then
        redis.call('RPUSH', journal, answer)
        redis.call('EXPIRE', journal, kept)
    end
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', episode, 'held_tokens', 'figures', 'metadata')
    redis.call('HSET', episode, 'end', how)
    redis.call('EXPIRE', episode, remembered)
    episodes_more = episodes_more - 1
    held_more = held_more - is[3]
    return 1
end

function make.touch(id, episode)
    local run, last_used = taken(), taken()
    local is = redis.call('HMGET', episode, 'run', 'end', 'last_used')
    if is[1] == run and not is[2] and tonumber(is[3]) < tonumber(last_used) then
        redis.call('HSET', episode, 'last_used', last_used)
        redis.call('ZADD', KEYS[1], last_used, id)
    end
    return 1
end

local done = {}
while arg < #ARGV do
    local kind, id = taken(), taken()
    done[#done + 1] = make[kind](id, KEYS[key + 1], KEYS[key + 2])
    key = key + 2
end
redis.call('HINCRBY', KEYS[2], 'episodes', episodes_more)
redis.call('HINCRBY', KEYS[2], 'held_tokens', held_more)
return done
"""
"""Makes changes. KEYS: use, totals, then an episode and its journal for each. ARGV: for each what `make` takes."""

LOAD: Final = """
return {
    redis.call('HMGET', KEYS[1], 'run', 'version', 'last_used', 'held_tokens', 'figures', 'metadata', 'end'),
    redis.call('LRANGE', KEYS[2], 0, -1)
}
"""
"""KEYS: an episode and its journal."""

LOOK: Final = """
local found = {}
for number, key in ipairs(KEYS) do
    found[number] = redis.call('HMGET', key, 'run', 'version', 'last_used', 'held_tokens', 'figures', 'metadata', 'end')
end
return found
"""
"""KEYS: episodes."""

LOSE: Final = """
if redis.call('EXISTS', KEYS[3]) == 0 and redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
    redis.call('HINCRBY', KEYS[2], 'episodes', -1)
end
"""
"""Take an id whose episode is gone, by an eviction or by hand, out of the list. KEYS: use, totals, its episode."""
