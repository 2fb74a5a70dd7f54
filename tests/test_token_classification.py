"""Tags are laid on pieces by offsets: every tag counts once, whatever the tokenizer and however many windows."""

from collections import Counter

import pytest
import torch

from hf_mtl.config_keys import TaskConfig
from hf_mtl.data.texts import WordError, find_words, join_words
from hf_mtl.tasks.labels import LabelError
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.task import Window
from hf_mtl.tasks.token_classification import IGNORED, TokenClassification
from hf_mtl.tasks.word_pieces import word_pieces
from tests.tiny import tiny_tokenizer

LABELS = ["O", "B-city", "I-city"]
WORDS = ["I", "'m", "in", "St.", "John's", "—", "24-hour", "北京", "e\u0301te\u0301", "👩‍👩‍👧", "naïve", "x", "!"]


def task(**changes) -> TokenClassification:
    return TokenClassification(
        TaskSpec(name="ner", task_type="token-classification", label_list=LABELS, tag_scheme="BIO", **changes)
    )


def built(cells, class_names=None, **changes):
    config = TaskConfig(task_type="token-classification", dataset="d", label_column="tags", **changes)
    made = TokenClassification.from_rows("ner", config, lambda: iter(cells), class_names, False)
    return made, made.reader(config, lambda: iter(cells), class_names, Counter())


def windows(text: str, kind: str, max_length: int) -> list[Window]:
    encoded = tiny_tokenizer(kind)(
        text,
        truncation=True,
        max_length=max_length,
        stride=max_length // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    return [
        Window(*parts)
        for parts in zip(encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=False)
    ]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("max_length", [12, 16, 64])
@pytest.mark.parametrize("separator", [" ", ""])
def test_every_tag_counts_once_and_stands_on_a_piece_of_its_word(kind, max_length, separator):
    words = WORDS * 4
    text, spans = join_words(words, separator)
    tags = [place % 3 for place in range(len(words))]
    cut = windows(text, kind, max_length)
    assert len(cut) > 1 or max_length == 64
    columns = task().encode(tags, cut, spans)
    counted = Counter(word for window in columns for word in window["words"])
    assert counted == Counter(range(len(words)))
    for window, found in zip(cut, columns, strict=True):
        labelled = {piece for piece, tag in enumerate(found["labels"]) if tag != IGNORED}
        assert found["items"] == len(labelled)
        for word, piece, tag in zip(found["words"], found["pieces"], found["tags"], strict=True):
            assert tag == tags[word]
            if piece >= 0:
                start, end = window.offsets[piece]
                assert start < spans[word][1]
                assert end > spans[word][0]
            if piece in labelled and found["labels"][piece] == tag:
                labelled.discard(piece)
        assert not labelled


def test_the_first_piece_of_a_word_carries_its_tag_and_the_others_none():
    text, spans = join_words(["Playing", "in", "Wonderland"], " ")
    (window,) = windows(text, "wordpiece", 64)
    (columns,) = task().encode([0, 1, 2], [window], spans)
    firsts = [
        next(p for p, (start, _) in enumerate(window.offsets) if start == span[0] and not window.special[p])
        for span in spans
    ]
    expected = [IGNORED] * len(window.input_ids)
    for piece, tag in zip(firsts, [0, 1, 2], strict=True):
        expected[piece] = tag
    assert columns["labels"] == expected


def test_a_word_inside_a_piece_takes_the_answer_of_that_piece_and_is_no_item():
    # One piece for "ab", whose second letter is a word of its own.
    window = Window([5], [(0, 2)], [0])
    assert word_pieces(window, [(0, 1), (1, 2)]) == {0: (0, True), 1: (0, False)}
    (columns,) = task().encode([1, 2], [window], [(0, 1), (1, 2)])
    assert columns["labels"] == [1]
    assert columns["items"] == 1
    assert task().notes([columns]) == {"words without a piece of their own": 1}
    answer = task().join([(columns, ([2], [0.9]))])
    assert answer.prediction == ["I-city", "I-city"]
    assert answer.reference == ["B-city", "I-city"]


def test_a_word_that_no_piece_covers_is_answered_with_o():
    window = Window([5], [(0, 1)], [0])
    (columns,) = task().encode([1, 2], [window], [(0, 1), (2, 3)])
    assert task().join([(columns, ([1], [0.9]))]).prediction == ["B-city", "O"]


