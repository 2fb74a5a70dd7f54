"""When one process has too little memory, all of them take smaller micro-batches."""

import json

from tests.distributed.launch import launch
from tests.runs import tiny_run


def test_all_processes_halve_what_one_has_no_memory_for_and_none_waits_for_it(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(tiny_run(tmp_path)), encoding="utf-8")
    done = launch("tests.distributed.small_device", 2, str(tmp_path / "run.json"), str(tmp_path), timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert told == [{"processes": 2, "size": 4}] * 2
