"""The store of responses: bounded, each tenant's apart, there after a restart, whatever breaks."""

import asyncio
import multiprocessing
import os
import sqlite3
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.api.errors import ApiError
from server.api.responses_key import KEY_FILE
from server.api.responses_seal import KEY_BYTES
from server.api.responses_store import Kept, Store, packed
from server.api.responses_table import FILE, ROW_BYTES, Table

MIB = 1 << 20


def kept(id, words="Hi"):
    return Kept({"id": id, "output": [words]}, [{"content": words}])


def run(work):
    return asyncio.run(work)


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_response_is_kept_for_its_tenant(tmp_path, place):
    store = Store(tmp_path if place == "folder" else "memory", MIB)

    async def use():
        await store.keep(kept("resp_1"), "a")
        assert await store.load("resp_1", "a") == kept("resp_1")
        assert await store.load("resp_1", "b") is None
        assert await store.load("resp_2", "a") is None
        assert not await store.delete("resp_1", "b")
        assert await store.delete("resp_1", "a")
        assert not await store.delete("resp_1", "a")
        assert await store.load("resp_1", "a") is None

    run(use())


def test_it_is_there_after_a_restart(tmp_path):
    folder = tmp_path / "state" / "responses"
    run(Store(folder, MIB).keep(kept("resp_1", "🗼"), "a"))
    assert run(Store(folder, MIB).load("resp_1", "a")) == kept("resp_1", "🗼")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert run(Store(folder, MIB).key()) == run(Store(folder, MIB).key())


@pytest.mark.parametrize("store", [Store("off", MIB), Store("memory", 0)])
def test_off(store):
    run(store.keep(kept("resp_1"), "a"))
    assert not store.on
    assert run(store.load("resp_1", "a")) is None
    assert not run(store.delete("resp_1", "a"))
    assert len(run(store.key())) == KEY_BYTES


def test_the_oldest_make_room(tmp_path):
    table = Table(tmp_path, 10 * (ROW_BYTES + 1000))
    for number in range(25):
        assert table.put(f"resp_{number}", "a", bytes(1000))
    there = [n for n in range(25) if table.get(f"resp_{n}", "a") is not None]
    assert there == list(range(15, 25))
    assert table.put("large", "a", bytes(5 * (ROW_BYTES + 1000) - ROW_BYTES))
    assert [n for n in there if table.get(f"resp_{n}", "a")] == list(range(20, 25))
    assert not table.put("too large", "a", bytes(10 * (ROW_BYTES + 1000)))
    assert table.get("resp_24", "a") is not None


def test_the_file_stays_within_its_bounds(tmp_path):
    table = Table(tmp_path, 4 * MIB)
    for number in range(300):
        table.put(f"resp_{number}", "a", os.urandom(100_000))
    table.close()
    assert (tmp_path / FILE).stat().st_size < 4.4 * MIB
    table = Table(tmp_path, MIB)
    table.put("last", "a", b"x")
    table.close()
    assert (tmp_path / FILE).stat().st_size < 1.2 * MIB
    assert Table(tmp_path, MIB).get("last", "a") == b"x"


def test_what_is_deleted_leaves_no_trace(tmp_path):
    table = Table(tmp_path, MIB)
    table.put("resp_1", "a", b"a secret" * 100)
    table.put("resp_2", "a", b"another one" * 100)
    table.delete("resp_1", "a")
    table.close()
    assert b"a secret" not in (tmp_path / FILE).read_bytes()
    assert b"another one" in (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"x", b"no database" * 500])
