"""Two long texts are cut before they are encoded as a pair, which changes nothing of what is kept of them."""

import random

import pytest

from hf_mtl.data.tokenizer import cut_pairs
from tests.test_preparation import TOPIC, prepared, sequences_of
from tests.tiny import TEXTS, tiny_tokenizer

WORDS = [word for text in TEXTS for word in text.split()] + ["a" * 30, "日本語", "e\u0301te\u0301"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "mpnet"])
def test_the_pieces_of_a_pair_stay_the_same(kind, side):
    tokenizer = tiny_tokenizer(kind, 16)
    tokenizer.truncation_side = side
    draw = random.Random(3)
    shorter = 0
    for _ in range(20):
        length = draw.choice([9, 12, 13])
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 80))) for _ in range(2)]
        cut = [found[0] for found in cut_pairs(tokenizer, texts[:1], texts[1:], length)]
        shorter += cut != texts
        whole = tokenizer(*texts, truncation=True, max_length=length)
        assert tokenizer(*cut, truncation=True, max_length=length) == whole
    assert shorter > 5


def test_a_text_beside_a_short_one_stays_whole():
    tokenizer = tiny_tokenizer("wordpiece", 16)
    assert cut_pairs(tokenizer, ["a " * 5000], ["a b"], 16) == (["a " * 5000], ["a b"])


def test_rows_of_long_pairs_are_counted_as_cut(tmp_path):
    rows = [{"text": "a song " * 20_000, "second": "sad " * 20_000, "topic": "x"}]
    rows.append({"text": "a song", "second": "sad", "topic": "y"})
    found = prepared(tmp_path, rows, {"text_column": "text", "text_pair_column": "second"}, {"topic": TOPIC})
    assert found.sequences["d"]["train"].summary.over_length == 1
    assert [len(row["input_ids"]) for row in sequences_of(found)][0] == 16
