"""The tokenizer of a run, set so that training, the pipelines and the exported checkpoints encode a text alike."""

import json
from collections.abc import Sequence

from tokenizers.models import Unigram
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from hf_mtl.errors import UserError
from hf_mtl.hub_errors import HubError, hub_reason

AVOIDED = -1000.0
"""The score (log-probability) of a piece that is chosen only where nothing else fits."""
LONG = 4
"""As many times `max_length` is long: of no shorter text there are more than a few parts to cut off."""
UNKNOWN_LIMIT = 1_000_000
"""transformers gives a far larger `model_max_length` where a tokenizer does not know its own."""


def load_tokenizer(source: str, max_length: int, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The encoder's own tokenizer with `model_max_length` set to `max_length`.

    Special tokens that stand in a text ("[SEP]") stay text: `split_special_tokens` is on, and a Unigram model that has
    them among its pieces (XLM-R's "<s>") chooses any others before them.

    Raises:
        UserError: if it cannot be loaded or read sequences of that length.
    """
    try:
        where = {"revision": revision or "main", "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(source, split_special_tokens=True, **where)
        config = AutoConfig.from_pretrained(source, **where)
    except (OSError, HubError, ValueError) as error:
        why = hub_reason(error) or error
        raise UserError(f"encoder {source}: no tokenizer or config could be loaded from there ({why})") from error
    limits = [tokenizer.model_max_length]
    if hasattr(config, "encoder_config"):
        # A multi-task model's tokenizer says how its run read texts, not what its encoder could read.
        limits, config = [UNKNOWN_LIMIT], config.encoder_config
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from behind the padding index.
        padding = tokenizer.pad_token_id if getattr(config, "model_type", "") in _OFFSET_POSITIONS else None
        limits.append(positions if padding is None else positions - padding - 1)
    limit = min(limits)
    if max_length > limit and limit < UNKNOWN_LIMIT:
        raise UserError(f"max_length: {max_length} is more than {source} can read; set it to {limit} or less")
    tokenizer.model_max_length = max_length
    _avoid_special_pieces(tokenizer)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"encoder {source}: its tokenizer has neither a padding nor an end-of-text token; choose another"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _avoid_special_pieces(tokenizer: PreTrainedTokenizerBase) -> None:
    """Scores are saved with the tokenizer: the stock pipelines read a text as training did."""
    if not tokenizer.is_fast or not isinstance(tokenizer.backend_tokenizer.model, Unigram):
        return
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids) - {model["unk_id"]}
    vocab = [(piece, AVOIDED if number in special else score) for number, (piece, score) in enumerate(model["vocab"])]
    tokenizer.backend_tokenizer.model = Unigram(vocab, model["unk_id"], model.get("byte_fallback", False))


def cut_pairs(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str], max_length: int
) -> tuple[list[str], list[str]]:
    """Texts and second texts without what lies far behind the pieces that a pair of at most `max_length` keeps.

    A fast tokenizer makes every combination of the parts that it cuts off: two texts of 50,000 characters would take
    gigabytes. What is kept of a pair does not change.
    """
    both = list(zip(texts, pairs, strict=True))
    if tokenizer.is_fast:
        for place, pair in enumerate(both):
            # In characters: most texts are shorter, and need not be encoded a time more to find out.
            if min(map(len, pair)) > LONG * max_length:
                both[place] = _cut(tokenizer, *pair, max_length)
    return [text for text, _ in both], [pair for _, pair in both]


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, pair: str, max_length: int) -> tuple[str, str]:
    encoded = tokenizer([text, pair], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    if min(lengths) <= LONG * max_length:
        return text, pair
    # Of an odd number of pieces the longer text, or the second, keeps one more: it must stay the longer one.
    pieces = (3 * max_length, 2 * max_length) if lengths[0] > lengths[1] else (2 * max_length, 3 * max_length)
    first, second = encoded["offset_mapping"]
    if tokenizer.truncation_side == "left":
        return text[first[-pieces[0]][0] :], pair[second[-pieces[1]][0] :]
    return text[: first[pieces[0] - 1][1]], pair[: second[pieces[1] - 1][1]]


def clear_call_state(tokenizer: PreTrainedTokenizerBase) -> None:
    """Takes out of a fast tokenizer what its last call left in it: truncation and padding, which each call sets anew.

    They would be saved with it, and are no part of how it encodes.
    """
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


_OFFSET_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "mpnet",
    "longformer",
    "data2vec-text",
}
