"""A renewed certificate reaches a running server's new connections without a restart."""

from __future__ import annotations

import pytest

from mariadb_operator.sql.certificates import reload_certificates
from mariadb_operator.sql.errors import ServerPresent
from tests.integration.certificates import Authority
from tests.integration.servers import Server


async def test_a_running_server_shows_the_renewed_certificate_once_told_to_read_it(server: Server) -> None:
    renewed = Authority.make("renewed")
    async with await server.answering() as connection:
        renewed.write_server_files(server.folder / "tls")
        server._give()
        (await server.connect()).close()  # it still shows the old one
        await reload_certificates(connection)
        server.authority = renewed
        (await server.connect()).close()
        assert await connection.query("SELECT 1 AS one", deadline_seconds=5.0) == [{"one": 1}]


async def test_files_that_can_not_be_used_leave_the_server_with_what_it_has(server: Server) -> None:
    async with await server.answering() as connection:
        (server.folder / "tls/tls.crt").write_text("no certificate")
        with pytest.raises(Exception, match=r"SSL|certificate"):
            await reload_certificates(connection)
        (await server.connect()).close()


async def test_a_server_of_another_authority_is_not_trusted(server: Server) -> None:
    (await server.answering()).close()
    server.authority = Authority.make("another")
    with pytest.raises(ServerPresent):
        await server.connect()
