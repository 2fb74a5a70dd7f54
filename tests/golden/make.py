"""Write the golden folder of the saved format: python -m tests.golden.make FOLDER.

Made once for each format version, and then never again: the folder stands for the models that users have.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer

from hf_mtl.modeling.model import MultiTaskModel
from tests.tiny import save_tiny_encoder, tiny_tasks

TEXTS = ["Play a song by John Lennon!", "明天上海的天气", "It was [SEP] not happy."]
PAIRS = ["Add it to my playlist", "今天", "She is sad"]
SIZES = {"hidden_size": 16, "intermediate_size": 20, "max_position_embeddings": 40, "initializer_range": 0.3}


def main(folder: Path) -> None:
    tasks = tiny_tasks()
    tasks[0].spec = replace(tasks[0].spec, name="意图")
    tasks[2].spec = replace(tasks[2].spec, text_pair=True)
    with TemporaryDirectory() as encoder:
        torch.manual_seed(0)
        save_tiny_encoder(encoder, **SIZES)
        model = MultiTaskModel.from_encoder(encoder, tasks)
        tokenizer = AutoTokenizer.from_pretrained(encoder, split_special_tokens=True, model_max_length=32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    batch = tokenizer(TEXTS, PAIRS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = {name: value.tolist() for name, value in model(**batch).logits.items()}
    inputs = {name: value.tolist() for name, value in batch.items()}
    found = {"texts": TEXTS, "pairs": PAIRS, "inputs": inputs, "logits": logits}
    (folder / "inputs.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
