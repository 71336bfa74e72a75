"""Two patterns of subjects, or of names, compared as the rules of authorization compare them."""

from __future__ import annotations

from windshift.server.auth.subjects import SubjectPatterns, parts, parts_cover, parts_overlap, tokens


def covers(pattern: str, wanted: str) -> bool:
    """Tell whether a pattern matches every subject that the wanted one matches."""
    return _alone(pattern).covering(tokens(wanted)) is not None


def overlaps(a: str, b: str) -> bool:
    """Tell whether some subject is matched by both."""
    return _alone(a).overlapping(tokens(b)) is not None


def covers_name(pattern: str, wanted: str) -> bool:
    """Tell whether a pattern matches every name that the wanted one matches."""
    return parts_cover(parts(pattern), parts(wanted))


def overlaps_name(a: str, b: str) -> bool:
    """Tell whether some name is matched by both."""
    return parts_overlap(parts(a), parts(b))


def _alone(pattern: str) -> SubjectPatterns:
    patterns = SubjectPatterns()
    patterns.add(tokens(pattern), 0)
    return patterns
