#!/usr/bin/env bash
# up.sh NAME: a cluster of two nodes, one of them a simulated GPU node, with an Argo Workflows controller and server.
# Needs what build.sh made. The kubeconfig is $CACHE/NAME.kubeconfig.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/versions.sh"
NAME=$1
export KUBECONFIG=$CACHE/$NAME.kubeconfig
built() { [ "$(cat "$CACHE/mode")" = built ]; }
sysctl -qw net.ipv4.ip_forward=1 2>/dev/null || true

# kindnet's image is in a registry; where none is reached, the CNI plugins in the node image do its work
kind create cluster --name "$NAME" --image "$(built && echo $BUILT_NODE || echo $STOCK_NODE)" --config - <<Y
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {disableDefaultCNI: $(built && echo true || echo false)}
nodes:
- role: control-plane
- role: worker
  labels: {nvidia.com/gpu.present: "true", nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
Y

if built; then
  nodes=$(kind get nodes --name "$NAME")
  for n in $nodes; do
    cidr=$(kubectl get node "$n" -o jsonpath='{.spec.podCIDR}')
    docker exec -i --privileged "$n" sh -c 'cat > /etc/cni/net.d/10-bridge.conflist' <<C
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
    docker exec --privileged "$n" iptables -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
    for m in $nodes; do
      [ "$m" = "$n" ] || docker exec --privileged "$n" ip route replace "$(kubectl get node "$m" -o jsonpath='{.spec.podCIDR}')" \
        via "$(kubectl get node "$m" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')"
    done
  done
fi
kubectl taint node "$NAME-control-plane" node-role.kubernetes.io/control-plane-
kubectl taint node "$NAME-worker" nvidia.com/gpu=present:NoSchedule
kubectl patch node "$NAME-worker" --subresource=status --type json -p \
  '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "4"}, {"op": "add", "path": "/status/allocatable/nvidia.com~1gpu", "value": "4"}]'

kubectl create namespace argo
if built; then
  kind load image-archive "$CACHE/argo.tar" --name "$NAME"
  manifests=$CACHE/argo/manifests/cluster-install
else
  manifests="https://github.com/argoproj/argo-workflows/manifests/cluster-install?ref=$ARGO"
fi
kubectl apply --server-side --force-conflicts -k "$manifests" >/dev/null   # Argo's CRDs are too large for a client-side apply
# The manifests name images without a version. The controller looks again after 1 s and not 10, and hears of a pod's
# progress every 3 s and not every minute, which is longer than most pods here live.
kubectl -n argo set env deployment/workflow-controller DEFAULT_REQUEUE_TIME=1s ARGO_PROGRESS_PATCH_TICK_DURATION=3s
kubectl -n argo set image deployment/workflow-controller "workflow-controller=quay.io/argoproj/workflow-controller:$ARGO"
kubectl -n argo set image deployment/argo-server "argo-server=quay.io/argoproj/argocli:$ARGO"
kubectl -n argo patch deployment workflow-controller --type json -p "[
  {\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/args\", \"value\": [\"--executor-image\", \"quay.io/argoproj/argoexec:$ARGO\"]},
  {\"op\": \"add\", \"path\": \"/spec/template/spec/containers/0/imagePullPolicy\", \"value\": \"IfNotPresent\"}]"
kubectl -n argo patch deployment argo-server --type json -p "[
  {\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/args\", \"value\": [\"server\", \"--auth-mode=client\", \"--secure=false\"]},
  {\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/readinessProbe/httpGet/scheme\", \"value\": \"HTTP\"},
  {\"op\": \"add\", \"path\": \"/spec/template/spec/containers/0/imagePullPolicy\", \"value\": \"IfNotPresent\"}]"
kubectl -n argo rollout status deployment/workflow-controller --timeout 180s
kubectl -n argo rollout status deployment/argo-server --timeout 180s
kubectl wait --for=condition=Ready nodes --all --timeout 120s
kubectl -n kube-system rollout status deployment/coredns --timeout 180s   # without it no pod finds the store by its name
say "cluster $NAME is up: export KUBECONFIG=$KUBECONFIG"
