"""The scenarios. Importing this package registers all of them, in the order of the report."""

from . import cluster, consuming, disks, outages, publishing, random_faults, slow, soak, state, stops  # noqa: F401 - they register themselves
