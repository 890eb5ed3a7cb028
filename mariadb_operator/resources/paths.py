"""Where things are inside the container; supervisor.sh and my.cnf mean the same places."""

from __future__ import annotations

from typing import Final

CONFIG_DIRECTORY: Final = "/etc/mariadb-operator/config"
SECRETS_DIRECTORY: Final = "/etc/mariadb-operator/secrets"
TLS_DIRECTORY: Final = "/etc/mariadb-operator/tls"
VOLUME_DIRECTORY: Final = "/var/lib/mysql"
RUN_DIRECTORY: Final = "/run/mysqld"
TEMPORARY_DIRECTORY: Final = "/tmp"  # noqa: S108 - an emptyDir of the Pod's own
SSH_DIRECTORY: Final = "/etc/mariadb-operator/ssh"
GATE_DIRECTORY: Final = "/run/mariadb-gate"
SUPERVISOR: Final = f"{CONFIG_DIRECTORY}/supervisor.sh"
