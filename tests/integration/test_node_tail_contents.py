"""Whatever a transaction may hold gets from a dead primary to a candidate as it was: every kind, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.salvaging import checksums, cut_off, dump, salvage_onto
from tests.integration.servers import Cluster, Servers, root

ALL_BYTES = "".join(f"{number:02x}" for number in range(256))
SJIS = "8f5c835c835d"  # ends of characters that are a backslash, and a quote's neighbour

CONTENTS = {
    "ddl": """
        CREATE TABLE shop.a (id INT PRIMARY KEY, v VARCHAR(20), KEY (v)) PARTITION BY HASH (id) PARTITIONS 3;
        INSERT INTO shop.a VALUES (1, 'one'), (2, 'two'); ALTER TABLE shop.a ADD COLUMN w INT NOT NULL DEFAULT 7 FIRST;
        CREATE TABLE shop.b AS SELECT * FROM shop.a; RENAME TABLE shop.b TO shop.c; CREATE VIEW shop.d AS SELECT id FROM shop.a;
        CREATE INDEX e ON shop.c (w); TRUNCATE shop.orders; DROP TABLE shop.c; CREATE TABLE shop.g (n INT) COMMENT 'x\\'y';
        OPTIMIZE TABLE shop.a; ANALYZE TABLE shop.a; CREATE SEQUENCE shop.s START WITH 5; SELECT NEXTVAL(shop.s);
    """,
    "two phase alter": """
        SET GLOBAL binlog_alter_two_phase = 1; SET SESSION binlog_alter_two_phase = 1;
        INSERT INTO shop.orders (n) VALUES (1), (2), (3);
        ALTER TABLE shop.orders ADD COLUMN x INT DEFAULT 4, ALGORITHM = COPY; INSERT INTO shop.orders (n) VALUES (9);
    """,
    "routines that hold the delimiter of mariadb-binlog": """
        CREATE PROCEDURE shop.p() SELECT '/*!*/;', 'x;y', "DELIMITER //";
        CREATE FUNCTION shop.f() RETURNS VARCHAR(20) DETERMINISTIC RETURN '/*!*/;\\n\\\\';
        CREATE TRIGGER shop.t BEFORE INSERT ON shop.orders FOR EACH ROW SET NEW.writer = NEW.writer + 1;
        INSERT INTO shop.orders (n) VALUES (1), (2);
        CREATE EVENT shop.e ON SCHEDULE EVERY 1 DAY DISABLE DO INSERT INTO shop.orders (n) VALUES (0);
    """,
    "character sets": f"""
        CREATE TABLE shop.c (id INT PRIMARY KEY, a VARCHAR(30) CHARACTER SET sjis, b VARCHAR(30) CHARACTER SET big5,
            c VARCHAR(30) CHARACTER SET gbk, d VARCHAR(30) CHARACTER SET utf16, e VARCHAR(30) CHARACTER SET latin2,
            f VARCHAR(30) CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci, g VARCHAR(30) CHARACTER SET cp1251) DEFAULT CHARSET utf8mb4;
        INSERT INTO shop.c VALUES (1, _sjis X'{SJIS}', _big5 X'a55ca440', _gbk X'815c8160', _utf16 X'd83dde00004e',
            _latin2 X'e8b9', _utf8mb4 X'f09f9880c4b1', _cp1251 X'cff0e8');
        SET NAMES sjis; EXECUTE IMMEDIATE CONCAT('CREATE TABLE shop.j (n INT COMMENT ''', X'{SJIS}', ''')');
        SET NAMES latin1; EXECUTE IMMEDIATE CONCAT('CREATE TABLE shop.`', X'fc', '` (n INT)');
        SET NAMES utf8mb4; SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'; CREATE TABLE shop."q" (n VARCHAR(9) DEFAULT '\\');
    """,
    "binary and every type": f"""
        CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB, i BIT(17), d DECIMAL(40, 10), f DOUBLE, t TIME(6),
            at DATETIME(6), y YEAR, e ENUM('a', 'b'), s SET('x', 'y', 'z'), j JSON, g GEOMETRY, n INET6, u UUID,
            v VARCHAR(9) AS (CONCAT('v', y)) STORED, w BIGINT UNSIGNED, c TEXT COMPRESSED);
        INSERT INTO shop.t (b, i, d, f, t, at, y, e, s, j, g, n, u, w, c) VALUES (X'{ALL_BYTES}', b'10110', -1234567890123456789012345.0123456789,
            -1.7976931348623157e308, '-838:59:58.999999', '9999-12-31 23:59:59.999999', 2155, 'b', 'x,z', '{{"a": [1, null]}}',
            ST_GeomFromText('POLYGON((0 0, 1 0, 1 1, 0 0))'), '2001:db8::1', '123e4567-e89b-12d3-a456-426655440000',
            18446744073709551615, REPEAT('abc', 5000)), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
        UPDATE shop.t SET f = 0.1 WHERE id = 2; DELETE FROM shop.t WHERE id = 1; INSERT INTO shop.t (b) VALUES (X'00');
    """,
    "rows as long as a packet may be": """
        CREATE TABLE shop.l (id INT PRIMARY KEY, b LONGBLOB);
        INSERT INTO shop.l VALUES (1, REPEAT('x', 15 * 1024 * 1024)), (2, REPEAT(X'a2', 15 * 1024 * 1024));
        UPDATE shop.l SET b = CONCAT('y', b) WHERE id = 2; INSERT INTO shop.orders (n) VALUES (1);
    """,
    "statements": """
        SET SESSION binlog_format = STATEMENT; SET @x = 'it''s'; SET SESSION auto_increment_increment = 5;
        CREATE TABLE shop.a (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(50), r DOUBLE, at DATETIME(6));
        INSERT INTO shop.a (v, r, at) VALUES (@x, RAND(), NOW(6)), (LAST_INSERT_ID(), RAND(3), NOW(6));
        BEGIN; UPDATE shop.a SET v = 'COMMIT'; SAVEPOINT s; DELETE FROM shop.a WHERE id = 1; ROLLBACK TO s; COMMIT;
        SET SESSION foreign_key_checks = 0, unique_checks = 0, sql_mode = '', time_zone = '+03:00';
        INSERT INTO shop.a (v, at) VALUES (MONTHNAME(NOW()), FROM_UNIXTIME(86400.5));
    """,
    "temporary tables": """
        SET SESSION binlog_format = STATEMENT; CREATE TEMPORARY TABLE shop.tmp (n INT); INSERT INTO shop.tmp VALUES (5), (6);
        INSERT INTO shop.orders (n) SELECT n FROM shop.tmp; SET SESSION binlog_format = MIXED; CREATE TEMPORARY TABLE shop.more LIKE shop.orders;
        INSERT INTO shop.more (n) VALUES (8); INSERT INTO shop.orders (n) SELECT n + 1 FROM shop.more; DROP TEMPORARY TABLE shop.tmp;
    """,
    "engines without transactions": """
        CREATE TABLE shop.m (n INT) ENGINE = MyISAM; CREATE TABLE shop.r (n INT) ENGINE = Aria; INSERT INTO shop.m VALUES (1), (2);
        INSERT INTO shop.r VALUES (3); BEGIN; INSERT INTO shop.orders (n) VALUES (1); INSERT INTO shop.m VALUES (4); ROLLBACK;
    """,
    "compressed events": """
        SET GLOBAL log_bin_compress = ON, log_bin_compress_min_len = 10; SET SESSION binlog_format = ROW;
        INSERT INTO shop.orders (n) VALUES (1), (2); CREATE TABLE shop.z (t LONGTEXT);
        INSERT INTO shop.z VALUES (REPEAT('compress me ', 100000)); UPDATE shop.z SET t = REVERSE(t); DELETE FROM shop.orders WHERE n = 1;
    """,
    "other checksums from file to file": """
        INSERT INTO shop.orders (n) VALUES (1); SET GLOBAL binlog_checksum = NONE; INSERT INTO shop.orders (n) VALUES (2);
        FLUSH BINARY LOGS; INSERT INTO shop.orders (n) VALUES (3); SET GLOBAL binlog_checksum = CRC32; INSERT INTO shop.orders (n) VALUES (4);
    """,
    "accounts": """
        CREATE USER 'o''brien'@'%' IDENTIFIED BY 'x\\\\y'; GRANT SELECT ON shop.* TO 'o''brien'@'%'; CREATE ROLE r; GRANT r TO 'o''brien'@'%';
    """,
    "system versions": """
        CREATE TABLE shop.h (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING; INSERT INTO shop.h VALUES (1, 1), (2, 2);
        UPDATE shop.h SET v = 3; DELETE FROM shop.h WHERE id = 2;
    """,
    "a transaction that becomes a file of its own": """
        CREATE TABLE shop.big (id INT PRIMARY KEY, b LONGBLOB); INSERT INTO shop.orders (n) VALUES (1);
        /*M!110700 SET GLOBAL binlog_large_commit_threshold = 10485760 */;
        BEGIN; INSERT INTO shop.big VALUES (1, REPEAT('x', 8000000)); INSERT INTO shop.big VALUES (2, REPEAT('y', 8000000)); COMMIT;
        INSERT INTO shop.orders (n) VALUES (2);
    """,
    "wide transactions": """
        CREATE TABLE shop.w (id INT PRIMARY KEY, v CHAR(200)); INSERT INTO shop.w
            SELECT seq, SHA2(seq, 512) FROM (SELECT a.n * 200 + b.n AS seq FROM shop.digits a, shop.digits b) AS numbers;
        UPDATE shop.w SET v = REVERSE(v) WHERE id % 2; DELETE FROM shop.w WHERE id % 3 = 0;
    """,
}  # fmt: skip

DIGITS = "CREATE TABLE shop.digits (n INT PRIMARY KEY); INSERT INTO shop.digits WITH RECURSIVE c (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < 199) SELECT n FROM c"  # fmt: skip


# Large ones cost a disk's time, and repeat what is tested byte by byte in the unit tests.
LARGE = (
    "rows as long as a packet may be",
    "a transaction that becomes a file of its own",
    "wide transactions",
)
assert set(LARGE) <= set(CONTENTS)
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind in LARGE else ()) for kind in CONTENTS]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_candidate_holds_what_the_dead_primary_held(
    servers: Servers, tmp_path: Path, kind: str
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    root(cluster.primary, DIGITS)
    root(cluster.primary, CONTENTS[kind])
    held, sums = dump(cluster.primary), checksums(cluster.primary)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    # A replica never logs what a primary's temporary tables need.
    await salvage_onto(candidate, cluster.primary, tmp_path, all_logged=kind != "temporary tables")
    assert dump(candidate) == held
    assert checksums(candidate) == sums


async def test_prepared_transactions_stay_prepared(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    work = "XA START '{0}'; INSERT INTO shop.orders (n) VALUES ({1}); XA END '{0}'; XA PREPARE '{0}';"
    root(cluster.primary, work.format("kept", 1))
    root(cluster.primary, work.format("committed", 2) + "XA COMMIT 'committed'")
    root(cluster.primary, work.format("undone", 3) + "XA ROLLBACK 'undone'")
    root(cluster.primary, "INSERT INTO shop.orders (n) VALUES (4)")
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    await salvage_onto(candidate, cluster.primary, tmp_path)
    assert root(candidate, "SELECT n FROM shop.orders ORDER BY n").split() == ["2", "4"]
    assert root(candidate, "XA RECOVER").split()[-1] == "kept"


async def test_a_loaded_file_arrives_in_either_format(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    file = cluster.primary.folder / "tmp/rows.txt"
    file.write_bytes("".join(f"{n}\t{n % 7}\n" for n in range(20_000)).encode())
    file.chmod(0o644)
    for form in ("ROW", "STATEMENT"):
        root(
            cluster.primary,
            f"SET SESSION binlog_format = {form}; LOAD DATA INFILE '{file}' INTO TABLE shop.orders",
        )
    sums = checksums(cluster.primary)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    summary = await salvage_onto(candidate, cluster.primary, tmp_path)
    assert summary.count == 2
    assert checksums(candidate) == sums
