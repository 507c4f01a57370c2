#!/usr/bin/env bash
# A whole cluster on this machine: Kafka, 2 distributors, 2 zones x 2 ingesters, 2 queriers, 2 store-gateways, a compactor, nginx before them. README.md
# says more.
#   deploy/local/start.sh [flags for every process of brunn ...]
#   DATA=./data-cluster   its folder, kept from one start to the next
#   PORT=8080             where to write and query; the processes take the ports after it
#   BRUNN=...             the program (default: a release build, made when it is not there)
#   KAFKA=host:9092       a Kafka of yours; without it one is started here (Java; its jars are fetched once by Maven)
set -euo pipefail
cd "$(dirname "$0")/../.."
port=${PORT:-8080}
mkdir -p "${DATA:-./data-cluster}"
data=$(realpath "${DATA:-./data-cluster}")
brunn=${BRUNN:-build/release/app/brunn}
kafka=${KAFKA:-}
kafka_version=4.1.0
more_flags=("$@")
keepers=() kafka_keeper='' nginx_keeper=''
distributors=()
queriers=()
seeds=127.0.0.1:$((port + 201)),127.0.0.1:$((port + 202)),127.0.0.1:$((port + 203)) # of the gossip: whoever is started first

if [ ! -x "$brunn" ] || ! command -v nginx >/dev/null; then
  . scripts/packages.sh
  install_packages "${BUILD_PACKAGES[@]}" nginx-light
fi
if [ ! -x "$brunn" ]; then
  cmake --preset release >/dev/null
  cmake --build build/release --target brunn
fi

# keep NAME COMMAND...: runs it in the background with its output in $data/NAME/log, and starts it again when it ends, as Kubernetes would.
# In a session of its own: Ctrl-C is for this script, which stops its processes in order.
keep() {
  local name=$1 child='' stopping=''
  shift
  mkdir -p "$data/$name"
  (
    trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
    until [ -n "$stopping" ]; do
      setsid "$@" >>"$data/$name/log" 2>&1 </dev/null &
      child=$!
      # A signal ends the wait, not the process.
      while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
      [ -n "$stopping" ] || { echo "$name has ended (see $data/$name/log): starting it again"; sleep 1; }
    done
  ) &
}

# Clients lose nginx first, and Kafka goes when nobody needs it any more.
stop_all() {
  local status=$?
  trap '' INT TERM
  trap - EXIT
  echo "stopping"
  local pids
  for pids in "$nginx_keeper" "${keepers[*]}" "$kafka_keeper"; do
    [ -n "$pids" ] || continue
    # shellcheck disable=SC2086 # a list of numbers
    kill -TERM $pids 2>/dev/null || true
    # shellcheck disable=SC2086
    wait $pids 2>/dev/null || true
  done
  exit "$status"
}

start_kafka() {
  local lib=${XDG_CACHE_HOME:-$HOME/.cache}/brunn-check/kafka/$kafka_version broker=$((port + 300)) controller=$((port + 301))
  command -v java >/dev/null || { . scripts/packages.sh; install_packages default-jre-headless maven; }
  if [ ! -d "$lib" ]; then
    mkdir -p "$lib.$$"
    mvn -q -B -f tests/e2e/kafka/pom.xml "-Dkafka.version=$kafka_version" dependency:copy-dependencies "-DoutputDirectory=$lib.$$"
    mv "$lib.$$" "$lib"
  fi
  mkdir -p "$data/kafka"
  cat >"$data/kafka/server.properties" <<TEXT
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$broker,CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data/kafka/data
message.max.bytes=16000000
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
TEXT
  [ -d "$data/kafka/data" ] ||
    java -cp "$lib/*" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qk -c "$data/kafka/server.properties" >"$data/kafka/format.log"
  kafka=127.0.0.1:$broker
  keep kafka java -Xmx512m -cp "$lib/*" kafka.Kafka "$data/kafka/server.properties"
  kafka_keeper=$!
  wait_for "Kafka" 60 bash -c "exec 3<>/dev/tcp/127.0.0.1/$broker"
}

wait_for() { # what, seconds, command...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "$what does not answer; see the logs in $data" >&2; exit 1; }
    sleep 0.2
  done
}

