"""All tables in one place, for migrations. A new module of rows is named here."""

from __future__ import annotations

from registry.db import (
    access_rows,
    catalog_rows,
    console_rows,
    fleet_rows,
    index_rows,
    over_time_rows,
    rollout_rows,
    tally_rows,
    trust_rows,
)
from registry.db.base import Base

ROWS = (
    access_rows,
    catalog_rows,
    console_rows,
    fleet_rows,
    index_rows,
    over_time_rows,
    rollout_rows,
    tally_rows,
    trust_rows,
)
"""The modules whose import puts their tables into METADATA."""
METADATA = Base.metadata
