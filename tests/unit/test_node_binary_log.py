"""The reader of binary logs: whole transactions and nothing else, from the right place, whatever a crash left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mariadb_operator.node.binary_log import Diverged, Purged, beyond, inspect, missing_after
from mariadb_operator.node.log_events import UnsupportedLog
from mariadb_operator.node.log_files import Damage, LogMissing, Torn
from mariadb_operator.node.transactions import LogDamaged, Transaction
from mariadb_operator.runtime.errors import OperatorError
from statemachines.gtid import Gtid, History, Position
from tests.unit.log_builder import ENCRYPTION, ROTATE, STANDALONE, WRITE_ROWS, XID, Log, folder_of

ENDS = st.sampled_from(["xid", "commit", "rollback", "statement", "xa"])
NOTHING = Position()


def gtid(sequence: int, server: int = 1, domain: int = 0) -> Gtid:
    return Gtid(domain, server, sequence)


def up_to(sequence: int, server: int = 1) -> Position:
    return Position((gtid(sequence, server),))


def small_log(count: int = 6, *, checksum: bool = True) -> Log:
    log = Log(checksum=checksum).head()
    for number in range(1, count + 1):
        log.transaction(gtid(number), 20, end=["xid", "commit", "statement", "xa"][number % 4])
    return log


def read(index: Path, position: Position = NOTHING) -> tuple[list[Gtid], Torn | None]:
    with missing_after(index, position) as missing:
        return [each.gtid for each in missing], missing.torn


def content(index: Path, position: Position = NOTHING) -> list[bytes]:
    def whole(transaction: Transaction) -> bytes:
        return b"".join(
            piece for part in transaction.parts for piece in part.file.pieces(part.start, part.end)
        )

    with missing_after(index, position) as missing:
        return [whole(each) for each in missing]


@pytest.mark.parametrize("checksum", [True, False])
def test_every_kind_of_transaction_is_found_with_its_own_bytes(tmp_path: Path, checksum: bool) -> None:
    log = Log(checksum=checksum).head()
    for number, end in enumerate(["xid", "commit", "rollback", "statement", "xa"], 1):
        log.transaction(gtid(number), 10, 3000, end=end)
    index = folder_of(tmp_path, [log])
    assert read(index) == ([gtid(number) for number in range(1, 6)], None)
    assert content(index) == [bytes(log.data[start:end]) for _, start, end in log.ends]


@pytest.mark.parametrize("text", [b"SAVEPOINT `COMMIT`", b"SELECT COMMIT", b"-- ROLLBACK", b"\0COMMIT\0 x"])
def test_a_statement_that_only_contains_commit_does_not_end_a_transaction(
    tmp_path: Path, text: bytes
) -> None:
    log = Log().head().begin(gtid(1)).query(text).rows(8)
    index = folder_of(tmp_path, [log])
    got, torn = read(index)
    assert not got
    assert torn is not None
    assert torn.damage is Damage.UNFINISHED


@pytest.mark.parametrize("after", range(7))
def test_what_is_missing_begins_right_after_the_position(tmp_path: Path, after: int) -> None:
    index = folder_of(tmp_path, [small_log()])
    position = up_to(after) if after else NOTHING
    assert read(index, position)[0] == [gtid(number) for number in range(after + 1, 7)]


def test_files_before_the_position_are_not_needed(tmp_path: Path) -> None:
    logs = [
        Log().head().transaction(gtid(1), 8),
        Log().head([gtid(1)]).transaction(gtid(2), 8).transaction(gtid(3), 8),
        Log().head([gtid(3)]).transaction(gtid(4), 8),
    ]
    index = folder_of(tmp_path, logs)
    (tmp_path / "binlog.000001").unlink()
    assert read(index, up_to(2))[0] == [gtid(3), gtid(4)]
    assert read(index, up_to(1))[0] == [gtid(2), gtid(3), gtid(4)]
    with pytest.raises(Purged):
        read(index, NOTHING)


def test_a_log_that_begins_too_late_is_purged(tmp_path: Path) -> None:
    index = folder_of(tmp_path, [Log().head([gtid(5)]).transaction(gtid(6), 8)])
    assert read(index, up_to(5))[0] == [gtid(6)]
    with pytest.raises(Purged, match="0-1-5"):
        read(index, up_to(4))


@pytest.mark.parametrize("position", [up_to(3, server=2), up_to(6, server=2)])
def test_a_position_that_the_log_does_not_have_is_another_history(tmp_path: Path, position: Position) -> None:
    with pytest.raises(Diverged):
        read(folder_of(tmp_path, [small_log()]), position)


def test_a_position_in_a_gap_is_another_history(tmp_path: Path) -> None:
    log = Log().head().transaction(gtid(1), 8).transaction(gtid(3), 8)
    with pytest.raises(Diverged):
        read(folder_of(tmp_path, [log]), up_to(2))


def test_who_is_ahead_of_the_log_lacks_nothing(tmp_path: Path) -> None:
    assert read(folder_of(tmp_path, [small_log()]), up_to(9, server=2)) == ([], None)


def test_each_domain_is_compared_for_itself(tmp_path: Path) -> None:
    log = Log().head()
    for number in range(1, 4):
        log.transaction(gtid(number), 8).transaction(gtid(number, domain=7), 8)
    index = folder_of(tmp_path, [log])
    got, _ = read(index, Position((gtid(1), gtid(3, domain=7))))
    assert got == [gtid(2), gtid(3)]
    got, _ = read(index, up_to(3))
    assert got == [gtid(number, domain=7) for number in range(1, 4)]


def test_what_a_crash_left_in_an_older_file_is_passed_over(tmp_path: Path) -> None:
    first = Log().head().transaction(gtid(1), 8).begin(gtid(2)).rows(100)
    second = Log().head([gtid(1)]).transaction(gtid(2), 8)
    del first.data[-20:]
    index = folder_of(tmp_path, [first, second])
    assert read(index) == ([gtid(1), gtid(2)], None)
    assert content(index)[1] == bytes(second.data[second.ends[0][1] :])


def test_a_hole_between_two_files_is_not_passed_over(tmp_path: Path) -> None:
    first = Log().head().transaction(gtid(1), 8).transaction(gtid(2), 8)
    second = Log().head([gtid(2)]).transaction(gtid(3), 8)
    first.data[first.ends[1][1] + 60] ^= 1
    index = folder_of(tmp_path, [first, second])
    with pytest.raises(LogDamaged, match="0-1-2"):
        read(index)


def test_damage_with_whole_transactions_after_it_is_told_from_a_torn_tail(tmp_path: Path) -> None:
    log = small_log(6)
    start = log.ends[3][1]
    log.data[start + 70] ^= 0xFF
    got, torn = read(folder_of(tmp_path, [log]))
    assert got == [gtid(1), gtid(2), gtid(3)]
    assert torn is not None
    assert (torn.damage, torn.offset, torn.beyond) == (Damage.CHECKSUM, start, gtid(5))


def test_zeros_after_a_power_loss_are_a_torn_tail(tmp_path: Path) -> None:
    log = small_log(3)
    end = len(log.data)
    log.data += bytes(5000)
    got, torn = read(folder_of(tmp_path, [log]))
    assert len(got) == 3
    assert torn == Torn(
        file="binlog.000001", offset=end, damage=Damage.GARBAGE, bytes_left=5000, gtid=None, beyond=None
    )


@pytest.mark.parametrize("left", [0, 3, 4, 20, 100])
def test_a_last_file_without_a_head_is_left_out(tmp_path: Path, left: int) -> None:
    cut = Log().head([gtid(6)])
    del cut.data[left:]
    index = folder_of(tmp_path, [small_log(6), cut])
    assert read(index, up_to(4)) == ([gtid(5), gtid(6)], None)
    assert inspect(index).history == History.of([gtid(6)])


def test_a_last_file_without_its_list_is_no_place_to_begin(tmp_path: Path) -> None:
    cut = Log().head(None)
    index = folder_of(tmp_path, [small_log(6), cut])
    assert read(index, up_to(4))[0] == [gtid(5), gtid(6)]


def test_an_index_line_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    index = folder_of(tmp_path, [small_log(2)])
    with index.open("a") as file:
        file.write("/var/lib/mysql/data/binlog.0000")
    assert read(index)[0] == [gtid(1), gtid(2)]


def test_an_encrypted_log_is_refused(tmp_path: Path) -> None:
    log = Log().head(None).event(ENCRYPTION, bytes(17))
    with pytest.raises(UnsupportedLog, match="encrypted"):
        read(folder_of(tmp_path, [log]))


def test_unknown_checksums_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLog, match="checksum algorithm 9"):
        read(folder_of(tmp_path, [Log().head(algorithm=9)]))


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    index = folder_of(tmp_path, [small_log(1)])
    (tmp_path / "binlog.000001").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(UnsupportedLog):
        read(index)


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """The volume is the server's: who owns that must not make the sidecar read something else."""
    index = folder_of(tmp_path, [small_log(1)])
    (tmp_path / "binlog.000001").rename(tmp_path / "elsewhere")
    (tmp_path / "binlog.000001").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperatorError):
        read(index)


