"""Who else may change a file that says who gets in."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def other_writers(file: Path, mode: int) -> str:
    """Say that others than its owner may write to a file of this mode, or put another in its place; or "".

    Of directories only those count that everybody may write to: a group often shares one that it works in. In
    one with the sticky bit nobody replaces what belongs to others, and on a file system that is mounted
    read-only nobody does: volumes of Kubernetes are such, with directories of mode 0777.

    Raises OSError for a directory that cannot be examined.
    """
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "anybody on this machine" if mode & stat.S_IWOTH else "a group"
        return f"{who} may write to the file; chmod go-w {file}"
    for directory in {file.absolute().parent, file.resolve().parent}:
        if _anybody_replaces_files(directory):
            remedy = f"chmod o-w {directory}, or keep the file elsewhere"
            return f"anybody on this machine may replace the file; {remedy}"
    return ""


def _anybody_replaces_files(directory: Path) -> bool:
    mode = directory.stat().st_mode
    if not mode & stat.S_IWOTH or mode & stat.S_ISVTX:
        return False
    return not os.statvfs(directory).f_flag & os.ST_RDONLY
