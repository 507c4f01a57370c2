# Builds the slow peers once into a cache outside the checkout. Sourced by ./check --interop; needs Go 1.26 or newer.
#   shared/tools/{prometheus,mimir}/build.sh, beside the checkout, pin the versions.

peer_cache=${XDG_CACHE_HOME:-$HOME/.cache}/brunn-check

# In a copy: go writes beside the sources.
build_dskit_node() { # folder
  local copy
  copy=$(mktemp -d)
  cp -r "$1/." "$copy"
  chmod -R u+w "$copy"
  (cd "$copy" && go build -o "$peer_cache/dskit-gossip" .)
  rm -rf "$copy"
}

# S3 servers.
build_s3() {
  [ -x "$peer_cache/minio" ] || GOBIN=$peer_cache go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
  [ -x "$peer_cache/versitygw" ] || GOBIN=$peer_cache go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
}

build_peers() {
  local tools=../shared/tools
  mkdir -p "$peer_cache"
  { [ -x "$peer_cache/prometheus/prometheus" ] || bash "$tools/prometheus/build.sh" "$peer_cache/prometheus"; } &&
    { [ -x "$peer_cache/mimir" ] || bash "$tools/mimir/build.sh" "$peer_cache/mimir"; } &&
    build_s3 &&
    build_dskit_node tests/e2e/interop/dskit-node # fast when it is in Go's own cache
}
