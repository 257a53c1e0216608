#!/usr/bin/env bash
# down.sh NAME: remove the cluster, and stop the docker engine if build.sh started it.
set -uo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/versions.sh"
kind delete cluster --name "$1" --kubeconfig "$CACHE/$1.kubeconfig"
rm -f "$CACHE/$1.kubeconfig"
[ -f "$CACHE/dockerd.pid" ] || exit 0
pid=$(cat "$CACHE/dockerd.pid")
if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
  say "stopping the docker engine"
  kill "$pid"
  for _ in $(seq 120); do [ -d "/proc/$pid" ] || break; sleep 0.5; done
  [ -d "/proc/$pid" ] && { say "the docker engine ($pid) does not stop"; exit 1; }
fi
rm -f "$CACHE/dockerd.pid"
for bridge in /sys/class/net/docker0 /sys/class/net/br-*; do   # what an engine leaves in the network
  [ -e "$bridge" ] && ip link delete "$(basename "$bridge")" 2>/dev/null
done
exit 0
