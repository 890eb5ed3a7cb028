#!/bin/sh
# The main process of the mariadb container: it holds the volume, starts mariadbd read-only and starts it again when
# it dies, and never exits before TERM (kubelet's back-off stays out of it). Needs only what a MariaDB image has.
# Not for roles: who is primary, who follows whom, and who takes writes is the operator's to say, over SQL.
#
#   supervisor.sh          run
#   supervisor.sh ready    whether this instance counts as redundancy: takes writes, or receives and applies
#   supervisor.sh alive    whether the supervisor lives; asks nothing of mariadbd
#
# Environment: SERVER_ID, POD_IP, MARIADB_SHUTDOWN_SECONDS, and GATE_DIR where a sidecar has a say. The other *_DIR
# variables are for tests.
set -u
umask 077

CONFIG_DIR=${CONFIG_DIR:-/etc/mariadb-operator/config}
SECRETS_DIR=${SECRETS_DIR:-/etc/mariadb-operator/secrets}
VOLUME_DIR=${VOLUME_DIR:-/var/lib/mysql}
RUN_DIR=${RUN_DIR:-/run/mysqld}
TERMINATION_LOG=${TERMINATION_LOG:-/dev/termination-log}
# A folder that the node sidecar sees too (node/gate.py). With it each start of mariadbd waits there for a permit, and
# the volume is held by mariadbd alone: the sidecar has to get at it after a crash.
GATE_DIR=${GATE_DIR:-}
SHUTDOWN_SECONDS=${MARIADB_SHUTDOWN_SECONDS:-240}

CONFIG="--defaults-file=$CONFIG_DIR/my.cnf"
DATA="$VOLUME_DIR/data"
SOCKET="$RUN_DIR/mysqld.sock"
CLIENT="$RUN_DIR/client.cnf"
SUPERVISOR_PID="$RUN_DIR/supervisor"

say() {
    echo "supervisor: $*" >&2
}

# Exits before TERM, for what only a changed Pod can mend: the operator reads the reason in the Pod's status.
give_up() {
    say "$*"
    printf '%s\n' "$*" > "$TERMINATION_LOG"
    exit 1
}

check_secrets() {
    for secret in operator-password probe-password root-password; do
        [ -s "$SECRETS_DIR/$secret" ] || give_up "SecretMissing: the credentials have no $secret"
    done
}

# A secret as SQL text under NO_BACKSLASH_ESCAPES: quotes doubled. The server's log never shows these statements.
quoted_secret() {
    IFS= read -r rest < "$SECRETS_DIR/$1"
    text=
    while :; do
        case $rest in
            *\'*) text="$text${rest%%\'*}''" rest=${rest#*\'} ;;
            *) break ;;
        esac
    done
    printf "'%s%s'" "$text" "$rest"
}

# A secret as a value of an option file: in quotes, with backslashes and quotes escaped.
option_secret() {
    IFS= read -r rest < "$SECRETS_DIR/$1"
    text=
    while [ -n "$rest" ]; do
        tail=${rest#?}
        head=${rest%"$tail"}
        case $head in
            \\ | \") text="$text\\$head" ;;
            *) text="$text$head" ;;
        esac
        rest=$tail
    done
    printf '"%s%s"' "$text" "$rest"
}

# TERM may come at any line: the handler itself does what it asks for, nothing waits to be looked at.
# Helpers get KILL: a TERM that meets a child before it has dropped this handler is lost.
on_term() {
    stopping=1
    [ -z "$helper" ] || kill -KILL "$helper" 2> /dev/null
    [ -z "$server" ] || shut_down
}

# Wait for a child that is not the server; TERM ends both.
finish() {
    helper=$1
    while :; do
        [ "$stopping" = 0 ] || kill -KILL "$helper" 2> /dev/null
        wait "$helper"
        code=$?
        kill -0 "$helper" 2> /dev/null || break
    done
    helper=
    [ "$stopping" = 0 ] || exit 0
    return "$code"
}

