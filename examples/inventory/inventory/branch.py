"""The service of this branch, from the environment: `uvicorn inventory.branch:service`.

INVENTORY_FILE, INVENTORY_SERVER and INVENTORY_TOKEN say where the replica's file is, where its
server is, and who this branch is.
"""

from __future__ import annotations

import os

from inventory.app import app
from inventory.service import make_service

replica = app.open(
    os.environ["INVENTORY_FILE"],
    server=os.environ["INVENTORY_SERVER"],
    token=os.environ["INVENTORY_TOKEN"],
)
service = make_service(replica)
