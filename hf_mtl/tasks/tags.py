"""Tag schemes: IOB1, BIO, BIOES and BILOU are read and brought to BIO, with the entities unchanged.

Schemes as in Ramshaw & Marcus 1995 (IOB1) and Ratinov & Roth 2009 (BIOES, there called BILOU). A sequence that breaks
its scheme is read as conlleval reads it: a tag of another type than the one before it begins an entity.
"""

from collections.abc import Iterable, Sequence

from hf_mtl.tasks.labels import LabelError, shown

PREFIXES = {"IOB1": "IB", "BIO": "BI", "BIOES": "BIES", "BILOU": "BILU"}
_ENDS = {"E", "S", "L", "U"}
_STARTS = {"B", "S", "U"}


def split_tag(tag: str) -> tuple[str, str]:
    """ "B-person" → ("B", "person"); a tag without an upper-case prefix → ("", tag)."""
    if len(tag) > 2 and tag[1] == "-" and tag[0] in "BIESLU":
        return tag[0], tag[2:]
    return "", tag


def find_scheme(rows: Iterable[Sequence[str | None]]) -> str:
    """The scheme of a column of tags: "IOB1", "BIO", "BIOES", "BILOU", or "none" if no tag has a prefix.

    Without E, S, L and U a column is IOB1 if some entity begins with I- and every B- follows a tag of its own type
    (there B- is only written between touching entities); else it is BIO.
    """
    prefixes: set[str] = set()
    inner_starts = free_begins = False
    for row in rows:
        before = ""
        for tag in row:
            prefix, entity = split_tag(tag or "O")
            if prefix:
                prefixes.add(prefix)
                inner_starts |= prefix == "I" and before != entity
                free_begins |= prefix == "B" and before != entity
            before = entity if prefix else ""
    if not prefixes:
        return "none"
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"E", "S"}:
        return "BIOES"
    return "IOB1" if inner_starts and not free_begins else "BIO"


def to_bio(tags: Sequence[str | None], scheme: str) -> tuple[list[str | None], int]:
    """Tags in BIO, and how many of them broke their scheme and were read as the beginning of an entity.

    None (no tag known) stays None and ends an entity.

    Raises:
        LabelError: for a tag that the scheme does not know.
    """
    bio: list[str | None] = []
    repaired, before, open_entity = 0, "", False
    for tag in tags:
        if tag is None or tag == "O":
            bio.append(tag)
            before, open_entity = "", False
            continue
        prefix, entity = split_tag(tag)
        if prefix not in PREFIXES[scheme] or not prefix:
            allowed = ", ".join(f"{letter}-…" for letter in PREFIXES[scheme])
            raise LabelError(f"tag {shown(tag)} is not one of {scheme}: O, {allowed}; set tag_scheme or mend the tag")
        continues = open_entity and before == entity and prefix not in _STARTS
        repaired += not continues and prefix not in _STARTS and scheme != "IOB1"
        bio.append(("I-" if continues else "B-") + entity)
        before, open_entity = entity, prefix not in _ENDS
    return bio, repaired


def bio_labels(names: Sequence[str]) -> list[str]:
    """The label list of a BIO task from tags or entity types: O, then B-x and I-x for every type in order.

    A list that is complete already stays as it is, so that published label ids do not move.
    """
    types = dict.fromkeys(split_tag(name)[1] for name in names if name != "O")
    complete = {"O", *(prefix + entity for entity in types for prefix in ("B-", "I-"))}
    if set(names) == complete:
        return list(names)
    return ["O", *(prefix + entity for entity in types for prefix in ("B-", "I-"))]
