"""Who begins, who waits and who is refused; in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from statistics import mean

import pytest

from services.admission import Admission, Place, Reason, Refused, Rules
from services.expectations import Expectations, Kind
from services.tenants import LOCAL, Tenant
from tests.unit.queueing import SEQUENCES, Cluster, Figures, Stream

ONE = Kind("single", 1)
GREEDY, MODEST = Tenant("greedy"), Tenant("modest")


def admission(capacity: float = 4, **rules: float) -> Admission:
    return Admission(Rules(capacity=capacity, **rules))  # type: ignore[arg-type]


def began(asked: Admission) -> list[Place]:
    return [it for it in asked.news() if it.refused is None]


def refusal(asked: Admission, now: float, tenant: Tenant, deadline: float | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        asked.ask(now, tenant, ONE, deadline)
    return caught.value


def experienced(capacity: float, seconds: float, **rules: float) -> Admission:
    """One that knows that a request takes so long."""
    asked = admission(capacity, **rules)
    asked.end(asked.ask(-seconds, LOCAL, ONE), 0.0, drawn=1)
    return asked


def test_what_there_is_room_for_begins_at_once() -> None:
    """The others wait in order, and begin as places become free."""
    asked = admission(2)
    places = [asked.ask(0, LOCAL, ONE) for _ in range(4)]
    assert [it.began for it in places] == [0, 0, None, None]
    asked.end(places[0], 5, drawn=1)
    assert began(asked) == [places[2]]
    asked.leave(places[1], 6)
    assert began(asked) == [places[3]]
    assert places[3].began == 6


def test_one_request_may_always_run() -> None:
    """However much it asks for; and the next one waits until it is over."""
    asked = admission(4)
    huge = asked.ask(0, LOCAL, Kind("majority", 4096))
    assert huge.began == 0
    small = asked.ask(1, LOCAL, ONE)
    assert small.began is None
    asked.end(huge, 2, drawn=4096)
    assert began(asked) == [small]


def test_while_engines_are_missing_fewer_begin() -> None:
    """Those that run go on; others wait until there is room among the engines that are left."""
    asked = admission(4)
    places = [asked.ask(0, LOCAL, ONE) for _ in range(4)]
    asked.adjust(0.5, 0)
    assert asked.limit == 2
    places.append(asked.ask(1, LOCAL, ONE))
    for ended in places[:2]:
        asked.end(ended, 2, drawn=1)
        assert began(asked) == []
    asked.end(places[2], 3, drawn=1)
    assert began(asked) == [places[4]]
    places += [asked.ask(4, LOCAL, ONE) for _ in range(3)]
    assert began(asked) == []
    asked.adjust(1.0, 5)
    assert began(asked) == places[5:7]
    assert [it.began for it in places[4:]] == [3, 5, 5, None]


def test_a_wait_is_longer_where_engines_are_missing() -> None:
    asked = experienced(4, 1.0)
    for _ in range(8):
        asked.ask(0, LOCAL, ONE)
    whole = refusal(asked, 0.0, LOCAL, 0.1).retry_seconds
    asked.adjust(0.25, 0.0)
    assert refusal(asked, 0.0, LOCAL, 0.1).retry_seconds > whole


def test_a_kind_counts_for_what_it_draws() -> None:
    """Requests that stop early leave room for more of their kind."""
    asked = admission(64)
    kind = Kind("auto", 16)
    for now in range(100):
        asked.end(asked.ask(now, LOCAL, kind), now + 1, drawn=4)
    assert sum(asked.ask(200, LOCAL, kind).began is not None for _ in range(20)) == 16


@pytest.mark.parametrize(("weight", "candidates"), [(1, 1), (3, 1), (1, 4), (0.5, 2)])
def test_tenants_that_wait_are_served_by_weight(weight: float, candidates: int) -> None:
    """Counted in candidates, over any stretch of time in which both have work waiting."""
    asked = admission(8, queue_requests=1000)
    heavy, light = Tenant("heavy", weight=weight), Tenant("light")
    running = [asked.ask(0, heavy, Kind("majority", candidates)) for _ in range(8)]
    for _ in range(200):
        asked.ask(0, heavy, Kind("majority", candidates))
        asked.ask(0, light, ONE)
    running = [it for it in running if it.began is not None]
    served: Counter[str] = Counter()
    while sum(served.values()) < 100:
        done = running.pop(0)
        asked.end(done, 1, drawn=done.kind.candidates)
        for place in began(asked):
            running.append(place)
            served[place.tenant.id] += place.kind.candidates
    assert served["heavy"] / served["light"] == pytest.approx(weight, rel=0.2)


def test_a_tenant_that_comes_late_is_not_behind_those_that_wait() -> None:
    """Nor may it make up for the time in which it asked for nothing."""
    asked = admission(1, queue_requests=1000, wait_seconds=1000)
    first = asked.ask(0, GREEDY, ONE)
    for _ in range(100):
        asked.ask(0, GREEDY, ONE)
    for now in range(50):
        asked.end(first, now, drawn=1)
        (first,) = began(asked)
    late = [asked.ask(60, MODEST, ONE) for _ in range(10)]
    order = []
    for now in range(61, 81):
        asked.end(first, now, drawn=1)
        (first,) = began(asked)
        order.append(first.tenant.id)
    assert order[:2].count("modest") == 1
    assert order[:20].count("modest") == 10
    assert all(it.began is not None for it in late)


def test_a_lower_priority_goes_first() -> None:
    """Whoever waited longer."""
    asked = admission(1)
    first = asked.ask(0, LOCAL, ONE)
    batch = asked.ask(0, Tenant("batch", priority=1), ONE)
    urgent = asked.ask(5, Tenant("urgent", priority=-1), ONE)
    asked.end(first, 6, drawn=1)
    assert began(asked) == [urgent]
    asked.end(urgent, 7, drawn=1)
    assert began(asked) == [batch]


def test_a_full_queue_is_shared_too() -> None:
    """Who holds most of it for its weight is refused, or gives up the last that it put there."""
    asked = admission(1, queue_requests=4)
    asked.ask(0, GREEDY, ONE)
    waiting = [asked.ask(0, GREEDY, ONE) for _ in range(4)]
    assert refusal(asked, 1, GREEDY).reason is Reason.QUEUE_FULL
    modest = asked.ask(1, MODEST, ONE)
    assert asked.news() == [waiting[3]]
    assert waiting[3].refused is not None
    assert waiting[3].refused.reason is Reason.OVER_SHARE
    refused = refusal(asked, 2, GREEDY)
    assert refused.reason is Reason.OVER_SHARE
    assert refused.own
    with pytest.raises(Refused):
        asked.check(GREEDY, 2)
    asked.check(MODEST, 2)
    asked.ask(2, MODEST, ONE)
    assert asked.news() == [waiting[2]], "now they share it evenly"
    assert refusal(asked, 2, MODEST).reason is Reason.OVER_SHARE
    assert modest.refused is None


def test_what_gave_way_is_not_charged() -> None:
    """A tenant whose requests were refused has no less of what comes."""
    asked = admission(1, queue_requests=8)
    first = asked.ask(0, GREEDY, ONE)
    for _ in range(8):
        asked.ask(0, GREEDY, ONE)
    for _ in range(4):
        asked.ask(0, MODEST, ONE)
    for _ in range(100):
        refusal(asked, 0, GREEDY)
    assert sum(it.refused is not None for it in asked.news()) == 4
    order = []
    for now in range(1, 9):
        asked.end(first, now, drawn=1)
        (first,) = began(asked)
        order.append(first.tenant.id)
    assert Counter(order[:4]) == {"greedy": 2, "modest": 2}


def test_a_deadline_that_the_queue_would_pass_is_refused_at_once() -> None:
    """With the time after which it may be tried again; a longer one is let in."""
    asked = experienced(2, 10.0, surety=1.0)
    for _ in range(6):
        asked.ask(0, LOCAL, ONE)
    # Four wait for two places, both of which are free again every ten seconds: two of them begin
    # after 10 s and two after 20, so that the next one would after 30.
    refused = refusal(asked, 0, LOCAL, deadline=22.0)
    assert refused.reason is Reason.DEADLINE
    assert refused.retry_seconds == pytest.approx(30 - (22 - 10))
    assert asked.ask(0, LOCAL, ONE, 41.0).began is None
    assert asked.waiting == 5


def test_no_deadline_waits_only_so_long() -> None:
    """What would wait for longer is refused as too much."""
    asked = experienced(1, 10.0, wait_seconds=25.0, surety=1.0)
    for _ in range(3):
        asked.ask(0, LOCAL, ONE)
    refused = refusal(asked, 0, LOCAL)
    assert refused.reason is Reason.OVERLOADED
    assert not refused.own


@pytest.mark.parametrize(("surety", "taken"), [(1.0, 4), (0.75, 3), (0.5, 2)])
def test_what_would_just_be_in_time_is_refused_at_once(surety: float, taken: int) -> None:
    """A wait is expected to be about so long only: who is let in should hardly wait in vain."""
    asked = experienced(1, 10.0, wait_seconds=30.0, surety=surety)
    for _ in range(taken):
        asked.ask(0, LOCAL, ONE)
    assert refusal(asked, 0, LOCAL).reason is Reason.OVERLOADED


def test_a_tenants_own_queue_is_its_own_fault() -> None:
    """Where only what it has waiting itself is in its way, it is told so; others get in."""
    asked = experienced(1, 10.0, wait_seconds=45.0)
    for _ in range(4):
        asked.ask(0, GREEDY, ONE)
    asked.ask(0, MODEST, ONE)
    assert refusal(asked, 0, GREEDY).reason is Reason.OVER_SHARE
    asked.ask(0, MODEST, ONE)


def test_nobody_is_refused_for_what_nobody_knows() -> None:
    """Before anything has ended, all wait whose deadline leaves time to."""
    asked = admission(1)
    for _ in range(10):
        asked.ask(0, LOCAL, ONE, 1.0)
    assert asked.waiting == 9


def test_what_has_waited_too_long_is_refused() -> None:
    """When its time has come, or, at the latest, when it would begin."""
    asked = admission(1, deadline_share=0.5)
    first = asked.ask(0, LOCAL, ONE)
    one, other = (asked.ask(0, LOCAL, ONE, 10.0) for _ in range(2))
    assert one.until == 5.0
    asked.expire(one, 5.0)
    asked.end(first, 6.0, drawn=1)
    for place in (one, other):
        assert place.refused is not None
        assert place.refused.reason is Reason.DEADLINE
    assert asked.news() == [one, other]
    assert (asked.waiting, asked.running) == (0, 0)


def test_one_pass_must_fit_into_what_is_left() -> None:
    """A search without time for a single candidate isn't begun."""
    asked = admission(1)
    asked.ask(0, LOCAL, ONE)
    assert asked.ask(0, LOCAL, ONE, 2.0, one_pass=1.5).until == 0.5


