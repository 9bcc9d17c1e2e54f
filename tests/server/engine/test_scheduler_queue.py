"""How the scheduler admits, refuses, postpones and forgets requests, case by case."""

import pytest

from server.engine.admission import MAX_OVERTAKEN
from server.engine.scheduler import Admit, Decode, Prefill
from tests.server.engine.scheduler_desk import Desk
from tests.server.engine.scheduler_simulation import Client, Simulation


def admitted(run: Simulation) -> list[str]:
    return [turn.key for turn in run.turns if isinstance(turn, Admit)]


def test_the_queue_is_bounded_and_first_come_first_served():
    clients = [Client(f"c{i:02}", prompt=10) for i in range(20)]
    run = Simulation(clients, max_batch=2, max_queue=8).run()
    refused = [client.name for client in clients if client.fate == "refused"]
    assert refused == [f"c{i:02}" for i in range(10, 20)]
    assert admitted(run) == [f"c{i:02}" for i in range(10)]


def test_full_tells_what_add_would_say_for_as_many_slots():
    desk = Desk(max_batch=4, max_queue=0)
    desk.run("a", slots=2)
    assert not desk.scheduler.full(2)
    assert desk.scheduler.full(3)
    assert not desk.scheduler.add("b", tokens=1, slots=3)
    desk.add("c", slots=2)
    assert desk.scheduler.full()
    assert (desk.scheduler.queued, desk.scheduler.active, desk.scheduler.slots_used) == (1, 1, 2)


@pytest.mark.parametrize("slots", [0, 5, -1])
def test_more_slots_than_there_are_is_an_error(slots: int):
    with pytest.raises(ValueError, match="slots of a batch of 4"):
        Desk(max_batch=4).scheduler.add("a", tokens=1, slots=slots)


def test_a_key_is_here_once():
    desk = Desk()
    desk.add("a")
    with pytest.raises(ValueError, match="here already"):
        desk.add("a")
    desk.admit("a")
    with pytest.raises(ValueError, match="here already"):
        desk.add("a")
    desk.scheduler.remove("a")
    desk.add("a")


def test_a_title_goes_before_long_prompts_that_wait():
    desk = Desk(max_batch=1)
    desk.run("busy")
    desk.add("long", "longer", tokens=40_000)
    desk.add("title", tokens=300)
    desk.add("note", tokens=400)
    desk.scheduler.remove("busy")
    order = []
    for _ in range(4):
        turn = desk.turn()
        assert isinstance(turn, Admit)
        order.append(turn.key)
        desk.scheduler.remove(turn.key)
    assert order == ["title", "note", "long", "longer"]


def test_a_somewhat_shorter_prompt_does_not_go_first():
    desk = Desk(max_batch=1)
    desk.run("busy")
    desk.add("first", tokens=4000)
    desk.add("second", tokens=600)
    desk.scheduler.remove("busy")
    desk.admit("first")


def test_nobody_is_overtaken_for_ever():
    desk = Desk(max_batch=1)
    desk.run("busy")
    desk.add("long", tokens=40_000)
    desk.add(*(f"title {i}" for i in range(20)), tokens=300)
    desk.scheduler.remove("busy")
    order = []
    for _ in range(8):
        turn = desk.turn()
        assert isinstance(turn, Admit)
        order.append(turn.key)
        desk.scheduler.remove(turn.key)
    titles = [f"title {i}" for i in range(7)]
    assert order == [*titles[:MAX_OVERTAKEN], "long", *titles[MAX_OVERTAKEN:]]


def test_many_choices_get_their_slots_though_single_ones_keep_coming():
    desk = Desk(max_batch=4)
    desk.run("s0", "s1", "s2", "s3")
    desk.add("choices", slots=4, tokens=100)
    passed = 0
    running = ["s0", "s1", "s2", "s3"]
    for index in range(4, 40):
        desk.add(f"s{index}", tokens=100)
        desk.scheduler.remove(running.pop(0))
        turn = desk.turn()
        if turn == Admit("choices"):
            break
        if isinstance(turn, Admit):
            desk.scheduler.decoding(turn.key)
            running.append(turn.key)
            passed += 1
    else:
        pytest.fail("starved")
    assert passed == MAX_OVERTAKEN, "slots are not left empty before that"


def test_rows_that_are_done_free_their_slots():
    desk = Desk(max_batch=4)
    desk.run("choices", slots=4)
    desk.add("next")
    assert desk.turn() == Decode()
    desk.scheduler.rows_done("choices", 3)
    assert (desk.scheduler.decoding_rows, desk.scheduler.slots_used) == (1, 1)
    assert desk.turn() == Admit("next")
    desk.scheduler.rows_done("choices")
    desk.scheduler.remove("choices")
    assert desk.scheduler.slots_used == 1


def test_fewer_rows_than_slots_free_the_others():
    desk = Desk(max_batch=4)
    desk.add("choices", slots=4)
    desk.admit("choices")
    desk.scheduler.decoding("choices", rows=2)
    assert (desk.scheduler.decoding_rows, desk.scheduler.slots_used) == (2, 2)
    with pytest.raises(ValueError, match="3 of 2 rows"):
        desk.scheduler.rows_done("choices", 3)