def test_a_pipe_in_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    index = folder_of(tmp_path, [small_log(1)])
    (tmp_path / "binlog.000001").unlink()
    os.mkfifo(tmp_path / "binlog.000001")
    with pytest.raises(UnsupportedLog, match="no file"):
        read(index)


def test_what_an_earlier_crash_left_is_not_called_torn_once_a_new_file_began(tmp_path: Path) -> None:
    first = Log().head().transaction(gtid(1), 8).begin(gtid(2)).rows(100)
    index = folder_of(tmp_path, [first, Log().head([gtid(1)])])
    assert read(index) == ([gtid(1)], None)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogMissing, match=r"binlog\.index"):
        read(tmp_path / "binlog.index")


@pytest.mark.parametrize("checksum", [True, False])
def test_a_row_longer_than_what_is_read_at_a_time_is_whole(tmp_path: Path, checksum: bool) -> None:
    log = Log(checksum=checksum).head().transaction(gtid(1), 3_000_000, 10).transaction(gtid(2), 2_200_000)
    index = folder_of(tmp_path, [log])
    assert read(index) == ([gtid(1), gtid(2)], None)
    assert content(index) == [bytes(log.data[start:end]) for _, start, end in log.ends]
    if checksum:
        log.data[log.ends[1][1] + 1_500_000] ^= 1
        got, torn = read(folder_of(tmp_path, [log]))
        assert got == [gtid(1)]
        assert torn is not None
        assert torn.damage is Damage.CHECKSUM