def test_who_leaves_the_queue_is_gone() -> None:
    """Its place goes to the next, and leaving twice changes nothing."""
    asked = admission(1)
    first, second, third = (asked.ask(0, LOCAL, ONE) for _ in range(3))
    for _ in range(2):
        asked.leave(second, 1)
    asked.end(first, 2, drawn=1)
    assert began(asked) == [third]
    asked.end(first, 3, drawn=1)
    asked.leave(third, 3)
    assert (asked.waiting, asked.running) == (0, 0)


def test_a_closed_one_takes_nothing() -> None:
    """What waits is refused, what runs goes on."""
    asked = admission(1)
    first, second = (asked.ask(0, LOCAL, ONE) for _ in range(2))
    asked.close()
    assert asked.news() == [second]
    assert second.refused is not None
    assert second.refused.reason is Reason.DRAINING
    assert refusal(asked, 1, LOCAL).reason is Reason.DRAINING
    with pytest.raises(Refused):
        asked.check(LOCAL, 1)
    asked.end(first, 2, drawn=1)
    assert asked.running == 0


def test_deadlines_that_pass_without_an_answer_mean_less_at_once() -> None:
    """One step down for those that began together; and up again as others are answered."""
    asked = admission(100, least_fill=0.5)
    for now in range(0, 200, 20):
        together = [asked.ask(now, LOCAL, ONE, 10) for _ in range(5)]
        for place in together:
            asked.end(place, now + 10, drawn=0, in_vain=True)
        if now == 0:
            assert asked.limit == pytest.approx(90)
    assert asked.limit == 50
    for now in range(200, 2000):
        asked.end(asked.ask(now, LOCAL, ONE, 10), now + 0.5, drawn=1)
    assert asked.limit == 100


