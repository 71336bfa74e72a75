"""The scenarios. Importing this package registers all of them, in the order of the report."""

import importlib

MODULES = (
    "publishing",
    "batches",
    "consuming",
    "last_attempts",
    "ends",
    "state",
    "stores",
    "cluster",
    "outages",
    "stops",
    "workers",
    "resuming",
    "moving",
    "backups",
    "upgrades",
    "disks",
    "slow",
    "random_faults",
    "soak",
)

for _name in MODULES:
    importlib.import_module(f"{__name__}.{_name}")