def test_a_window_that_begins_within_a_word_does_not_take_its_tag():
    first = Window([1, 2, 3], [(0, 1), (2, 3), (3, 4)], [0, 0, 0])
    second = Window([3, 4, 5], [(3, 4), (4, 5), (6, 7)], [0, 0, 0])
    columns = task().encode([0, 1, 2], [first, second], [(0, 1), (2, 5), (6, 7)])
    assert columns[0]["words"] == [0, 1]
    assert columns[1]["words"] == [2]


def test_unknown_tags_are_no_items_and_are_not_scored():
    text, spans = join_words(["in", "Berlin"], " ")
    columns = task().encode([IGNORED, 1], windows(text, "wordpiece", 64), spans)
    assert columns[0]["items"] == 1
    pieces = len(columns[0]["labels"])
    answer = task().join([(columns[0], ([0] * pieces, [1.0] * pieces))])
    assert answer.reference == ["B-city"]
    assert answer.prediction == ["O"]


def test_too_few_tags_are_refused_with_both_counts():
    with pytest.raises(LabelError, match="1 tags for 2 words"):
        task().encode([0], windows("a b", "wordpiece", 64), [(0, 1), (2, 3)])


def test_the_loss_is_the_sum_over_labelled_tokens_and_zero_rows_give_a_zero_gradient():
    logits = torch.randn(2, 5, 3, requires_grad=True)
    labels = task().collate([{"labels": [IGNORED, 0, 2]}, {"labels": [1]}], 5)
    loss, items = task().loss(logits, labels)
    by_hand = -sum(logits.log_softmax(-1)[place] for place in [(0, 1, 0), (0, 2, 2), (1, 0, 1)])
    assert items == 3
    assert torch.allclose(loss, by_hand)
    empty = torch.zeros(0, 5, 3, requires_grad=True)
    loss, items = task().loss(empty, task().collate([], 5))
    loss.backward()
    assert loss == 0
    assert items == 0
    assert empty.grad is not None


def test_words_are_found_from_left_to_right():
    assert find_words(["a", "b", "a"], "a  b,a") == [(0, 1), (3, 4), (5, 6)]
    with pytest.raises(WordError, match="word 2 'c' does not stand in the text"):
        find_words(["a", "c"], "a b")


@pytest.mark.parametrize("cell", [["O", 1, 2], "0 1 2", ["0", "1", "2"]])
def test_integers_are_places_in_label_list_also_as_text(cell):
    made, read = built([cell], label_list=LABELS)
    assert made.spec.tag_scheme == "BIO"
    assert made.spec.label_list == LABELS
    assert read(cell) == [0, 1, 2]


def test_a_class_labels_integers_are_places_although_a_name_is_a_number():
    made, read = built([[0, 1, 2]], class_names=["NOUN", "0", "VERB"])
    assert [made.spec.label_list[tag] for tag in read([2, 1, 0])] == ["VERB", "0", "NOUN"]


def test_a_tag_that_says_nothing_is_unknown_and_no_label():
    made, read = built([["NOUN", "", None, float("nan")], ["VERB"]])
    assert made.spec.label_list == ["NOUN", "VERB"]
    assert read(["VERB", "", None, float("nan")]) == [1, IGNORED, IGNORED, IGNORED]


def test_types_in_label_list_become_their_tags():
    made, read = built([["B-city", "O"]], label_list=["city", "person"])
    assert made.spec.label_list == ["O", "B-city", "I-city", "B-person", "I-person"]
    assert read(["O", "B-person"]) == [0, 3]


def test_a_row_that_cannot_be_read_is_passed_over_by_the_weights():
    made, read = built([["B-city", "O"], ["B-sea"]], label_list=["city"], class_weight="balanced")
    assert made.class_weight is not None
    with pytest.raises(LabelError, match="'B-sea' of task ner is not in label_list"):
        read(["B-sea"])


def test_tags_of_several_kinds_are_refused():
    with pytest.raises(LabelError, match=r"labels of several kinds: integer \(1\), text \('O'\)"):
        built([[1, "O"]])


def test_types_that_differ_in_spelling_alone_are_refused_whatever_their_prefix():
    with pytest.raises(LabelError, match="differ in spelling alone: 'Per' .*'per'|'per' .*'Per'"):
        built([["B-per", "I-Per", "O"]])
