"""Large uploads, which come in parts (H1).

Parts are kept until their upload is whole, and only the whole is judged: keeping one
advances nothing, and bringing it again changes nothing. A client has one upload in parts
at a time; the first part of another one takes its place.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from synchrotron.core.messages import SyncRequest
from synchrotron.errors import ProtocolError


class Parts(NamedTuple):
    """What there is of an upload: its parts by their numbers, from 1."""

    requests: dict[int, SyncRequest]

    @property
    def missing(self) -> list[int]:
        some = next(iter(self.requests.values()))
        return [part for part in range(1, some.parts + 1) if part not in self.requests]

    def whole(self) -> SyncRequest:
        """The upload as one request, once nothing is missing."""
        requests = [self.requests[part] for part in sorted(self.requests)]
        return msgspec.structs.replace(
            requests[0],
            actions=[action for request in requests for action in request.actions],
            corrections=[correction for request in requests for correction in request.corrections],
            part=1,
            parts=1,
        )


def with_part(kept: Parts | None, request: SyncRequest) -> Parts:
    """What there is once this part came. Raises `ProtocolError` where it fits no other part."""
    if kept is None:
        return Parts({request.part: request})
    some = next(iter(kept.requests.values()))
    if some.exchange.token != request.exchange.token:
        return Parts({request.part: request})
    if frame_of(some) != frame_of(request):
        raise ProtocolError(
            f"part {request.part} of an upload differs from part {some.part} in more than its "
            "actions and corrections"
        )
    return Parts({request.part: request, **kept.requests})


def frame_of(request: SyncRequest) -> SyncRequest:
    """What the parts of an upload have in common."""
    return msgspec.structs.replace(request, actions=[], corrections=[], part=1)