# Memory.


def test_who_lacks_memory_waits_at_the_head_until_something_is_freed():
    desk = Desk()
    desk.run("stream")
    desk.add("big", "other")
    desk.admit("big")
    assert desk.scheduler.postpone("big")
    desk.admit("other")  # overtakes, once
    desk.scheduler.decoding("other")
    assert [desk.turn() for _ in range(5)] == [Decode()] * 5
    desk.scheduler.remove("other")
    desk.admit("big")


def test_rows_done_are_memory_freed():
    desk = Desk()
    desk.run("choices", slots=2)
    desk.add("big")
    desk.admit("big")
    desk.scheduler.postpone("big")
    assert desk.turn() == Decode()
    desk.scheduler.rows_done("choices")
    desk.admit("big")


def test_who_overtook_and_lacks_memory_goes_back_behind_those_it_overtook():
    desk = Desk(max_batch=2)
    desk.run("stream", "second")
    desk.add("long", tokens=40_000)
    desk.add("title", tokens=100)
    desk.scheduler.remove("second")
    desk.admit("title")
    assert desk.scheduler.postpone("title")
    desk.admit("long")


def test_with_nothing_else_active_there_is_nothing_to_wait_for():
    desk = Desk()
    desk.add("big")
    desk.admit("big")
    assert not desk.scheduler.postpone("big")
    desk.admit("big")  # not stuck, though the worker had better fail it
    assert not desk.scheduler.postpone("big")
    desk.scheduler.remove("big")
    assert desk.turn() is None


def test_postponed_for_ever_does_not_happen_when_the_last_one_leaves():
    desk = Desk()
    desk.run("stream")
    desk.add("a", "b")
    for key in ("a", "b"):
        desk.admit(key)
        assert desk.scheduler.postpone(key)
    desk.scheduler.remove("stream")
    desk.admit("a")


# The rest.


@pytest.mark.parametrize("place", ["waiting", "starting", "prefilling", "decoding"])
def test_remove_works_everywhere(place: str):
    desk = Desk()
    desk.add("a")
    if place != "waiting":
        desk.admit("a")
    if place == "prefilling":
        desk.scheduler.prefilling("a", 100)
    if place == "decoding":
        desk.scheduler.decoding("a")
    desk.scheduler.remove("a")
    desk.scheduler.remove("a")
    assert desk.scheduler.active == desk.scheduler.queued == desk.scheduler.slots_used == 0
    assert desk.turn() is None


def test_remove_in_the_middle_of_its_turn():
    desk = Desk()
    desk.add("a", "b")
    desk.admit("a", "b")
    desk.scheduler.prefilling("a", 1000)
    desk.scheduler.decoding("b")
    assert desk.turn() == Decode()
    turn = desk.scheduler.next()
    assert isinstance(turn, Prefill)
    desk.scheduler.remove("a")
    desk.scheduler.done(0)
    assert desk.turn() == Decode()
    assert desk.scheduler.next() == Decode()
    desk.scheduler.remove("b")
    desk.scheduler.done(0)
    assert desk.turn() is None


def test_answers_that_make_no_sense_are_errors():
    desk = Desk()
    desk.add("a")
    with pytest.raises(ValueError, match="not admitted"):
        desk.scheduler.prefilling("a", 10)
    desk.admit("a")
    with pytest.raises(ValueError, match="not answered"):
        desk.scheduler.rows_done("a")
    with pytest.raises(ValueError, match="2 rows in 1 slots"):
        desk.scheduler.decoding("a", rows=2)
    desk.scheduler.decoding("a")
    with pytest.raises(ValueError, match="decoding"):
        desk.scheduler.postpone("a")


def test_retry_after_grows_with_the_queue_and_stays_sane():
    desk = Desk(max_batch=2, max_queue=1000)
    empty = desk.scheduler.retry_after()
    desk.add(*(f"c{i}" for i in range(500)))
    assert 1 <= empty < desk.scheduler.retry_after() <= 60


def test_retry_after_follows_how_long_requests_take():
    desk = Desk(max_batch=1, max_queue=1000)
    for _ in range(10):
        desk.run("slow")
        desk.now += 20
        desk.scheduler.remove("slow")
    desk.add("a", "b")
    assert 20 <= desk.scheduler.retry_after() <= 40
    for _ in range(30):
        desk.scheduler.remove("a")
        desk.scheduler.remove("b")
        desk.run("quick")
        desk.scheduler.remove("quick")
        desk.add("a", "b")
    assert desk.scheduler.retry_after() == 1


def test_check_sees_accounts_that_do_not_add_up():
    desk = Desk()
    desk.run("a")
    desk.scheduler._active["a"].slots = 9
    with pytest.raises(AssertionError, match="9 slots of 4"):
        desk.scheduler.check()
    desk = Desk()
    desk.add("a", "b")
    desk.scheduler._line._line["a"].blocked = True
    with pytest.raises(AssertionError, match="nobody is left"):
        desk.scheduler.check()
    desk = Desk()
    desk.add("a", "b")
    desk.scheduler._line._line["a"].order = 7
    with pytest.raises(AssertionError, match="out of order"):
        desk.scheduler.check()