check_configuration() {
    command -v mariadbd > /dev/null || give_up "ImageHasNoMariadbd: the image has no mariadbd in its PATH"
    mariadbd "$CONFIG" --verbose --help > /dev/null 2> "$RUN_DIR/check.log" 9>&- &
    # Some bad values cost a storage engine only, with code 0: the real start would fail then.
    finish $!
    rejected=$?
    reason=
    while IFS= read -r line; do
        case $line in
            *"[ERROR] Aborting"*) ;;
            *"[ERROR]"*) reason="$reason${reason:+; }${line#*\[ERROR\] }" ;;
        esac
    done < "$RUN_DIR/check.log"
    [ "$rejected" != 0 ] || [ -n "$reason" ] || return
    [ -n "$reason" ] || reason=$(cat "$RUN_DIR/check.log")
    give_up "ConfigurationRejected: mariadbd does not accept my.cnf: $reason"
}

# A server of a Pod that was deleted by force may live on beside its successor: whoever has the lock has the data.
# mariadbd inherits it (descriptor 9), so it frees only when all of its processes are gone.
take_volume() {
    exec 9>> "$VOLUME_DIR/volume.lock"
    if ! flock -n 9; then
        say "another server holds the volume, waiting until it is gone"
        flock 9 &
        finish $!
    fi
}

# Files in the gate's folder are replaced as a whole: `server` says what this supervisor does, `permit` which start is
# allowed, `lease` until when a server may live. The pipes only say "look there". They stay open for both ways, so that
# nobody waits for a reader and nothing that was said is lost while the sidecar is away.
open_gate() {
    for pipe in announced permitted leased; do
        [ -p "$GATE_DIR/$pipe" ] || mkfifo "$GATE_DIR/$pipe" 2> /dev/null || [ -p "$GATE_DIR/$pipe" ] ||
            give_up "GateUnusable: no pipe can be made in $GATE_DIR"
    done
    exec 6<> "$GATE_DIR/leased" 7<> "$GATE_DIR/permitted" 8<> "$GATE_DIR/announced"
    trap 'announce left 0' EXIT
}

announce() {
    [ -n "$GATE_DIR" ] || return 0
    printf '%s\n' "$1 $incarnation $2 $ended" > "$GATE_DIR/server.new"
    mv "$GATE_DIR/server.new" "$GATE_DIR/server"
    echo >&8
}

# Whether that file is the permit of this very start; sets what recovery may do.
permitted() {
    { read -r start role < "$1"; } 2> /dev/null || return
    case $role in
        primary) recovery= ;;
        replica) recovery=--init-rpl-role=SLAVE ;; # cuts off what no replica acknowledged
        *) return 1 ;;
    esac
    [ "$start" = "$incarnation" ]
}

# A permit is used up under the volume's lock: whoever withdraws it and then gets the lock knows that nothing starts.
pass_gate() {
    announce waiting 0
    while :; do
        until permitted "$GATE_DIR/permit"; do
            (IFS= read -r _ <&7) 9>&- &
            finish $!
        done
        take_volume
        mv "$GATE_DIR/permit" "$GATE_DIR/permit.used" 2> /dev/null && permitted "$GATE_DIR/permit.used" && break
        exec 9>&-
    done
    announce starting 0
}

# Kills mariadbd when its lease is over; without one it may live for ever. Times are hundredths of seconds since boot,
# which go on while the machine is suspended. A nap does not: so naps are short.
watch_lease() {
    while :; do
        until { read -r holder deadline < "$GATE_DIR/lease"; } 2> /dev/null && [ "$holder" = "$incarnation" ]; do
            IFS= read -r _ <&6 || return
        done
        IFS=' .' read -r whole part _ < /proc/uptime
        left=$((deadline - $whole$part))
        [ "$left" -gt 0 ] || break
        case $left in
            ?) sleep "0.0$left" ;;
            ??) sleep "0.$left" ;;
            *) sleep 1 ;;
        esac
    done
    kill -KILL "$server"
    say "the lease of mariadbd is over: killed it"
}

