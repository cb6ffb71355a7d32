"""What became of runs that a replica offers: stored, pruned, or unknown (O6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from synchrotron.core.ids import ActionId, ClientId, number_of, split_action_id
from synchrotron.core.messages import Fate, Offer
from synchrotron.errors import ProtocolError
from synchrotron.server.parameters import multirange

N_MAX = 2**63 - 2


class Known(NamedTuple):
    """What is stored under an action id."""

    owner: str | None
    """The user whose client id it is."""
    seed: str | None
    renamed: frozenset[str]
    """The seeds of runs that had this id in another copy of their file."""
    accepted: bool

    @property
    def pruned(self) -> bool:
        return self.accepted and self.seed is None

    def has_run(self, seed: str) -> bool:
        return seed == self.seed or seed in self.renamed


_UNKNOWN = Known(None, None, frozenset(), False)


class Fates:
    """Answers for the ids that one request names."""

    def __init__(self, user: str, client: ClientId, rows: Iterable[Sequence[Any]]) -> None:
        """`rows` are what is known of the ids, as `synchrotron.look_up` tells it."""
        self._user = user
        self._client = client
        self._known = {
            id: Known(owner, seed, frozenset(old), done) for id, owner, seed, old, done in rows
        }

    @property
    def any(self) -> bool:
        """Whether anything is known of any of the ids."""
        return bool(self._known)

    def known(self, id: ActionId) -> Known:
        return self._known.get(id, _UNKNOWN)

    def of(self, offer: Offer) -> Fate:
        """The fate of a run: of its id, or of one that it had in another copy of the file.

        Of another user's ids nothing is said (H9).
        """
        if not self._is_own(offer.id):
            return Fate(offer.id, None)
        ids = [offer.id, *filter(self._is_own, offer.formerly)]
        known = [self.known(id) for id in ids]
        if any(k.has_run(offer.seed) for k in known):
            return Fate(offer.id, offer.seed)
        if seed := known[0].seed:
            return Fate(offer.id, seed)
        return Fate(offer.id, None, any(k.pruned for k in known))

    def in_snapshot(self, offers: Iterable[Offer]) -> tuple[list[ActionId], list[ActionId]]:
        """What the head of a snapshot tells of some offers, as `told_in_snapshot` gives it."""
        return told_in_snapshot(
            self._client,
            offers,
            has_run=lambda offer: self.of(offer).seed == offer.seed,
            was_pruned=lambda id: self._is_own(id) and self.known(id).pruned,
        )

    def ran_elsewhere(self, offer: Offer) -> bool:
        """Whether another copy of the file brought this very run before."""
        if not self._known:
            return False
        fate, known = self.of(offer), self.known(offer.id)
        if fate.seed == offer.seed:
            return known.seed != offer.seed
        return fate.pruned and not known.pruned

    def conflicts(self, offers: Iterable[Offer]) -> bool:
        """Whether an id of this client holds another run than the offered one."""
        if not self._known:
            return False
        own = [offer for offer in offers if split_action_id(offer.id)[0] == self._client]
        fates = ((offer, self.of(offer)) for offer in own)
        return any(fate.seed is not None and fate.seed != offer.seed for offer, fate in fates)

    def _is_own(self, id: ActionId) -> bool:
        return split_action_id(id)[0] == self._client or self.known(id).owner == self._user


def ids_of(client: ClientId, offers: Sequence[Offer]) -> tuple[str, list[ActionId]]:
    """The ids of some offers: a client's own as ranges of numbers, and others.

    Raises `ProtocolError` for a number that no counter reaches.
    """
    own: list[int] = []
    others: list[ActionId] = []
    for offer in offers:
        for id in (offer.id, *offer.formerly):
            n = number_of(id)
            if n > N_MAX:
                raise ProtocolError("the number of an action id does not fit in 64 bits")
            if id[:24] == client:
                own.append(n)
            else:
                others.append(id)
    return multirange(own), list(dict.fromkeys(others))


def told_in_snapshot(
    client: ClientId,
    offers: Iterable[Offer],
    *,
    has_run: Callable[[Offer], bool],
    was_pruned: Callable[[ActionId], bool],
) -> tuple[list[ActionId], list[ActionId]]:
    """The offered runs that a server has, and pruned ids of which nobody can tell (O6).

    What was pruned under an id of the present client can only be the offered run. What was
    pruned under one that the file gave up may be that of a copy of the file.
    """
    accepted: list[ActionId] = []
    pruned: dict[ActionId, None] = {}
    for offer in offers:
        if has_run(offer):
            accepted.append(offer.id)
            continue
        for id in filter(was_pruned, (offer.id, *offer.formerly)):
            if split_action_id(id)[0] != client:
                pruned[id] = None
            elif id == offer.id:
                accepted.append(id)
    return accepted, list(pruned)
