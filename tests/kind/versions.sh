# What the test cluster is made of; sourced by the scripts beside it.
CACHE=${PREFPROBE_KIND_CACHE:-$HOME/.cache/prefprobe-kind}
BIN=$CACHE/bin
K8S=v1.34.4 ARGO=v4.1.4 ETCD=v3.6.8 COREDNS=v1.12.1 KIND=v0.33.0 HELM=v4.3.1
BUILT_NODE=prefprobe/kind-node:$K8S
STOCK_NODE=kindest/node:$K8S
export PATH=$BIN:$PATH
say() { printf 'kind: %s\n' "$*" >&2; }
