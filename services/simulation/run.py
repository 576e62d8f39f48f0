"""Runs the service's planner and driver on simulated workers, and says what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from time import perf_counter, process_time

from planner.calibration import Calibration
from planner.domain import Budget, Message, Query, Sampling
from planner.effort import PRESETS, Effort, Options, Preset, settle
from planner.errors import LongthinkError
from services.admission import Admission, Rules
from services.calibration import Calibrations
from services.driver import Manner
from services.gate import Gate
from services.reasoning import Reasoner
from services.run import Admitted, Run
from services.second_tries import HEDGE_SHARE, SecondTries
from services.simulation import clock
from services.simulation.cores import Cores
from services.simulation.figures import Asked, Figures, mean, quantile
from services.simulation.ledger import Books, MemoryLedger
from services.simulation.model import Model, Question
from services.simulation.orchestrator import Orchestrator
from services.simulation.pool import SimulatedPool, Workers
from services.simulation.stores import NoTraces, Outlooks
from services.simulation.watch import Watch
from services.simulation.writing import Writer, asking
from services.tenants import LOCAL

DELIMITER = "\n"
LATE_SECONDS = 0.25
"""What a reply may come after its deadline and still be in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the service, for so many `seconds`, of which the first `warm` don't count.

    Either requests come by themselves, `rate` a second on average, or each of `users` asks its next
    one when the last one was answered. A request asks one of `questions` with one of `efforts`,
    both drawn. With a `deadline`, that is its budget, and what comes later isn't in time.
    """

    questions: tuple[Question, ...]
    efforts: tuple[str, ...]
    seconds: float
    warm: float = 0.0
    rate: float | None = None
    users: int = 0
    deadline: float | None = None
    max_tokens: int = 1024
    repeated: bool = False
    """Whether engines know the prompt of a question that was asked before."""
    seed: int = 0

    def at(self, *, rate: float, seconds: float) -> Load:
        """The same at another rate, for other seconds, of which a quarter is to warm up."""
        return replace(self, rate=rate, seconds=seconds, warm=seconds / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What there is: generators, reward models, orchestrators with a core each.

    `cores` are those of a machine on which all of it runs; None where each has its own.
    """

    workers: int
    rewards: int
    orchestrators: int = 1
    cores: float | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """All that happened."""

    asked: tuple[Asked, ...]
    workers: Workers
    orchestrators: tuple[Orchestrator, ...]
    until: float
    own_seconds: float
    real_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What of the profile decides how requests are thought about."""

    presets: Mapping[str, Preset] = field(default_factory=lambda: PRESETS)
    calibration: Calibration | None = None
    rules: Callable[[int], Rules] | None = None
    """Of admission, for engines that work on so many candidates at once; None lets all in."""
    hedge_share: float = HEDGE_SHARE


def simulate(model: Model, site: Site, load: Load, ways: Ways | None = None) -> Figures:
    """What becomes of such a load on such a site. The same arguments give the same."""
    drawn = random.getstate()
    random.seed(load.seed)  # for those who draw without a generator of their own
    try:
        return figures(clock.run(Service(model, site, load, ways).run()), site, load)
    finally:
        random.setstate(drawn)


class Service:
    """One simulation."""

    def __init__(
        self,
        model: Model,
        site: Site,
        load: Load,
        ways: Ways | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`watch` counts what simulating takes. Several on one clock have to share it, and what
        each says of its own time is then that of all.
        """
        self._ways = ways or Ways()
        self._model = model
        self._site = site
        self._load = load
        self._dice = random.Random(load.seed)
        self._asked: list[Asked] = []
        self._watch = watch or Watch()
        self._serials = count()

    async def run(self) -> Course:
        """See it through, from the first request to the last reply."""
        with self._watch.simulating():
            workers = self._set_up()
        with self._watch.collecting():
            real, began, beside = perf_counter(), process_time(), self._watch.seconds
            await self._go()
            return Course(
                tuple(self._asked),
                workers,
                self._orchestrators,
                asyncio.get_running_loop().time(),
                process_time() - began - (self._watch.seconds - beside),
                perf_counter() - real,
            )

    def _set_up(self) -> Workers:
        """The workers, and the orchestrators that share them."""
        model, site = self._model, self._site
        cores = None if site.cores is None else Cores(site.cores)
        workers = Workers(
            model,
            Writer(self._load.questions, DELIMITER),
            generators=site.workers,
            rewards=site.rewards,
            cores=cores,
            watch=self._watch,
        )
        wanted = model.orchestrator.cores
        self._orchestrators = tuple(Orchestrator(cores, wanted) for _ in range(site.orchestrators))
        books: Books = {}
        self._ledger = MemoryLedger(books, lease_seconds=30, seconds=model.ledger_seconds)
        self._reasoners = [self._reasoner(workers, one) for one in self._orchestrators]
        self._gates = [self._gate(one) for one in self._reasoners]
        return workers

    def _reasoner(self, workers: Workers, orchestrator: Orchestrator) -> Reasoner:
        return Reasoner(
            SimulatedPool(workers, orchestrator, self._dice),
            self._ledger,
            NoTraces(),
            Manner(step_delimiter=DELIMITER, lease_seconds=30),
            presets=self._ways.presets,
            outlooks=Outlooks(),
            calibrations=Calibrations("simulated", None, self._ways.calibration),
            second_tries=SecondTries(self._ways.hedge_share),
        )

    def _gate(self, reasoner: Reasoner) -> Gate:
        """The gate of one orchestrator, which lets in its part of what all engines can take."""
        whole = self._site.workers * self._model.generator.max_num_seqs
        own = -(-whole // self._site.orchestrators)
        rules = Rules() if self._ways.rules is None else self._ways.rules(own)
        return Gate(
            Admission(rules), one_pass=reasoner.one_pass, random=random.Random(self._load.seed)
        )

    async def _go(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._load.rate is None:
                for _ in range(self._load.users):
                    group.create_task(self._use())
            else:
                await self._arrive(group, self._load.rate)

    async def _arrive(self, group: asyncio.TaskGroup, rate: float) -> None:
        """Requests come whether those before them were answered or not."""
        loop = asyncio.get_running_loop()
        at = self._dice.expovariate(rate)
        while at < self._load.seconds:
            await asyncio.sleep(at - loop.time())
            group.create_task(self._ask())
            at += self._dice.expovariate(rate)

    async def _use(self) -> None:
        """One user, who asks until the time is over."""
        loop = asyncio.get_running_loop()
        while loop.time() < self._load.seconds:
            await self._ask()

    async def _ask(self) -> None:
        serial = next(self._serials)
        load, loop = self._load, asyncio.get_running_loop()
        place = self._dice.randrange(len(load.questions))
        effort = self._dice.choice(load.efforts)
        own = serial % len(self._reasoners)
        began = loop.time()
        query = Query(
            (Message("user", asking(place, 0 if load.repeated else serial)),),
            Sampling(max_tokens=load.max_tokens),
            self._dice.randrange(1 << 40),
        )
        options = Options(effort=effort, budget=Budget(deadline_seconds=load.deadline))
        name = f"r{serial}"

        async def begin(admitted: Admitted) -> Run:
            # By virtual time, not the wall clock's.
            priority = round((loop.time() - admitted.waited) * 1000)
            return await self._reasoners[own].start(
                query, options, trace_id=name, admitted=replace(admitted, priority=priority)
            )

        try:
            await asyncio.sleep(self._model.orchestrator.way_seconds)
            await self._orchestrators[own].spend(self._model.orchestrator.request_seconds)
            run = await self._gates[own].through(LOCAL, self._effort(options), begin)
            reply = await run.reply()
        except LongthinkError:
            self._asked.append(Asked(began, loop.time(), refused=True))
            return
        outcome, spent = reply.outcome, reply.spent
        self._asked.append(
            Asked(
                began,
                loop.time(),
                answered=outcome.answer is not None,
                right=outcome.answer == load.questions[place].answer,
                candidates=spent.candidates,
                completion_tokens=spent.completion_tokens,
                reward_tokens=spent.reward_tokens,
            )
        )
        await run.over.wait()
        self._ledger.forget(name)

    def _effort(self, options: Options) -> Effort:
        return settle(options, presets=self._ways.presets)


def figures(course: Course, site: Site, load: Load) -> Figures:
    """What happened, in figures: of the requests that came after the warm-up."""
    window = load.seconds - load.warm
    counted = [one for one in course.asked if load.warm <= one.began < load.seconds]
    replied = [one for one in counted if not one.refused]
    due = float("inf") if load.deadline is None else load.deadline + LATE_SECONDS
    timely = [one for one in replied if one.answered and one.seconds <= due]
    seconds = [one.seconds for one in replied]
    within = sum(load.warm <= one.ended < load.seconds and not one.refused for one in course.asked)
    candidates = sum(one.candidates for one in course.asked)
    return Figures(
        workers=site.workers,
        rewards=site.rewards,
        orchestrators=site.orchestrators,
        offered=len(counted) / window,
        throughput=within / window,
        goodput=len(timely) / window,
        in_time=len(timely) / max(1, len(counted)),
        right=sum(one.right for one in timely) / max(1, len(counted)),
        p50=quantile(seconds, 0.5),
        p99=quantile(seconds, 0.99),
        refused=len(counted) - len(replied),
        requests=len(counted),
        candidates=mean([one.candidates for one in replied]),
        completion_tokens=mean([one.completion_tokens for one in replied]),
        reward_tokens=mean([one.reward_tokens for one in replied]),
        busy=_busy([one.busy_seconds for one in course.workers.generators.values()], course),
        rewards_busy=_busy([one.busy_seconds for one in course.workers.rewards.values()], course),
        orchestrators_busy=_busy([one.busy_seconds for one in course.orchestrators], course),
        own_ms=1000 * course.own_seconds / max(1, candidates),
        real_seconds=course.real_seconds,
    )


def _busy(seconds: Sequence[float], course: Course) -> float:
    return mean(seconds) / course.until if course.until else 0.0
