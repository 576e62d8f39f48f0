"""Which replica a call goes to.

Owns the choice alone; queues, retries and health are Ray Serve's. A call that names a replica
goes to that one as long as it lives, and one that names a home goes there if that one answers; any
other goes to the replica that has the least of this caller's work, counted in requests of a batch,
not in batches. Those that a call names as to be avoided come last, whatever they have to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

REPLICA = "replica"
"""The keyword argument by which a call names the replica that it must go to."""

HOME = "home"
"""The keyword argument by which a call names the replica that it should go to if that can be."""

AVOID = "avoid"
"""The keyword argument by which a call names the replicas that should have it only if no other can.
"""


def name_of(replica: ReplicaID) -> str:
    """The name that a replica goes by: it says of which kind it is."""
    return f"{replica.deployment_id.name}-{replica.unique_id}"


@dataclass(slots=True)
class _Charge:
    """The work of one call, charged to the replica it was last chosen for."""

    replica: ReplicaID
    requests: int
    pending: PendingRequest


class EngineRouter(RequestRouter):
    """Sends a batch where the fewest requests of earlier ones are unfinished.

    A batch is charged when its replica is chosen, so that two chosen at the same moment don't land
    on one replica, and discharged when it has ended.
    """

    # Serve's tenth of a second is short where all cores are busy computing: a healthy replica that
    # answers late would be passed over, and asked again, by every call at once.
    queue_len_response_deadline_s = 1.0
    max_queue_len_response_deadline_s = 5.0

    def initialize_state(self, **_: object) -> None:
        """Called by Serve once, before the first choice."""
        self._charges: dict[str, _Charge] = {}
        self._silent: set[ReplicaID] = set()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas in order of preference, each a rank of its own."""
        if pending_request is None:
            return [candidate_replicas]
        # Without this Serve asks again at once, for ever, while every replica is full.
        pending_request.routing_context.should_backoff = True
        self._ask_none_for_its_queue(candidate_replicas)
        named = pending_request.kwargs.get(REPLICA)
        for replica in candidate_replicas:
            if name_of(replica.replica_id) == named:
                return [[replica]]
        home = pending_request.kwargs.get(HOME)
        ranked = self._by_load(candidate_replicas)
        avoided = pending_request.kwargs.get(AVOID, ())

        def last(replica: RunningReplica) -> tuple[bool, bool]:
            name = name_of(replica.replica_id)
            return name in avoided, name != home

        ranked.sort(key=last)
        if ranked:
            self._charge(ranked[0].replica_id, pending_request)
        return [[replica] for replica in ranked]

    def _ask_none_for_its_queue(self, replicas: list[RunningReplica]) -> None:
        """Take each queue for short where it isn't known.

        Serve would ask for its length first, and again and again, for seconds, where a replica is
        too busy to say so at once. But queues have no bound here, and a replica says by itself
        whether it takes a call. One that could not be reached has to be heard of again first.
        """
        self._silent &= {replica.replica_id for replica in replicas}
        for replica in replicas:
            if self.replica_queue_len_cache.get(replica.replica_id) is not None:
                self._silent.discard(replica.replica_id)
            elif replica.replica_id not in self._silent:
                self.replica_queue_len_cache.update(replica.replica_id, 0)

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        """Called by Serve when a replica that may still live could not be reached."""
        super().on_replica_actor_unavailable(replica_id)
        self._silent.add(replica_id)

    def on_request_completed(
        self,
        replica_id: ReplicaID,
        internal_request_id: str,
    ) -> None:
        """Called by Serve when a call has ended, however it did."""
        self._charges.pop(internal_request_id, None)

    def _by_load(self, replicas: list[RunningReplica]) -> list[RunningReplica]:
        self._charges = {
            key: charge for key, charge in self._charges.items() if not _abandoned(charge)
        }
        load = dict.fromkeys((replica.replica_id for replica in replicas), 0)
        for charge in self._charges.values():
            if charge.replica in load:
                load[charge.replica] += charge.requests
        return sorted(replicas, key=lambda replica: load[replica.replica_id])

    def _charge(self, replica: ReplicaID, pending: PendingRequest) -> None:
        batch = pending.args[0] if pending.args else ()
        self._charges[pending.metadata.internal_request_id] = _Charge(
            replica, len(batch) if isinstance(batch, tuple) else 1, pending
        )


def _abandoned(charge: _Charge) -> bool:
    """Whether the caller gave up while its call waited for a replica: it'll never be completed."""
    return charge.pending.future.cancelled()
