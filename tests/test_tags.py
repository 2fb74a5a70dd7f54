"""Tag schemes are read and brought to BIO, with the entities unchanged."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.tasks.labels import LabelError
from hf_mtl.tasks.tags import bio_labels, find_scheme, split_tag, to_bio

HARD = Path(__file__).parents[2] / "shared" / "data" / "hard"
spans = st.lists(
    st.tuples(st.sampled_from(["O", "per", "loc", "creative-work"]), st.integers(1, 4)), min_size=1, max_size=8
)


def write(entities: list[tuple[str, int]], scheme: str) -> list[str]:
    """Tags of a sentence made of (type, words) spans; "O" for words outside."""
    tags: list[str] = []
    for place, (kind, length) in enumerate(entities):
        touching = place > 0 and entities[place - 1][0] == kind
        if kind == "O":
            tags += ["O"] * length
        elif scheme == "IOB1":
            tags += [("B-" if touching else "I-") + kind, *["I-" + kind] * (length - 1)]
        elif scheme == "BIO":
            tags += ["B-" + kind, *["I-" + kind] * (length - 1)]
        else:
            single, last = ("S-", "E-") if scheme == "BIOES" else ("U-", "L-")
            inner = ["B-" + kind, *["I-" + kind] * (length - 2), last + kind]
            tags += [single + kind] if length == 1 else inner
    return tags


@given(st.lists(spans, min_size=1, max_size=5), st.sampled_from(["IOB1", "BIO", "BIOES", "BILOU"]))
def test_every_scheme_comes_to_the_bio_tags_of_the_same_entities(sentences, scheme):
    for entities in sentences:
        assert to_bio(write(entities, scheme), scheme) == (write(entities, "BIO"), 0)


@given(st.lists(spans, min_size=1, max_size=5), st.sampled_from(["IOB1", "BIO", "BIOES", "BILOU"]))
def test_the_scheme_that_is_found_reads_the_entities_as_they_were_written(sentences, scheme):
    rows = [write(entities, scheme) for entities in sentences]
    found = find_scheme(rows)
    if found == "none":
        assert not any(split_tag(tag)[0] for row in rows for tag in row)
    else:
        # A column may be good in several schemes (single words in BIO and IOB1): then they read it alike.
        assert [to_bio(row, found)[0] for row in rows] == [write(entities, "BIO") for entities in sentences]


def test_tags_without_a_prefix_are_no_scheme():
    assert find_scheme([["NOUN", "VERB"], ["B", "I-"]]) == "none"


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "BILOU"])
def test_a_sequence_that_breaks_its_scheme_is_read_the_conlleval_way_and_counted(scheme):
    assert to_bio(["O", "I-per", "I-loc", "I-loc", "O"], scheme) == (["O", "B-per", "B-loc", "I-loc", "O"], 2)


def test_an_unknown_tag_ends_an_entity_and_stays_unknown():
    assert to_bio(["B-per", None, "I-per"], "BIO") == (["B-per", None, "B-per"], 1)


def test_a_tag_of_another_scheme_is_refused_with_what_is_allowed():
    with pytest.raises(LabelError, match=r"'S-per' is not one of BIO: O, B-…, I-…"):
        to_bio(["S-per"], "BIO")


def test_the_label_list_holds_both_tags_of_every_type_and_a_complete_list_stays_as_it_is():
    assert bio_labels(["B-x", "O", "B-a-b"]) == ["O", "B-x", "I-x", "B-a-b", "I-a-b"]
    complete = ["B-x", "I-x", "O"]
    assert bio_labels(complete) == complete


@pytest.mark.skipif(not HARD.exists(), reason="the shared files with awkward rows are not there")
def test_the_four_files_of_the_same_sentences_hold_the_same_entities():
    read = {}
    for scheme in ("bio", "iob1", "bioes", "bilou"):
        rows = [json.loads(line)["ner_tags"] for line in (HARD / f"tags_{scheme}.jsonl").open(encoding="utf-8")]
        assert find_scheme(rows) == scheme.upper()
        read[scheme] = [to_bio(row, scheme.upper()) for row in rows]
    assert read["bio"] == read["iob1"] == read["bioes"] == read["bilou"]
