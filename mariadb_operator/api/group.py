"""How the resource is called in the API: group, version, kind, and the names derived from the group."""

from __future__ import annotations

from typing import Final

GROUP: Final = "mariadb.fsm.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "MariaDBCluster"
LIST_KIND: Final = f"{KIND}List"
PLURAL: Final = "mariadbclusters"
SINGULAR: Final = "mariadbcluster"
SHORT_NAME: Final = "mdc"
CRD_NAME: Final = f"{PLURAL}.{GROUP}"
FINALIZER: Final = f"{GROUP}/finalizer"
FIELD_MANAGER: Final = "mariadb-operator"
LEAVE_QUARANTINE_ANNOTATION: Final = (
    f"{GROUP}/leave-quarantine"  # status.sequence, set by a person who has looked
)