def test_means_follow_what_is_seen() -> None:
    """The first counts in full, later ones as one of the last so many."""
    expected = Expectations(memory=4)
    assert expected.seconds(ONE) is None
    assert expected.width(Kind("majority", 16)) == 16
    for seconds in (1.0, 3.0):
        expected.saw(ONE, 1.0, drawn=1, seconds=seconds)
    assert expected.turnover == 2.0
    assert expected.seconds(ONE) == 2.0 + 2 * 1.0
    for _ in range(100):
        expected.saw(ONE, 1.0, drawn=1, seconds=8.0)
    assert expected.seconds(ONE) == pytest.approx(8.0, rel=1e-3)
    assert expected.seconds(Kind("single", 2)) is None


def test_a_wait_is_told_by_those_that_ran_when_all_places_were_taken() -> None:
    """The emptier an engine, the faster it is: what ran alone says nothing of a wait."""
    asked = admission(4, wait_seconds=18.0, surety=1.0)
    together = [asked.ask(0, LOCAL, ONE) for _ in range(4)]
    for place in together:
        asked.end(place, 10.0, drawn=1)
    for now in range(20, 60):
        asked.end(asked.ask(now, LOCAL, ONE), now + 1.0, drawn=1)
    for _ in range(4):
        asked.ask(200, LOCAL, ONE)
    for _ in range(4):
        assert asked.ask(200, LOCAL, ONE).began is None
    # Places are expected to be taken for 10 s, not for 1 s: after four begin, and after eight.
    assert refusal(asked, 200, LOCAL).reason is Reason.OVERLOADED


