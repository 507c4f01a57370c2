# Builds the slow peers once into a cache outside the checkout. Sourced by ./check --interop; needs Go 1.26 or newer.
#   shared/tools/{prometheus,mimir}/build.sh, beside the checkout, pin the versions.

peer_cache=${XDG_CACHE_HOME:-$HOME/.cache}/brunn-check

build_peers() {
  local tools=../shared/tools
  mkdir -p "$peer_cache"
  [ -x "$peer_cache/prometheus/prometheus" ] || bash "$tools/prometheus/build.sh" "$peer_cache/prometheus"
  [ -x "$peer_cache/mimir" ] || bash "$tools/mimir/build.sh" "$peer_cache/mimir"
}