# Statements for an empty volume. Each on one line: that is how the server reads them here.
# The role is for one thing: keeping a replication password out of the general log takes SUPER (sql_log_off). Here
# nobody is logged in who could grant it.
# The bootstrap writes no binary log, so a fresh server's history is empty.
first_statements() {
    cat <<'SQL'
SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES';
DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');
DELETE FROM mysql.proxies_priv;
FLUSH PRIVILEGES;
CREATE DATABASE mariadb_operator CHARACTER SET utf8mb4;
CREATE TABLE mariadb_operator.term (id TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (id = 1), term BIGINT NOT NULL, leader VARCHAR(253) NOT NULL) ENGINE = InnoDB;
CREATE TABLE mariadb_operator.epoch (epoch BIGINT NOT NULL PRIMARY KEY, cluster_id VARCHAR(64) NOT NULL, primary_name VARCHAR(63) NOT NULL, at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE = InnoDB;
CREATE DEFINER = 'mariadb.sys'@localhost SQL SECURITY DEFINER VIEW mariadb_operator.locked_accounts AS SELECT User AS account FROM mysql.global_priv WHERE User LIKE 'repl\_%' AND JSON_VALUE(Priv, '$.account_locked') = 1;
CREATE DEFINER = 'mariadb.sys'@localhost SQL SECURITY DEFINER VIEW mariadb_operator.read_only_admins AS SELECT CONCAT(User, '@', Host) AS account FROM mysql.global_priv WHERE JSON_VALUE(Priv, '$.access') & 8589934592 AND JSON_VALUE(Priv, '$.account_locked') IS NOT TRUE AND CONCAT(User, '@', Host) NOT IN ('root@localhost', 'mariadb_operator@%');
CREATE USER mariadb_operator_grants@localhost ACCOUNT LOCK;
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER, DELETE HISTORY/*M!110300 , SHOW CREATE ROUTINE */, CREATE USER, READ_ONLY ADMIN ON *.* TO mariadb_operator_grants@localhost WITH GRANT OPTION;
CREATE DEFINER = mariadb_operator_grants@localhost PROCEDURE mariadb_operator.keep_application(IN database_name VARCHAR(64), IN user_name VARCHAR(80), IN password_hash VARCHAR(41)) SQL SECURITY DEFINER BEGIN DECLARE account VARCHAR(200) DEFAULT CONCAT('''', REPLACE(user_name, '''', ''''''), '''@''%'''); DECLARE identified VARCHAR(200) DEFAULT CONCAT(' IDENTIFIED VIA mysql_native_password USING ''', REPLACE(password_hash, '''', ''), ''''); DECLARE present VARCHAR(200) DEFAULT (SELECT IFNULL(JSON_VALUE(Priv, '$.authentication_string'), '') FROM mysql.global_priv WHERE User = user_name AND Host = '%'); IF present IS NULL THEN EXECUTE IMMEDIATE CONCAT('CREATE DATABASE IF NOT EXISTS `', REPLACE(database_name, '`', '``'), '`'); EXECUTE IMMEDIATE CONCAT('CREATE USER ', account, identified, ' REQUIRE SSL'); EXECUTE IMMEDIATE CONCAT('GRANT ALL PRIVILEGES ON `', REPLACE(REPLACE(REPLACE(database_name, '`', '``'), '_', '\_'), '%', '\%'), '`.* TO ', account); ELSEIF present <> password_hash THEN EXECUTE IMMEDIATE CONCAT('ALTER USER ', account, identified); END IF; END;
SQL
    # printf: some shells' echo reads backslashes in its arguments.
    printf '%s\n' "ALTER USER root@localhost IDENTIFIED BY $(quoted_secret root-password);" \
        "CREATE USER mariadb_operator@'%' IDENTIFIED BY $(quoted_secret operator-password) REQUIRE SSL PASSWORD EXPIRE NEVER;" \
        "CREATE USER mariadb_probe@'%' IDENTIFIED BY $(quoted_secret probe-password) REQUIRE SSL PASSWORD EXPIRE NEVER;" \
        "CREATE USER mariadb_supervisor@localhost IDENTIFIED BY $(quoted_secret probe-password) PASSWORD EXPIRE NEVER;"
    cat <<'SQL'
GRANT REPLICATION SLAVE, REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, BINLOG ADMIN, BINLOG MONITOR, SLAVE MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN, CREATE USER, RELOAD, PROCESS ON *.* TO mariadb_operator@'%' WITH GRANT OPTION;
CREATE ROLE mariadb_operator_quiet WITH ADMIN root@localhost;
GRANT SUPER ON *.* TO mariadb_operator_quiet;
INSERT INTO mysql.roles_mapping (Host, User, Role, Admin_option) VALUES ('%', 'mariadb_operator', 'mariadb_operator_quiet', 'N');
GRANT SELECT, INSERT, UPDATE, EXECUTE ON mariadb_operator.* TO mariadb_operator@'%';
GRANT BINLOG MONITOR, SLAVE MONITOR, PROCESS ON *.* TO mariadb_probe@'%';
GRANT SELECT ON mariadb_operator.* TO mariadb_probe@'%';
GRANT SHUTDOWN, CONNECTION ADMIN, SLAVE MONITOR ON *.* TO mariadb_supervisor@localhost;
SQL
}

# A Secret that was made anew locks nobody out: passwords are compared at every start, and written only when they
# differ (on a full disk a write would hang the start).
boot_statements() {
    echo "SET SESSION sql_log_bin = 0;"
    echo "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES';"
    for account in "mariadb_operator % operator" "mariadb_probe % probe" "mariadb_supervisor localhost probe" \
        "mariadb_node localhost probe"; do
        # shellcheck disable=SC2086  # three words
        set -- $account
        secret=$(quoted_secret "$3-password")
        printf '%s\n' "BEGIN NOT ATOMIC IF (SELECT JSON_VALUE(Priv, '\$.authentication_string') FROM mysql.global_priv WHERE User = '$1' AND Host = '$2') <> PASSWORD($secret) THEN ALTER USER $1@'$2' IDENTIFIED BY $secret; END IF; END;"
    done
    # The sidecar's account and the table it tries the disk with, on volumes that are older than the sidecar, too. Few
    # connections: each write that hangs on a stalled disk keeps one.
    [ -z "$GATE_DIR" ] || printf '%s\n' "BEGIN NOT ATOMIC IF NOT EXISTS (SELECT 1 FROM mysql.tables_priv WHERE User = 'mariadb_node') THEN CREATE TABLE IF NOT EXISTS mariadb_operator.write_probe (id TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (id = 1), at TIMESTAMP(6) NOT NULL) ENGINE = InnoDB; CREATE USER IF NOT EXISTS mariadb_node@localhost IDENTIFIED BY $(quoted_secret probe-password) WITH MAX_USER_CONNECTIONS 6 PASSWORD EXPIRE NEVER; GRANT BINLOG ADMIN, READ_ONLY ADMIN ON *.* TO mariadb_node@localhost; GRANT SELECT, INSERT, UPDATE ON mariadb_operator.write_probe TO mariadb_node@localhost; END IF; END;"
}

# Into a folder of its own, then renamed: an install that was interrupted is done anew.
install() {
    [ -d "$DATA" ] && return
    say "empty volume: making a new database"
    rm -rf "$VOLUME_DIR/data.new"
    first_statements > "$RUN_DIR/first.sql"
    mariadb-install-db "$CONFIG" --datadir="$VOLUME_DIR/data.new" --extra-file="$RUN_DIR/first.sql" \
        --auth-root-authentication-method=normal --skip-name-resolve --force --skip-test-db \
        --skip-log-bin --skip-log-error --log-warnings=1 \
        --debug-no-sync --innodb-flush-method=nosync --innodb-doublewrite=OFF --innodb-flush-log-at-trx-commit=0 \
        > "$RUN_DIR/install.log" 2>&1 &
    if finish $!; then
        # On disk once, as a whole, instead of hundreds of times.
        sync -f "$VOLUME_DIR" 2> /dev/null || sync
        mv "$VOLUME_DIR/data.new" "$DATA"
        sync "$VOLUME_DIR"
        rm -f "$RUN_DIR/first.sql"
        say "the new database is ready"
        return
    fi
    cat "$RUN_DIR/install.log" >&2
    say "could not make the database"
    return 1
}

# The incarnation is the pid file's name: 16 hexadecimal digits, new at every start, read over SQL.
name_start() {
    IFS=- read -r one two three _ < /proc/sys/kernel/random/uuid
    incarnation=$one$two$three
}

start() {
    rm -f "$RUN_DIR"/*.pid
    mariadbd "$CONFIG" --datadir="$DATA" --socket="$SOCKET" --pid-file="$RUN_DIR/$incarnation.pid" \
        --server-id="$SERVER_ID" --report-host="$POD_IP" --init-file="$RUN_DIR/boot.sql" \
        --read-only=1 --skip-slave-start --event-scheduler=OFF --rpl-semi-sync-master-enabled=ON \
        ${recovery:+"$recovery"} 6>&- 7>&- 8>&- &
    server=$!
    [ -n "$GATE_DIR" ] || return 0
    exec 9>&-
    announce running "$server"
    watch_lease 7>&- 8>&- &
    watcher=$!
}

# Plain SHUTDOWN, and SIGTERM to mariadbd, lose what replicas have not received yet.
shut_down() {
    [ -z "$killer" ] || return
    (
        until mariadb --defaults-file="$CLIENT" --connect-timeout=5 -e 'SHUTDOWN WAIT FOR ALL SLAVES'; do
            sleep 0.3
        done
    ) 9>&- &
    asker=$!
    (
        left=$SHUTDOWN_SECONDS
        while [ "$left" -gt 0 ]; do
            sleep 1
            left=$((left - 1))
        done
        say "mariadbd did not shut down within $SHUTDOWN_SECONDS s: killing it"
        kill -KILL "$server"
    ) 9>&- &
    killer=$!
}

# Once: a volume that loses its data later does not become an empty database.
prepare() {
    [ -z "$prepared" ] || return 0
    until install; do
        pause 5
    done
    boot_statements > "$RUN_DIR/boot.sql"
    prepared=1
}

seconds() {
    read -r uptime _ < /proc/uptime
    echo "${uptime%.*}"
}

pause() {
    sleep "$1" 9>&- &
    finish $!
}

run() {
    mkdir -p "$RUN_DIR"
    echo $$ > "$SUPERVISOR_PID"
    check_secrets
    printf '[client]\nuser=mariadb_supervisor\nsocket=%s\npassword=%s\n' \
        "$SOCKET" "$(option_secret probe-password)" > "$CLIENT"
    check_configuration
    if [ -n "$GATE_DIR" ]; then
        open_gate
    else
        take_volume
    fi
    delay=0.3
    while :; do
        name_start
        [ -z "$GATE_DIR" ] || pass_gate
        prepare
        started=$(seconds)
        start
        [ "$stopping" = 0 ] || shut_down
        while :; do
            wait "$server"
            code=$?
            kill -0 "$server" 2> /dev/null || break
        done
        server='' ended=$code
        [ -z "$watcher" ] || kill -KILL "$watcher" 2> /dev/null
        watcher=
        announce ended 0
        if [ "$stopping" = 1 ]; then
            kill "$asker" "$killer" 2> /dev/null
            say "mariadbd ended with code $code after TERM"
            exit 0
        fi
        if [ $(($(seconds) - started)) -ge 10 ]; then
            delay=0.3
        fi
        say "mariadbd ended with code $code; starting it again in $delay s"
        pause $delay
        case $delay in
            0.3) delay=1 ;;
            1) delay=2 ;;
            *) delay=5 ;;
        esac
    done
}

case ${1:-run} in
    run)
        # First of all: process 1 ignores a TERM that it has no handler for, and the Pod would stay its whole grace.
        stopping=0 helper='' server='' asker='' killer='' prepared='' recovery='' incarnation=0000000000000000 ended=-1 watcher=''
        trap on_term TERM INT
        run
        ;;
    alive) kill -0 "$(cat "$SUPERVISOR_PID")" ;;
    ready)
        # Slave_running is ON only when it receives and applies.
        answer=$(mariadb --defaults-file="$CLIENT" --connect-timeout=5 --skip-column-names -e "
            SELECT @@global.read_only = 0 OR VARIABLE_VALUE = 'ON' FROM information_schema.GLOBAL_STATUS
            WHERE VARIABLE_NAME = 'SLAVE_RUNNING'")
        [ "$answer" = 1 ] || {
            echo "it neither takes writes nor replicates"
            exit 1
        }
        ;;
    *)
        echo "usage: supervisor.sh [run|ready|alive]" >&2
        exit 2
        ;;
esac