def test_one_that_took_long_is_soon_forgotten() -> None:
    """It took all places, alone; but those that come now are many, and short."""
    asked = admission(64, wait_seconds=4.0)
    asked.end(asked.ask(0, LOCAL, Kind("majority", 256)), 60.0, drawn=256)
    now, refused = 60.0, list[float]()
    for _ in range(10):
        now += 10.0
        places = []
        for _ in range(100):
            try:
                places.append(asked.ask(now, LOCAL, ONE))
            except Refused:
                refused.append(now)
        for turn in (1.0, 2.0):
            for place in [it for it in places if it.began == now + turn - 1.0]:
                asked.end(place, now + turn, drawn=1)
    assert not [it for it in refused if it > 90.0], "three of them were enough"
    assert asked.expected.turnover is not None
    assert asked.expected.turnover < 1.5


def test_a_wait_is_told_by_when_those_that_run_began() -> None:
    """Where all began at once, none is free until they end; and then all are."""
    asked = experienced(4, 10.0, wait_seconds=18.0, surety=1.0)
    for now in (0, 0, 4, 6):
        asked.ask(now, LOCAL, ONE)
    # The first of them is free after four seconds, and half of the deadline has to be left then.
    assert refusal(asked, 6, LOCAL, 7.9).reason is Reason.DEADLINE
    assert asked.ask(6, LOCAL, ONE, 8.1).began is None


def test_who_has_its_share_leaves_room_for_the_others() -> None:
    """One more of theirs begins at once, however often others ask; not when they ask no more."""
    asked = admission(8, queue_requests=100, wait_seconds=1000)
    asked.end(asked.ask(0, MODEST, ONE), 1, drawn=1)
    places = [asked.ask(2, GREEDY, ONE) for _ in range(20)]
    assert asked.running == 7
    modest = [asked.ask(3, MODEST, ONE) for _ in range(2)]
    assert modest[0].began == 3
    assert modest[1].began is None, "there is no room at all"
    asked.end(places[0], 4, drawn=1)
    assert [it.began for it in modest] == [3, 4], "it has less than its share, and goes first"
    asked.end(places[1], 5, drawn=1)
    assert asked.running == 7, "one is left free again"
    for place in modest:
        asked.end(place, 6, drawn=1)
    assert asked.running == 7
    asked.end(places[2], 13, drawn=1)
    assert asked.running == 8


def test_room_is_left_by_weight() -> None:
    """Who has less than its share takes what there is; a quarter at most is left by others."""
    heavy = Tenant("heavy", weight=7)
    asked = admission(8, queue_requests=100, wait_seconds=1000)
    asked.end(asked.ask(0, MODEST, Kind("majority", 8)), 1, drawn=8)
    for _ in range(20):
        asked.ask(2, heavy, ONE)
    assert asked.running == 7, "its share"
    asked = admission(8, queue_requests=100, wait_seconds=1000)
    asked.end(asked.ask(0, heavy, Kind("majority", 8)), 1, drawn=8)
    for _ in range(20):
        asked.ask(2, MODEST, ONE)
    assert asked.running == 6


def test_no_room_is_left_for_those_of_a_lower_class() -> None:
    """Whoever goes first anyway takes all that there is; the others leave room for it."""
    batch, urgent = Tenant("batch", priority=1), Tenant("urgent", priority=-1)
    for first, then, taken in ((batch, urgent, 8), (urgent, batch, 7)):
        asked = admission(8, queue_requests=100, wait_seconds=1000)
        asked.end(asked.ask(0, first, ONE), 1, drawn=1)
        for _ in range(20):
            asked.ask(2, then, ONE)
        assert asked.running == taken


