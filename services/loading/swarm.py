"""Makes a load, on locust: users that ask one after another, or arrivals at given times.

It owns the process it runs in, since locust changes how every socket in it waits. The parent hands
in a plan as one JSON document on standard input, and reads from standard output a line of JSON for
each request that has ended, and for each second a line that says how far it is. SIGINT ends it
early: what is on the way then counts as unfinished. What always holds: every request that was sent
comes to exactly one line.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from locust import User, constant, task
from locust.env import Environment
from locust.exception import StopUser

from services.loading.arrivals import arrivals
from services.loading.exchange import Address, Exchange
from services.loading.jobs import Jobs
from services.loading.plan import Plan
from services.loading.sent import End

_TICK_SECONDS = 1.0
_IN_VAIN = (End.REFUSED, End.FAILED)
_PAUSE_SECONDS = (0.5, 1.5)
"""Before a user asks again who got no answer: nobody hammers at a door that is shut."""
_LEAST_PATIENCE = 600.0
"""Seconds that a client without a deadline waits."""


class Swarm:
    """The load while it runs."""

    def __init__(self, plan: Plan, url: str, model: str) -> None:
        self.plan = plan
        self._address = Address.of(url)
        self._model = model
        self._jobs = Jobs(plan)
        self._flying = Pool()
        self._places = 0
        self._over = Event()
        self._origin = time.monotonic()

    def run(self) -> None:
        """Ask for as long as the plan says, then wait for what is on the way."""
        self._origin = time.monotonic()
        ticking = gevent.spawn(self._tick)
        runner = Environment(user_classes=[_user(self)]).create_local_runner()
        users = self.plan.users or 1
        runner.start(users, spawn_rate=users)
        self._over.wait(timeout=self.plan.seconds)
        self._over.set()
        self._flying.join(timeout=self.plan.grace)
        self._flying.kill()
        runner.quit()
        ticking.kill()

    def interrupt(self) -> None:
        """End it now."""
        self._over.set()
        self._flying.kill(block=False)

    def ask_next(self) -> None:
        """As one user does: ask, wait for the answer, and for a while where there was none."""
        if self._over.is_set():
            raise StopUser
        if self._send(self._now()).get() in _IN_VAIN:
            self._over.wait(timeout=random.uniform(*_PAUSE_SECONDS))

    def ask_on_time(self) -> None:
        """As all the world does: ask when it is time to, whatever has become of what was asked."""
        plan = self.plan
        for due in arrivals(plan.rate or 0.0, plan.seconds, plan.bursts, plan.seed):
            if self._over.wait(timeout=max(0.0, due - self._now())):
                break
            self._send(due)
        raise StopUser

    def _send(self, due: float) -> gevent.Greenlet[..., End]:
        return self._flying.spawn(self._exchange, due)

    def _exchange(self, due: float) -> End:
        job = self._jobs.job(self._places)
        self._places += 1
        body = self._jobs.body(job, self._model)
        patience = max(_LEAST_PATIENCE, 2 * (self.plan.deadline or 0.0))
        exchange = Exchange(self._address, job, body, due, self._now, patience)
        try:
            sent = exchange.run()
        except gevent.GreenletExit:
            sent = exchange.ended(End.UNFINISHED)
        _tell(sent=sent.in_json())
        return sent.end

    def _tick(self) -> None:
        while True:
            _tell(seconds=self._now(), places=self._places, flying=len(self._flying))
            gevent.sleep(_TICK_SECONDS)

    def _now(self) -> float:
        return time.monotonic() - self._origin


def _user(swarm: Swarm) -> type[User]:
    """What locust runs so many of: a user who asks again, or the one who sends every arrival."""
    ask = swarm.ask_next if swarm.plan.rate is None else swarm.ask_on_time

    class Visitor(User):
        wait_time = constant(0)

        @task
        def ask(self) -> None:
            ask()

    return Visitor


def _tell(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the plan and run it."""
    order = json.load(sys.stdin)
    swarm = Swarm(Plan.from_json(order["plan"]), order["url"], order["model"])
    gevent.signal_handler(signal.SIGINT, swarm.interrupt)
    swarm.run()
