#!/usr/bin/env bash
# Lets the tools of Redis, as they are, talk to three nodes of kvd: redis-cli, redis-benchmark, and Python's client.
# What is not installed is skipped, and said to be. How fast that is beside Redis, `bench kv` says: here no figure is judged.
#
#   examples/accept-kvd.sh [KVD]    KVD: the program (default: built in release mode)
#   PYTHON=...                      a Python that has the package `redis` (default python3)
#   REQUESTS=...                    of each benchmark (default 5000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
requests=${REQUESTS:-5000}
kvd=${1:-}
if [[ -z $kvd ]]; then
    cargo build --locked --release -p polity-examples --bin kvd
    kvd=${CARGO_TARGET_DIR:-target}/release/kvd
fi

folder=$(mktemp -d)
nodes=()
end() {
    for node in "${nodes[@]}"; do kill -9 "$node" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT

# Starts a node and waits until it says where it serves. Sets `member` and `port`.
start() {
    : >"$folder/$1"
    "$kvd" --name "$1" --listen 127.0.0.1:0 --redis 127.0.0.1:0 "${@:2}" >"$folder/$1" 2>"$folder/$1.err" &
    local node=$!
    nodes+=("$node")
    until grep -q ' serves ' "$folder/$1"; do
        if ! kill -0 "$node" 2>/dev/null; then
            echo "FAILED: node $1 does not start:" >&2
            cat "$folder/$1.err" >&2
            exit 1
        fi
        sleep 0.1
    done
    member=$(sed -n 's/.* is a member at //p' "$folder/$1")
    port=$(sed -n 's/.* serves .*:\([0-9]*\)$/\1/p' "$folder/$1")
}

start n1
seed=$member ports=("$port")
for name in n2 n3; do
    start "$name" --seed "$seed"
    ports+=("$port")
done
echo "three nodes serve the ports ${ports[*]}"

skipped=()

# Compares what is said with what must be said.
same() {
    if [[ "$2" != "$3" ]]; then
        printf 'FAILED: %s: wanted %q, got %q\n' "$1" "$3" "$2" >&2
        exit 1
    fi
}

if command -v redis-cli >/dev/null; then
    at() { redis-cli -h 127.0.0.1 -p "${ports[$1]}" "${@:2}" 2>&1; }
    same SET "$(at 0 SET greeting 'hello there')" OK
    same GET "$(at 1 GET greeting)" 'hello there'
    same INCR "$(at 2 INCR visits)" 1
    same INCRBY "$(at 0 INCRBY visits 41)" 42
    same SADD "$(at 1 SADD tags a b c)" 3
    same SMEMBERS "$(at 2 SMEMBERS tags)" $'a\nb\nc'
    same HSET "$(at 0 HSET user name ada born 1815)" 2
    same HGETALL "$(at 1 -3 HGETALL user)" $'born 1815\nname ada'
    same TYPE "$(at 2 TYPE user)" hash
    same WRONGTYPE "$(at 0 INCR tags)" 'WRONGTYPE Operation against a key holding the wrong kind of value'
    same TTL "$(at 1 SET brief x EX 1000 && at 2 PERSIST brief && at 0 TTL brief)" $'OK\n1\n-1'
    same DEL "$(at 1 DEL greeting visits tags user brief)" 5
    same pipe "$(printf 'SET a 1\nSET b 2\nMGET a b\n' | at 2)" $'OK\nOK\n1\n2'
    at 0 INFO | grep -q '^members_up:3' || { echo 'FAILED: INFO does not tell of three members' >&2; exit 1; }
    [[ -n "$(at 1 COMMAND DOCS get)" ]] || { echo 'FAILED: COMMAND DOCS tells nothing' >&2; exit 1; }
    echo "ok: redis-cli ($(redis-cli --version))"
else
    skipped+=(redis-cli)
fi

if command -v redis-benchmark >/dev/null; then
    # Runs kinds of benchmarks on so many keys, elements or fields, and so many requests a pipeline.
    bench() {
        if ! redis-benchmark -h 127.0.0.1 -p "${ports[0]}" -t "$1" -n "$requests" -r "$2" -P "$3" --csv \
            >"$folder/benchmark" 2>&1 || grep -qi error "$folder/benchmark"; then
            cat "$folder/benchmark" >&2
            echo "FAILED: redis-benchmark -t $1 -r $2 -P $3" >&2
            exit 1
        fi
        same "what redis-benchmark -t $1 measures" "$(($(wc -l <"$folder/benchmark") - 1))" "$4"
        sed -n '2,$s/^"\([^"]*\)","\([^"]*\)".*/  \2\t\1/p' "$folder/benchmark"
    }
    for pipeline in 1 16; do
        echo "redis-benchmark, 50 clients on one node, $pipeline a pipeline, requests a second:"
        bench ping,set,get,incr,mset 100000 "$pipeline" 6
        # One set and one hash for all clients: each write of the store costs as much as they have grown to.
        bench sadd,hset 100 "$pipeline" 2
    done
    echo "ok: redis-benchmark"
else
    skipped+=(redis-benchmark)
fi

if "$python" -c 'import redis' 2>/dev/null; then
    "$python" - "${ports[@]}" <<'PYTHON'
import sys
import redis

nodes = [(int(port), protocol) for port in sys.argv[1:] for protocol in (2, 3)]
clients = [redis.Redis(host="127.0.0.1", port=port, protocol=protocol, client_name="accept") for port, protocol in nodes]
default = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]), decode_responses=True)
assert default.ping() and default.set("p:default", "x") and default.get("p:default") == "x"
for at, r in enumerate(clients):
    other = clients[at - 1]
    key = f"p:{at}"
    assert r.client_getname() in ("accept", b"accept")
    assert r.set(key, b"\0\r\n\xff", ex=1000)
    assert other.get(key) == b"\0\r\n\xff" and 0 < other.ttl(key) <= 1000
    assert r.persist(key) and other.ttl(key) == -1 and other.type(key) == b"string"
    assert r.mset({key + ":a": 1, key + ":b": 2}) and other.mget(key + ":a", "p:none", key + ":b") == [b"1", None, b"2"]
    assert [r.incr(key + ":n"), other.incrby(key + ":n", 41), r.decr(key + ":n")] == [1, 42, 41]
    assert r.sadd(key + ":s", "x", "y") == 2 and set(other.smembers(key + ":s")) == {b"x", b"y"}
    assert other.srem(key + ":s", "x") == 1 and r.scard(key + ":s") == 1 and not r.sismember(key + ":s", "x")
    assert r.hset(key + ":h", mapping={"f": "1", "g": "2"}) == 2 and other.hgetall(key + ":h") == {b"f": b"1", b"g": b"2"}
    assert other.hdel(key + ":h", "f") == 1 and r.hmget(key + ":h", "f", "g") == [None, b"2"]
    try:
        r.incr(key)
        raise AssertionError("a string was counted")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error) or "wrong kind of value" in str(error), error
    pipeline = other.pipeline(transaction=False)
    for count in range(100):
        pipeline.set(f"p:pipe:{count % 10}", count).get(f"p:pipe:{count % 10}")
    assert pipeline.execute()[1::2] == [str(count).encode() for count in range(100)]
    assert other.info()["members_up"] == 3 and r.config_get("save") == {"save": ""} and "get" in r.command()
    assert r.delete(key, key + ":a", key + ":b", key + ":n", key + ":s", key + ":h") == 6 and not other.exists(key)
print(f"ok: Python's client (redis {redis.__version__}), both versions of the protocol")
PYTHON
else
    skipped+=("Python's client (PYTHON=$python has no package redis)")
fi

for what in "${skipped[@]}"; do
    echo "SKIPPED, because it is not installed: $what"
done
if [[ ${#skipped[@]} == 3 ]]; then
    echo "nothing was tried"
else
    echo "accepted, with ${#skipped[@]} of 3 parts skipped"
fi
