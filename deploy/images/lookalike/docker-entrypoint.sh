#!/bin/sh
# Behaves towards an operator as the official image's entry point does: a server's command line gets an initialised
# volume and the server's user, and is refused without a word on the root password; any other command is run as it is.
set -eu

fail() {
    echo "[ERROR] [Entrypoint]: $*" >&2
    exit 1
}

word_on_root_password() {
    [ -n "${MARIADB_ROOT_PASSWORD:-}${MARIADB_ROOT_PASSWORD_HASH:-}" ] && return
    [ -n "${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:-}${MARIADB_RANDOM_ROOT_PASSWORD:-}" ]
}

set_root_password() {
    socket=/run/mysqld/initialising.sock
    mariadbd --skip-networking --socket="$socket" --datadir="$datadir" &
    server=$!
    until mariadb --user=root --socket="$socket" -e 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "$server" || fail "the server did not start"
        sleep 0.2
    done
    escaped=$(printf '%s' "$MARIADB_ROOT_PASSWORD" | sed "s/[\\\\']/\\\\&/g")
    printf "SET sql_log_bin=0; ALTER USER root@localhost IDENTIFIED BY '%s';\n" "$escaped" |
        mariadb --user=root --socket="$socket"
    kill "$server"
    wait "$server"
}

wants_help() {
    for argument in "$@"; do
        case "$argument" in -'?' | --help | --print-defaults | -V | --version) return 0 ;; esac
    done
    return 1
}

case "${1:-}" in -*) set -- mariadbd "$@" ;; esac

if [ "${1:-}" = mariadbd ] && ! wants_help "$@"; then
    datadir=/var/lib/mysql
    if [ "$(id -u)" = 0 ]; then
        chown mysql:mysql "$datadir" /run/mysqld
        exec setpriv --reuid=mysql --regid=mysql --init-groups -- "$0" "$@"
    fi
    if [ ! -d "$datadir/mysql" ]; then
        word_on_root_password || fail "Database is uninitialized and password option is not specified" \
            "You need to specify one of MARIADB_ROOT_PASSWORD, MARIADB_ROOT_PASSWORD_HASH," \
            "MARIADB_ALLOW_EMPTY_ROOT_PASSWORD and MARIADB_RANDOM_ROOT_PASSWORD"
        mariadb-install-db --datadir="$datadir" --skip-test-db --auth-root-authentication-method=normal >&2
        [ -z "${MARIADB_ROOT_PASSWORD:-}" ] || set_root_password
    fi
fi

exec "$@"