# Do the distributors see both partitions ACTIVE? A new one waits until its owners have been there for a while.
partitions_active() { # port of a distributor
  [ "$(curl -fs -H 'Accept: application/json' "http://127.0.0.1:$1/ingester/partition-ring" | grep -o '"state":2' | wc -l)" -eq 2 ]
}

member=0
# start_member NAME TARGET [flag...]
start_member() {
  local name=$1 target=$2
  shift 2
  member=$((member + 1))
  case $target in
  distributor) distributors+=("server 127.0.0.1:$((port + member)) max_fails=0;") ;;
  querier) queriers+=("server 127.0.0.1:$((port + member)) max_fails=0;") ;;
  esac
  keep "$name" "$brunn" -target="$target" -auth.multitenancy-enabled=false -data-dir="$data/$name/data" \
    -server.http-listen-address=127.0.0.1 -server.http-listen-port=$((port + member)) \
    -server.grpc-listen-address=127.0.0.1 -server.grpc-listen-port=$((port + 100 + member)) \
    -memberlist.bind-addr=127.0.0.1 -memberlist.bind-port=$((port + 200 + member)) \
    -memberlist.advertise-addr=127.0.0.1 -memberlist.advertise-port=$((port + 200 + member)) -memberlist.join="$seeds" \
    -ingester.ring.instance-id="$name" -ingester.ring.instance-addr=127.0.0.1 -ingester.ring.instance-port=$((port + 100 + member)) \
    -distributor.ring.instance-id="$name" -distributor.ring.instance-addr=127.0.0.1 \
    -distributor.ring.instance-port=$((port + 100 + member)) \
    -store-gateway.sharding-ring.instance-id="$name" -store-gateway.sharding-ring.instance-addr=127.0.0.1 \
    -store-gateway.sharding-ring.instance-port=$((port + 100 + member)) \
    -compactor.ring.instance-id="$name" -compactor.ring.instance-addr=127.0.0.1 -compactor.ring.instance-port=$((port + 100 + member)) \
    -blocks-storage.filesystem.dir="$data/blocks" \
    -ingest-storage.enabled=true -ingest-storage.kafka.address="$kafka" -ingest-storage.kafka.topic=ingest \
    -ingest-storage.kafka.auto-create-topic-default-partitions=8 "$@" "${more_flags[@]}"
  keepers+=($!)
  members+=("$name:$((port + member))")
}

trap stop_all EXIT
trap 'exit 0' INT TERM
members=()
[ -n "$kafka" ] || start_kafka
for zone in zone-a zone-b; do
  for partition in 0 1; do
    # Through a restart an ingester stays in the ring, so that the others wait for it instead of forgetting it.
    start_member "ingester-$zone-$partition" ingester -ingester.ring.instance-availability-zone=$zone \
      -ingester.ring.zone-awareness-enabled=true -ingester.ring.unregister-on-shutdown=false -ingester.ring.min-ready-duration=0s \
      -ingester.partition-ring.min-partition-owners-duration=2s
  done
done
for i in 0 1; do start_member "distributor-$i" distributor; done
for i in 0 1; do start_member "store-gateway-$i" store-gateway -store-gateway.sharding-ring.unregister-on-shutdown=false; done
start_member compactor-0 compactor
for i in 0 1; do start_member "querier-$i" querier; done
for m in "${members[@]}"; do wait_for "${m%:*}" 60 curl -fs "http://127.0.0.1:${m##*:}/ready"; done
for m in "${members[@]}"; do
  case $m in distributor-*) wait_for "an ACTIVE partition" 60 partitions_active "${m##*:}" ;; esac
done

sed -e "s|@FOLDER@|$data/nginx|g" -e "s|@PORT@|$port|g" -e "s|@DISTRIBUTORS@|${distributors[*]}|" -e "s|@QUERIERS@|${queriers[*]}|" \
  deploy/local/nginx.conf.in >"$data/nginx.conf"
[ "$(id -u)" -ne 0 ] || sed -i '1i user root;' "$data/nginx.conf"
keep nginx "$(command -v nginx || echo /usr/sbin/nginx)" -p "$data" -e "$data/nginx/error.log" -c "$data/nginx.conf" -g 'daemon off;'
nginx_keeper=$!
wait_for nginx 10 curl -fs "http://127.0.0.1:$port/ready"

cat <<TEXT

Brunn's cluster is running (data and logs in $data; stop with Ctrl-C)
  write:       http://127.0.0.1:$port/api/v1/push             (Prometheus remote_write)
  query:       http://127.0.0.1:$port/prometheus              (Grafana: a Prometheus data source)
  explore:     http://127.0.0.1:$port/explore
  the rings:   http://127.0.0.1:$port/ingester/ring  /ingester/partition-ring  /store-gateway/ring  /memberlist
  the blocks:  $data/blocks
  each alone:  ${members[*]}
End one with kill -9: queries and pushes go on, and it is started again.

TEXT
wait || true
