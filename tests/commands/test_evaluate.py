"""`python evaluate.py` on what `python train.py` made."""

import csv
import json


def test_evaluating_a_run(train, start, tmp_path):
    assert train("run_dir=outputs/train/run", "training.validation_sequences=null").status == 0
    outcome = start("ckpt=last", "run_dir=numbers", "sampler.steps=4", script="evaluate.py", tiny=False).wait()
    assert outcome.status == 0, outcome.stderr
    assert "Generated text 4" in outcome.stdout
    with (tmp_path / "numbers/results.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    # The same sequences and weights as the last validation, other masks: equal within the standard error.
    trained = json.loads((tmp_path / "outputs/train/run/results.json").read_text())["metrics"]["val/loss"]
    value, error = (float(rows["nelbo_nats_per_token"][key]) for key in ("value", "stderr"))
    assert abs(value - trained) < 5 * error  # wrong with probability below 1e-5
    assert int(float(rows["forward_passes"]["value"])) <= 4


def test_what_cannot_be_evaluated(start):
    def error(*arguments):
        outcome = start(*arguments, script="evaluate.py", tiny=False).wait()
        assert outcome.status == 1
        return outcome.error

    assert "needs a checkpoint" in error()
    assert "does not exist" in error("ckpt=nowhere.ckpt")
    assert "no run in outputs" in error("ckpt=last")