def big_log(count: int, row: int) -> Log:
    log = Log().head()
    for number in range(1, count + 1):
        log.transaction(gtid(number), row)
    return log


def test_a_place_found_by_halves_is_the_right_one(tmp_path: Path) -> None:
    count = 3000
    log = big_log(count, 20_000)  # 60 MB
    index = folder_of(tmp_path, [log])
    for after in (1, 2, 1499, 1500, 2998, 2999):
        got, torn = read(index, up_to(after))
        assert (got[0], got[-1], len(got), torn) == (gtid(after + 1), gtid(count), count - after, None)
    assert read(index, up_to(count)) == ([], None)
    with pytest.raises(Diverged):
        read(index, up_to(2500, server=2))


def test_a_transaction_forged_inside_a_row_is_not_taken_for_one(tmp_path: Path) -> None:
    """A row may hold the bytes of events, made for just the place where it will lie."""
    log = big_log(1500, 20_000)
    log.begin(gtid(1501))
    # Wherever the search looks into the padding, what it finds next is the forged history.
    padding = bytes(3_000_000)
    forged = Log(data=bytearray(len(log.data) + 19 + len(padding)))
    forged.transaction(gtid(1400), 8).transaction(gtid(1500), 8).transaction(gtid(1501), 8)
    log.event(WRITE_ROWS, padding + forged.data[len(log.data) + 19 + len(padding) :]).event(XID, bytes(8))
    for number in range(1502, 1600):
        log.transaction(gtid(number), 20_000)
    index = folder_of(tmp_path, [log])
    with missing_after(index, up_to(1500)) as missing:
        first, *others = list(missing)
        assert first.gtid == gtid(1501)
        assert first.length > len(padding)
        assert [each.gtid for each in others] == [gtid(number) for number in range(1502, 1600)]


def test_inspection_says_what_the_whole_log_holds(tmp_path: Path) -> None:
    first = Log().head([gtid(3, server=9)]).transaction(gtid(4), 8).event(ROTATE, b"12345678binlog.000002")
    second = (
        Log().head([gtid(3, server=9), gtid(4)]).transaction(gtid(5, server=2), 8).begin(gtid(6, 2)).rows(9)
    )
    seen = inspect(folder_of(tmp_path, [first, second]))
    assert seen.files == ("binlog.000001", "binlog.000002")
    assert seen.history == History.of([gtid(3, 9), gtid(4), gtid(5, 2)])
    assert seen.last == up_to(5, 2)
    assert seen.torn is not None
    assert seen.torn.gtid == gtid(6, 2)


