"""The options of my.cnf that the operator sets itself, as the regular expression that the API server checks.

A first sieve, so that `kubectl apply` refuses what is plainly wrong. It sees lines of the inline text only: the
merged my.cnf, a ConfigMap's part and abbreviated names included, is checked by resources/configuration.py.
"""

from __future__ import annotations

from typing import Final

_NAMES: Final = (
    "aria-log-dir-path",
    "autocommit",
    "basedir",
    "bind-address",
    "binlog-do-db",
    "binlog-format",
    "binlog-ignore-db",
    "bootstrap",
    "chroot",
    "datadir",
    "debug-no-sync",
    "event-scheduler",
    "extra-max-connections",
    "extra-port",
    "grant-tables",
    "gtid-domain-id",
    "gtid-ignore-duplicates",
    "gtid-strict-mode",
    "init-connect",
    "init-file",
    "init-rpl-role",
    "init-slave",
    "innodb",
    "innodb-data-home-dir",
    "innodb-doublewrite",
    "innodb-flush-log-at-trx-commit",
    "innodb-log-group-home-dir",
    "innodb-undo-directory",
    "log-basename",
    "log-bin",
    "log-bin-index",
    "log-error",
    "log-slave-updates",
    "log-tc",
    "name-resolve",
    "networking",
    "old-passwords",
    "pid-file",
    "plugin-load",
    "port",
    "read-only",
    "relay-log",
    "relay-log-index",
    "relay-log-info-file",
    "relay-log-recovery",
    "require-secure-transport",
    "server-id",
    "slave-exec-mode",
    "slave-net-timeout",
    "slave-skip-errors",
    "slave-start",
    "socket",
    "strict-password-validation",
    "sync-binlog",
    "tc-heuristic-recover",
    "transaction-read-only",
    "tx-read-only",
    "user",
)
_FAMILIES: Final = ("replicate-", "report-", "rpl-semi-sync-", "ssl", "wsrep")  # all that begin so
_PREFIXES: Final = ("loose", "skip", "disable", "enable", "maximum")


def owned_options_pattern() -> str:
    """A pattern of RE2 that finds a line which sets an option of ours, or which includes another file."""
    names = "|".join(name.replace("-", "[-_]") for name in _NAMES)
    families = "|".join(name.replace("-", "[-_]") for name in _FAMILIES)
    prefixes = "|".join(_PREFIXES)
    options = rf"(({prefixes})[-_])*({names}|({families})[-_a-z0-9]*)"
    return rf"(?m)^[ \t]*(!include|{options}[ \t]*(=|#|\r?$))"
