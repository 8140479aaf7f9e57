"""The hospital's own log: refused messages cannot fill the disk of the ledger."""

import json
import logging

from wardround.hospital.own_log import MOST_A_MINUTE, log_to


def test_refusals_are_logged_so_many_a_minute_and_the_rest_are_counted(tmp_path):
    handler = log_to(tmp_path / "agent.log")

    def log(level, second):
        record = logging.LogRecord("wardround", level, "", 0, f"at {second}", None, None)
        record.created = 1_800_000_000.0 + second
        handler.handle(record)

    for _ in range(1000):
        log(logging.WARNING, 0)
        log(logging.INFO, 0)
    log(logging.ERROR, 0)
    log(logging.WARNING, 60)
    log(logging.WARNING, 61)
    handler.close()
    lines = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    levels = [line["level"] for line in lines]
    assert (levels.count("WARNING"), levels.count("INFO"), levels.count("ERROR")) == (MOST_A_MINUTE + 2, 1000, 1)
    assert [line["left_out"] for line in lines if "left_out" in line] == [1000 - MOST_A_MINUTE]
    assert lines[-2]["left_out"], "the first of the next minute says it"
