"""python -m inventory.open_company BRANCH…: this branch opens the company, with these others."""

from __future__ import annotations

import sys

from inventory.app import open_company
from inventory.branch import replica

if __name__ == "__main__":
    replica.run(open_company, branches=sys.argv[1:])
    print(replica.sync())
    replica.close()
