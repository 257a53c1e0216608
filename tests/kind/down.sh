#!/usr/bin/env bash
# down.sh NAME [--keep-engine]: remove the cluster, and stop the docker engine if build.sh started it.
set -uo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/versions.sh"
if docker info >/dev/null 2>&1 && kind get clusters 2>/dev/null | grep -qx "$1"; then
  kind delete cluster --name "$1" --kubeconfig "$CACHE/$1.kubeconfig"
fi
rm -f "$CACHE/$1.kubeconfig"
[ -f "$CACHE/dockerd.pid" ] && [ "${2:-}" != --keep-engine ] || exit 0
if [ -n "$(kind get clusters 2>/dev/null)" ]; then say "another cluster is up: the docker engine stays"; exit 0; fi
pid=$(cat "$CACHE/dockerd.pid")
if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
  say "stopping the docker engine"
  docker network rm kind >/dev/null 2>&1
  kill "$pid"
  for _ in $(seq 120); do [ -d "/proc/$pid" ] || break; sleep 0.5; done
  [ -d "/proc/$pid" ] && { say "the docker engine ($pid) does not stop"; exit 1; }
  ip link delete docker0 2>/dev/null
fi
rm -f "$CACHE/dockerd.pid"
