"""The behaviour of a MariaDB cluster as pure tables, guards and effects; no I/O, nothing of the operator."""
