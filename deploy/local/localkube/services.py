"""The command lines and configuration files of Kubernetes' own programs. Pure: builds text, writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from localkube import certificates
from localkube.addresses import API_PORT, CONTROL, Addresses
from localkube.machine import PROGRAMS, VOLUMES, Service
from localkube.programs import COREDNS, KUBERNETES, LOCAL_PATH

PKI = Path("/var/lib/kubernetes/pki")
CONFIG = Path("/var/lib/kubernetes")
SANDBOX_IMAGE = "localhost/pause:1"
HELPER_IMAGE = "localhost/busybox:1"
COREDNS_IMAGE = f"localhost/coredns:{COREDNS.version}"
STORAGE_NAMESPACE = "local-path-storage"
API_SERVER = "kube-apiserver"
KUBELET = "kubelet"
PROVISIONER = "local-path-provisioner"
CONTAINERD_SOCKET = "containerd/containerd.sock"


def control_services(addresses: Addresses) -> list[Service]:
    """What the control machine runs.

    The storage provisioner is one of them: it would die with its node, and no volume could be made.
    """
    return [
        Service("etcd", _etcd()),
        Service(API_SERVER, _api_server(addresses)),
        Service(
            "kube-controller-manager",
            [
                _kubernetes("kube-controller-manager"),
                f"--kubeconfig={CONFIG}/kube-controller-manager.kubeconfig",
                "--leader-elect=false",
                "--use-service-account-credentials",
                f"--root-ca-file={PKI}/ca.crt",
                f"--service-account-private-key-file={PKI}/service-accounts.key",
            ],
        ),
        Service(
            "kube-scheduler",
            [
                _kubernetes("kube-scheduler"),
                f"--kubeconfig={CONFIG}/kube-scheduler.kubeconfig",
                "--leader-elect=false",
            ],
        ),
        _proxy(),
        Service(
            PROVISIONER,
            [
                str(PROGRAMS / LOCAL_PATH.folder / "local-path-provisioner"),
                "start",
                f"--kubeconfig={CONFIG}/local-path-provisioner.kubeconfig",
                f"--config={CONFIG}/local-path.json",
                f"--namespace={STORAGE_NAMESPACE}",
                f"--helper-image={HELPER_IMAGE}",
            ],
        ),
    ]


def control_files(addresses: Addresses, tokens: dict[str, str]) -> dict[str, str]:
    """Configuration of the control machine by path below its /var."""
    users = {
        "kube-controller-manager": certificates.CONTROLLER_MANAGER,
        "kube-scheduler": certificates.SCHEDULER,
        "kube-proxy": certificates.PROXY,
        "local-path-provisioner": certificates.PROVISIONER,
    }
    files = {
        _below_var(CONFIG / f"{program}.kubeconfig"): _component_kubeconfig(addresses, tokens[user])
        for program, user in users.items()
    }
    # It has no Node object; kube-proxy waits 30 s for one, and wants it for nothing that matters here.
    files[_below_var(CONFIG / "kube-proxy.json")] = _proxy_configuration(addresses, hostname="node1")
    files[_below_var(CONFIG / "local-path.json")] = local_path_configuration()
    return files


def node_services(addresses: Addresses, node: str) -> list[Service]:
    """What a node runs, besides its pods."""
    return [
        Service("containerd", ["/usr/bin/containerd", f"--config={CONFIG}/containerd.toml"]),
        Service(
            KUBELET,
            [
                _kubernetes("kubelet"),
                f"--config={CONFIG}/kubelet.json",
                f"--kubeconfig={CONFIG}/kubelet.kubeconfig",
                f"--hostname-override={node}",
                f"--node-ip={addresses.machine(node)}",
            ],
        ),
        _proxy(),
    ]


def node_files(addresses: Addresses, node: str, *, tokens: dict[str, str], cgroup: str) -> dict[str, str]:
    """Configuration of `node` by path below its /var."""
    kubelet_token, proxy_token = tokens[certificates.node_user(node)], tokens[certificates.PROXY]
    return {
        _below_var(CONFIG / "kubelet.kubeconfig"): _component_kubeconfig(addresses, kubelet_token),
        _below_var(CONFIG / "kube-proxy.kubeconfig"): _component_kubeconfig(addresses, proxy_token),
        _below_var(CONFIG / "kube-proxy.json"): _proxy_configuration(addresses, hostname=node),
        _below_var(CONFIG / "kubelet.json"): _kubelet_configuration(addresses, cgroup),
        _below_var(CONFIG / "containerd.toml"): _containerd_configuration(),
        _below_var(CONFIG / "cni/10-pods.conflist"): _pod_network(addresses, node),
    }


def kubeconfig(addresses: Addresses, *, token: str, authority: str) -> str:
    """A kubeconfig with everything inside; `authority` is base64 of the certificate."""
    return _kubeconfig(addresses, {"certificate-authority-data": authority}, token)


def local_path_configuration() -> str:
    """Where volumes lie on every node."""
    paths = [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [str(VOLUMES)]}]
    return json.dumps({"nodePathMap": paths})


def _below_var(path: Path) -> str:
    return str(path.relative_to("/var"))


def _kubernetes(program: str) -> str:
    return str(PROGRAMS / KUBERNETES.folder / program)


def _component_kubeconfig(addresses: Addresses, token: str) -> str:
    return _kubeconfig(addresses, {"certificate-authority": str(PKI / "ca.crt")}, token)


def _kubeconfig(addresses: Addresses, authority: dict[str, str], token: str) -> str:
    name = addresses.name
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": addresses.api_url, **authority}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        },
        indent=2,
    )


def _etcd() -> list[str]:
    return [
        "/usr/bin/etcd",
        "--name=control",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
    ]


def _api_server(addresses: Addresses) -> list[str]:
    return [
        _kubernetes(API_SERVER),
        f"--advertise-address={addresses.machine(CONTROL)}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={addresses.services}",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--client-ca-file={PKI}/ca.crt",
        f"--token-auth-file={PKI}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={PKI}/service-accounts.key",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        f"--kubelet-client-certificate={PKI}/kubelet-client.crt",
        f"--kubelet-client-key={PKI}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _proxy() -> Service:
    return Service("kube-proxy", [_kubernetes("kube-proxy"), f"--config={CONFIG}/kube-proxy.json"])


def _proxy_configuration(addresses: Addresses, *, hostname: str) -> str:
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{CONFIG}/kube-proxy.kubeconfig"},
            "hostnameOverride": hostname,
            "mode": "iptables",
            # The whole range is "local": nothing is masqueraded, servers see where a client really is.
            "detectLocalMode": "ClusterCIDR",
            "clusterCIDR": str(addresses.network),
            "oomScoreAdj": 0,
            # 0: these settings of the kernel are not the namespace's to change.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        },
        indent=2,
    )


def _kubelet_configuration(addresses: Addresses, cgroup: str) -> str:
    configuration: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix:///run/{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # All nodes share one disk, which may be nearly full: no reason to evict anything.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [str(addresses.dns)],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "serializeImagePulls": False,
        "oomScoreAdj": 0,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    }
    return json.dumps(configuration, indent=2)


def _containerd_configuration() -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not lower it, and dies.
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "/run/{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{CONFIG}/cni"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _pod_network(addresses: Addresses, node: str) -> str:
    # ptp, not bridge: every packet between pods is routed, so kube-proxy's translation sees both ways.
    pods = addresses.pods(node)
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": str(pods)}]],
                    "routes": [{"dst": str(addresses.network)}],
                    "dataDir": "/run/cni",
                },
            }
        ],
    }
    return json.dumps(network, indent=2)
