# Debian packages of the project, and how they are installed. Sourced by ./run and ./check.

# What it takes to build the release.
BUILD_PACKAGES=(gcc g++ cmake ninja-build pkg-config ccache re2c lemon
  libmicrohttpd-dev libnghttp2-dev librdkafka-dev libsnappy-dev liblmdb-dev libre2-dev libxxhash-dev
  libyaml-dev libjansson-dev libcurl4-openssl-dev libexpat1-dev libs3-dev libjemalloc-dev libmemcached-dev zlib1g-dev libssl-dev libjs-chart.js)

# What the tests add: unit tests, fuzzers, and real parts to talk to.
TEST_PACKAGES=(libcriterion-dev clang libclang-rt-14-dev python3 python3-pytest python3-pytest-xdist python3-snappy python3-grpcio curl
  prometheus prometheus-node-exporter victoria-metrics chromium chromium-driver default-jre-headless maven kcat nginx-light python3-yaml procps
  etcd-server etcd-client memcached)

# Installs those of its arguments that are not there yet.
install_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing: ${missing[*]}"
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