def test_an_empty_log_holds_nothing(tmp_path: Path) -> None:
    seen = inspect(folder_of(tmp_path, [Log().head()]))
    assert not seen.history
    assert seen.torn is None


def test_what_is_beyond_a_history_is_told_by_server(tmp_path: Path) -> None:
    log = Log().head()
    for number in range(1, 4):
        log.transaction(gtid(number), 8)
    log.transaction(gtid(4, server=2), 8).transaction(gtid(5), 8)
    index = folder_of(tmp_path, [log])
    with beyond(index, History.of([gtid(5)])) as missing:
        assert [each.gtid for each in missing] == [gtid(4, server=2)]
    with beyond(index, History.of([gtid(3), gtid(9, server=2)])) as missing:
        assert [each.gtid for each in missing] == [gtid(5)]


def test_history_that_was_purged_is_not_called_errant_free(tmp_path: Path) -> None:
    index = folder_of(tmp_path, [Log().head([gtid(3, server=2)]).transaction(gtid(4), 8)])
    with pytest.raises(Purged), beyond(index, History.of([gtid(4)])):
        pass


@st.composite
def logs(draw: st.DrawFn) -> Log:
    log = Log(checksum=draw(st.booleans())).head()
    for number in range(1, draw(st.integers(1, 5)) + 1):
        log.transaction(gtid(number), *draw(st.lists(st.integers(0, 60), max_size=3)), end=draw(ENDS))
    return log


def whole_before(log: Log, end: int) -> list[Gtid]:
    return [each for each, _, finish in log.ends if finish <= end]


PROPERTIES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@PROPERTIES
@given(log=logs(), data=st.data())
def test_a_file_cut_anywhere_gives_its_whole_transactions_and_no_other(
    tmp_path: Path, log: Log, data: st.DataObject
) -> None:
    first = log.ends[0][1]
    cut = data.draw(st.integers(first, len(log.data)))
    del log.data[cut:]
    got, torn = read(folder_of(tmp_path, [log]))
    expected = whole_before(log, cut)
    assert got == expected
    boundaries = {first, *(end for _, _, end in log.ends)}
    assert (torn is None) == (cut in boundaries)
    if torn is not None:
        assert torn.bytes_left == cut - torn.offset
        assert torn.offset == max(each for each in boundaries if each <= cut)
    assert inspect(tmp_path / "binlog.index").history == History.of(expected)


@PROPERTIES
@given(log=logs().filter(lambda log: log.checksum), data=st.data())
def test_a_changed_byte_never_changes_a_transaction(tmp_path: Path, log: Log, data: st.DataObject) -> None:
    place = data.draw(st.integers(log.ends[0][1], len(log.data) - 1))
    whole = [bytes(log.data[start:end]) for _, start, end in log.ends]
    log.data[place] ^= data.draw(st.integers(1, 255))
    index = folder_of(tmp_path, [log])
    got = content(index)
    assert got == whole[: len(got)]
    assert len(got) == len(whole_before(log, place))
    assert read(index)[1] is not None


@pytest.mark.parametrize("after", range(5))
def test_a_damaged_first_missing_transaction_is_not_skipped(tmp_path: Path, after: int) -> None:
    """A changed type hides a transaction from who hops from length to length."""
    log = small_log(6)
    log.data[log.ends[after][1] + 4] += 1
    got, torn = read(folder_of(tmp_path, [log]), up_to(after) if after else NOTHING)
    assert not got
    assert torn is not None
    assert (torn.offset, torn.beyond) == (log.ends[after][1], gtid(after + 2))


@PROPERTIES
@given(data=st.binary(max_size=400), prefix=st.integers(0, 400))
@example(data=b"", prefix=400)
def test_no_bytes_make_the_reader_fail_otherwise_than_by_saying_so(
    tmp_path: Path, data: bytes, prefix: int
) -> None:
    log = small_log(2)
    log.data[prefix:] = data
    index = folder_of(tmp_path, [log])
    for ask in (read, inspect):
        try:
            ask(index)
        except OperatorError:
            continue


def test_a_standalone_statement_is_whole_only_with_its_statement(tmp_path: Path) -> None:
    log = Log().head().transaction(gtid(1), 8).begin(gtid(2), STANDALONE).event(5, bytes(9))
    got, torn = read(folder_of(tmp_path, [log]))
    assert got == [gtid(1)]
    assert torn is not None
    assert torn.gtid == gtid(2)
