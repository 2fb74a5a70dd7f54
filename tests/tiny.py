"""Tiny real tokenizers and encoders, made in memory: what the tests run on instead of downloads."""

import copy
import io
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece
import torch
from tokenizers import ByteLevelBPETokenizer, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    BatchEncoding,
    BertTokenizer,
    MPNetTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.types import build_task

TOKENIZERS = {
    "bert": "wordpiece",
    "roberta": "bpe",
    "distilbert": "wordpiece",
    "deberta-v2": "wordpiece",
    "electra": "wordpiece",
    "modernbert": "bpe",
    "albert": "wordpiece",
    "xlm-roberta": "unigram",
    "mpnet": "mpnet",
}
ARCHITECTURES = tuple(TOKENIZERS)

TEXTS = (
    "Book a table for four people at Nobu in London tonight.",
    "Play the newest song by Taylor Swift on Spotify, please!",
    "What is the weather like in New York City tomorrow morning?",
    "Rate this book five out of six stars; it was a wonderful story.",
    "Add Imagine by John Lennon to my playlist called road trip.",
    "The patients' 24-hour blood pressure wasn't measured twice in St. John's hospital.",
    "Find the schedule for the movie at 8:30 pm near Berlin.",
    "I am happy, she is angry, and they were sad about the news.",
    "今天晚上在上海订一张四个人的桌子。",
    "明天早上北京的天气怎么样？",
    "请播放周杰伦最新的歌曲。",
    "这本书非常好看，我给它五颗星。",
    "他在医院测量了二十四小时的血压。",
)
"""The texts the tokenizers are trained on: English and Chinese, with punctuation."""


@cache
def _wordpiece_vocab(specials: tuple[str, ...], size: int) -> dict[str, int]:
    """All characters, then the most frequent pieces; the library's own trainer gives another vocabulary each time."""
    words: Counter[str] = Counter()
    for text in TEXTS:
        plain = normalizers.BertNormalizer(lowercase=True).normalize_str(text)
        words.update(word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(plain))
    pieces: Counter[str] = Counter()
    for word, times in words.items():
        for start, end in combinations(range(len(word) + 1), 2):
            pieces[("##" if start else "") + word[start:end]] += times
    single = sorted(piece for piece in pieces if len(piece.removeprefix("##")) == 1)
    several = sorted(pieces.keys() - set(single), key=lambda piece: (-pieces[piece], piece))
    return {piece: place for place, piece in enumerate([*specials, *single, *several][:size])}


def _wordpiece(size: int) -> PreTrainedTokenizerBase:
    vocab = _wordpiece_vocab(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), size)
    return BertTokenizer(vocab=dict(vocab))


def _mpnet(size: int) -> PreTrainedTokenizerBase:
    return MPNetTokenizer(vocab=dict(_wordpiece_vocab(("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), size)))


def _bpe(size: int) -> PreTrainedTokenizerBase:
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS, vocab_size=max(size, 300), special_tokens=specials, show_progress=False)
    with TemporaryDirectory() as folder:
        vocab, merges = trained.save_model(folder)
        return RobertaTokenizer.from_pretrained(folder, vocab_file=vocab, merges_file=merges)


def _unigram(size: int) -> PreTrainedTokenizerBase:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=written,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,
        required_chars="<>/[]",
        num_threads=1,
        minloglevel=2,
    )
    with TemporaryDirectory() as folder:
        Path(folder, "sentencepiece.bpe.model").write_bytes(written.getvalue())
        return XLMRobertaTokenizer.from_pretrained(folder)


_KINDS = {"wordpiece": _wordpiece, "mpnet": _mpnet, "bpe": _bpe, "unigram": _unigram}


@cache
def _trained(kind: str, size: int) -> PreTrainedTokenizerBase:
    return _KINDS[kind](size)


def tiny_tokenizer(kind: str = "wordpiece", max_length: int = 64, size: int = 240) -> PreTrainedTokenizerBase:
    """A tokenizer of the kind wordpiece (BERT's), bpe (byte-level, RoBERTa's), unigram (XLM-R's) or mpnet."""
    tokenizer = copy.deepcopy(_trained(kind, size))
    tokenizer.model_max_length = max_length
    return tokenizer


def tiny_config(
    architecture: str = "bert", tokenizer: PreTrainedTokenizerBase | None = None, **changes
) -> PreTrainedConfig:
    """The config of an encoder of 2 layers, 32 wide, without dropout (so that runs can be compared)."""
    tokenizer = tokenizer or tiny_tokenizer(TOKENIZERS.get(architecture, "bpe"))
    entries = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "max_position_embeddings": 80,
    }
    if architecture == "distilbert":
        entries |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}
        entries |= {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
        del entries["bos_token_id"], entries["eos_token_id"]
    else:
        entries |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    if architecture == "modernbert":
        entries |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        entries |= {"global_attn_every_n_layers": 2, "local_attention": 8}
    elif architecture == "qwen3":
        entries |= {"num_key_value_heads": 2, "head_dim": 8}
    elif architecture != "distilbert":
        entries |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if architecture in ("electra", "albert"):
        entries["embedding_size"] = 16
    if architecture == "albert":
        entries["classifier_dropout_prob"] = 0.0
    if architecture == "deberta-v2":
        entries |= {"relative_attention": True, "pos_att_type": "p2c|c2p", "type_vocab_size": 2}
        entries |= {"position_biased_input": False, "pooler_dropout": 0.0, "cls_dropout": 0.0}
    return AutoConfig.for_model(architecture, **(entries | changes))


def tiny_encoder(architecture: str = "bert", seed: int = 0, **changes) -> PreTrainedModel:
    """A randomly initialised stock base model, in evaluation mode; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModel.from_config(tiny_config(architecture, **changes)).eval()


def save_tiny_encoder(folder: str | Path, architecture: str = "bert", seed: int = 0, **changes) -> Path:
    """Write a stock checkpoint with its tokenizer, as the Hub holds them; gives the folder."""
    tokenizer = tiny_tokenizer(TOKENIZERS.get(architecture, "bpe"))
    tiny_encoder(architecture, seed, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tiny_batch(architecture: str, texts: Sequence[str], pairs: Sequence[str] | None = None) -> BatchEncoding:
    """Texts (or pairs of texts) as the tensors that the architecture's stock models take."""
    tokenizer = tiny_tokenizer(TOKENIZERS.get(architecture, "bpe"))
    return tokenizer(list(texts), None if pairs is None else list(pairs), padding=True, return_tensors="pt")


def tiny_tasks() -> list[Task]:
    """Four tasks: one label, several labels, a score and tags."""
    return [
        build_task(spec)
        for spec in (
            TaskSpec(
                name="topic",
                task_type="text-classification",
                problem_type="single_label_classification",
                label_list=["books", "music", "weather"],
            ),
            TaskSpec(
                name="moods",
                task_type="text-classification",
                problem_type="multi_label_classification",
                label_list=["happy", "sad"],
                threshold=0.5,
            ),
            TaskSpec(name="score", task_type="text-classification", problem_type="regression"),
            TaskSpec(
                name="slots",
                task_type="token-classification",
                label_list=["O", "B-city", "I-city", "B-person", "I-person"],
                tag_scheme="BIO",
            ),
        )
    ]


def tiny_model(
    folder: str | Path, architecture: str = "bert", tasks: Sequence[Task] | None = None, seed: int = 0
) -> MultiTaskModel:
    """A multi-task model on a tiny encoder that is written to `folder` first, in evaluation mode."""
    save_tiny_encoder(folder, architecture, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiTaskModel.from_encoder(str(folder), tiny_tasks() if tasks is None else tasks)
