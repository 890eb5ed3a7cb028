"""Namespaces that tests make: labelled, so that what a killed run left is found and removed by the next.

Not for what is in them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.kube import Kube, wait_for

LABEL = "harness.fsm.dev/temporary"
CLUSTERS_GONE_SECONDS = 90
GONE_SECONDS = 180


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{secrets.token_hex(3)}"


def create_namespace(kube: Kube, prefix: str, *, keep: bool = False) -> str:
    """Makes a namespace and returns its name; one that is to be kept is nobody's leftover."""
    name = unique(prefix)
    labels = {} if keep else {LABEL: "true"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    kube.create("namespaces", body)
    return name


@contextmanager
def temporary_namespace(kube: Kube, prefix: str, *, until_gone: bool = False) -> Iterator[str]:
    """A namespace of its own; at the end its clusters are deleted with their volumes, then the namespace."""
    name = create_namespace(kube, prefix)
    try:
        yield name
    finally:
        remove_namespace(kube, name, until_gone=until_gone)


def remove_namespace(kube: Kube, name: str, *, until_gone: bool = False) -> None:
    """Deletes the clusters in it and asks for its deletion; the rest goes by itself, and can be waited for."""
    remove_clusters(kube, name)
    volumes = [
        each["metadata"]["name"]
        for each in kube.list("persistentvolumes")
        if (each["spec"].get("claimRef") or {}).get("namespace") == name
    ]
    kube.delete("namespaces", name)
    if not until_gone:
        return
    wait_for(f"{name} gone", lambda: kube.get("namespaces", name) is None, seconds=GONE_SECONDS)
    for volume in volumes:
        wait_for(
            f"{volume} of {name} gone",
            lambda volume=volume: kube.get("persistentvolumes", volume) is None,  # type: ignore[misc]
            seconds=GONE_SECONDS,
        )


def remove_clusters(kube: Kube, namespace: str) -> None:
    """Deletes the clusters of a namespace and waits until they are gone; an operator has to run."""
    clusters = [each["metadata"]["name"] for each in kube.list("mariadbclusters", namespace)]
    for cluster in clusters:
        kube.delete("mariadbclusters", cluster, namespace)
    for pod in kube.list("pods", namespace):
        # What matters of the data was compared before: nothing needs a graceful end any more.
        kube.delete("pods", pod["metadata"]["name"], namespace, grace=1)
    wait_for(
        f"the clusters of {namespace} gone",
        lambda: not kube.list("mariadbclusters", namespace),
        seconds=CLUSTERS_GONE_SECONDS,
    )


def remove_leftovers(kube: Kube) -> None:
    """Removes the namespaces of runs that were killed."""
    for namespace in kube.list("namespaces", selector=LABEL):
        if namespace["status"].get("phase") != "Terminating":
            remove_namespace(kube, namespace["metadata"]["name"])