@pytest.mark.parametrize("reserve", [0.0, 10.0])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_ends_once(seed: int, reserve: float) -> None:
    """Every request is begun or refused once, nothing is left over, and there is never too much."""
    chance = random.Random(seed)
    asked = admission(10, queue_requests=20, reserve_seconds=reserve)
    tenants = [Tenant(str(it), weight=1 + it, priority=it % 2) for it in range(4)]
    places: list[Place] = []
    told: Counter[Place] = Counter()
    now = 0.0
    for _ in range(2000):
        now += chance.expovariate(10)
        open_places = [it for it in places if not it.over]
        act = chance.random()
        try:
            if act < 0.5 or not open_places:
                kind = Kind("majority", chance.choice([1, 2, 16]))
                deadline = chance.choice([None, 1.0, 30.0])
                place = asked.ask(now, chance.choice(tenants), kind, deadline)
                places.append(place)
            elif act < 0.9:
                place = chance.choice(open_places)
                asked.end(place, now, drawn=chance.randrange(17), in_vain=act > 0.85)
            elif act < 0.95:
                asked.expire(chance.choice(open_places), now)
            else:
                asked.leave(chance.choice(open_places), now)
        except Refused:
            pass
        told.update(asked.news())
        running = [it for it in places if it.began is not None and not it.over]
        waiting = [it for it in places if it.began is None and not it.over]
        assert asked.running == pytest.approx(sum(it.width for it in running))
        assert asked.waiting == len(waiting) <= 20
        if len(running) > 1:
            assert asked.running < 10.001 + max(it.width for it in running)
        full = asked.limit * (0.75 if reserve else 1.0)
        assert not waiting or asked.running > full - 0.001, "there is room"
    asked.close()
    told.update(asked.news())
    assert all(it.over or it.began is not None for it in places)
    assert set(told.values()) == {1}


def served(rules: Rules, load: float, seconds: float = 60.0) -> tuple[float, Figures]:
    """The goodput under so many times what the engines can do, and the figures behind it."""
    cluster = Cluster(rules)
    cluster.run([Stream(LOCAL, load * 33.0)], seconds)
    return cluster.goodput(seconds), cluster.figures[LOCAL.id]


def test_three_times_too_much_costs_little() -> None:
    """Goodput under three times the load stays near its peak; without admission it is lost."""
    rules = Rules(capacity=SEQUENCES)
    peak = max(served(rules, load)[0] for load in (0.85, 1.0, 1.2))
    goodput, figures = served(rules, 3.0)
    assert goodput >= 0.9 * peak
    assert figures.refused > figures.asked / 2
    assert figures.late <= 0.05 * len(figures.latencies)
    assert served(Rules(), 3.0)[0] < 0.5 * peak


def test_a_greedy_tenant_slows_no_other() -> None:
    """Ten times its share makes the modest tenant's answers hardly later than its share did.

    Told by eight minutes of each, as how they come in one of them is worth some percent.
    """
    slowed = []
    for seed in range(8):
        medians = []
        for greed in (1, 10):
            cluster = Cluster(Rules(capacity=SEQUENCES), seed)
            cluster.run([Stream(MODEST, 5.0), Stream(GREEDY, 28.0 * greed)], 60)
            figures = cluster.figures["modest"]
            assert len(figures.latencies) >= 0.97 * figures.asked
            medians.append(figures.median)
        slowed.append(medians[1] / medians[0])
    assert mean(slowed) <= 1.1


def test_a_refusal_holds_for_half_of_the_wait() -> None:
    """So that work still waits when the next one is looked at; not where nothing is known."""
    asked = experienced(1, 4.0)
    for _ in range(3):
        asked.ask(0, LOCAL, ONE)
    refused = refusal(asked, 0, LOCAL, deadline=6.0)
    assert refused.reason is Reason.DEADLINE
    assert refused.retry_seconds < 12.0
    assert refused.holds_seconds == pytest.approx(6.0)  # three turns of 4 s are ahead of it
    unknown = admission(1, queue_requests=1)
    for _ in range(2):
        unknown.ask(0, LOCAL, ONE)
    assert refusal(unknown, 0, LOCAL).holds_seconds == 0.0
    asked.close()
    assert refusal(asked, 1, LOCAL).holds_seconds == 0.0


def test_a_refusal_for_a_full_queue_holds_for_half_of_it() -> None:
    """Whatever a request asks for, the queue is as long."""
    asked = experienced(1, 4.0, queue_requests=2)
    for _ in range(3):
        asked.ask(0, LOCAL, ONE)
    refused = refusal(asked, 0, LOCAL)
    assert refused.reason is Reason.QUEUE_FULL
    assert refused.holds_seconds == pytest.approx(6.0)
