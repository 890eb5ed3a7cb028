"""A Kubernetes operator for MariaDB: each cluster is one explicit finite-state machine."""
