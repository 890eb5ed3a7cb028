"""Pure builders of the Kubernetes manifests that a cluster consists of."""