def test_a_file_that_is_none_is_put_aside(tmp_path, damage, caplog):
    (tmp_path / FILE).write_bytes(damage)
    table = Table(tmp_path, MIB)
    assert table.get("resp_1", "a") is None
    assert table.put("resp_1", "a", b"x")
    assert Table(tmp_path, MIB).get("resp_1", "a") == b"x"
    aside = tmp_path / "responses-1.damaged"
    # SQLite takes a file of a few bytes for an empty one.
    assert aside.exists() == ("put aside" in caplog.text) == (len(damage) > 1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_costs_only_what_was_kept(tmp_path_factory, data):
    """Found at once or later: what is read is whole or not there, and new ones are kept."""
    folder = tmp_path_factory.mktemp("damaged")
    table = Table(folder, MIB)
    before = [kept(f"resp_{n}", "".join(map(str, range(n, 3000, 7)))) for n in range(4)]
    for one in before:
        table.put(one.response["id"], "a", packed(one))
    table.close()
    raw = bytearray((folder / FILE).read_bytes())
    page = data.draw(st.integers(0, len(raw) // 4096 - 1)) * 4096
    place = page + data.draw(st.integers(0, 200) | st.integers(0, 4095))
    noise = data.draw(st.binary(min_size=1, max_size=300))
    raw[place : place + len(noise)] = noise
    (folder / FILE).write_bytes(raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))])
    store = Store(folder, MIB)

    async def use():
        for one in before:
            assert await store.load(one.response["id"], "a") in (one, None)
            assert await store.load(one.response["id"], "b") is None
        await store.keep(kept("resp_new"), "a")
        return await store.load("resp_new", "a")

    assert run(use()) == kept("resp_new")


def test_a_damaged_row_is_not_there(tmp_path, caplog):
    store = Store(tmp_path, MIB)
    run(store.keep(kept("resp_1"), "a"))
    run(store.keep(kept("resp_2"), "a"))
    with sqlite3.connect(tmp_path / FILE) as rows:
        rows.execute("UPDATE responses SET body = substr(body, 1, 9) WHERE id = 'resp_1'")
    rows.close()
    assert run(store.load("resp_1", "a")) is None
    assert "resp_1 is damaged" in caplog.text
    assert run(store.load("resp_2", "a")) == kept("resp_2")


def test_a_folder_that_cannot_be_had_costs_no_answer(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "responses", MIB)
    run(store.keep(kept("resp_1"), "a"))
    assert "a response was not kept" in caplog.text
    assert len(run(store.key())) == KEY_BYTES
    with pytest.raises(ApiError) as failed:
        run(store.load("resp_1", "a"))
    assert (failed.value.kind.status, failed.value.kind.code) == (500, "store_failed")


def test_a_damaged_key_is_another_one_until_the_restart(tmp_path, caplog):
    (tmp_path / KEY_FILE).write_bytes(b"short")
    store = Store(tmp_path, MIB)
    assert run(store.key()) == run(store.key())
    assert "encrypted reasoning cannot be read after a restart" in caplog.text


def _write(folder, name):
    table = Table(folder, MIB)
    for number in range(20):
        table.put(f"{name}_{number}", "a", name.encode())


def test_two_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, name)) for name in ("x", "y")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    table = Table(tmp_path, MIB)
    assert all(table.get(f"{name}_{n}", "a") for name in "xy" for n in range(20))


class AnyUse(RuleBasedStateMachine):
    """Against a dictionary: what is read is what was put last, and no more than there is room
    for is kept."""

    MOST = 10 * ROW_BYTES

    def __init__(self):
        super().__init__()
        self.table = Table(None, self.MOST)
        self.model: dict[tuple[str, str], bytes] = {}

    ids = st.sampled_from("abcd")
    tenants = st.sampled_from("xy")

    @rule(id=ids, tenant=tenants, size=st.integers(0, 11 * ROW_BYTES))
    def put(self, id, tenant, size):
        fits = self.table.put(id, tenant, bytes(size))
        assert fits == (size + ROW_BYTES <= self.MOST)
        if fits:
            self.model = {key: body for key, body in self.model.items() if key[0] != id}
            self.model[id, tenant] = bytes(size)
            while sum(len(body) + ROW_BYTES for body in self.model.values()) > self.MOST:
                del self.model[next(iter(self.model))]

    @rule(id=ids, tenant=tenants)
    def delete(self, id, tenant):
        assert self.table.delete(id, tenant) == (self.model.pop((id, tenant), None) is not None)

    @invariant()
    def the_same_is_there(self):
        for id in "abcd":
            for tenant in "xy":
                assert self.table.get(id, tenant) == self.model.get((id, tenant))


TestAnyUse = AnyUse.TestCase
