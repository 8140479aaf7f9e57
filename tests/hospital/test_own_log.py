"""The hospital's own log: refused messages cannot fill the disk of the ledger."""

import json
import logging

from wardround.hospital.own_log import MOST_A_MINUTE, log_to


def written(path, records):
    """The lines of a log of records: each a level, a line of the program and a second."""
    handler = log_to(path)
    for level, line, second in records:
        record = logging.LogRecord("wardround", level, "server.py", line, f"at {second}", None, None)
        record.created = 1_800_000_000.0 + second
        handler.handle(record)
    handler.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_refusals_are_logged_so_many_a_minute_and_the_rest_are_counted(tmp_path):
    flood = [(logging.WARNING, 7, 0), (logging.INFO, 8, 0)] * 1000
    lines = written(tmp_path / "agent.log", [*flood, (logging.WARNING, 7, 60), (logging.WARNING, 7, 61)])
    levels = [line["level"] for line in lines]
    assert (levels.count("WARNING"), levels.count("INFO")) == (MOST_A_MINUTE + 3, 1000)
    assert [line["left_out"] for line in lines if "left_out" in line] == [1000 - MOST_A_MINUTE]
    assert lines[-3]["left_out"], "it is said before the first of the next minute"
    assert "server.py:7 " in lines[-3]["text"]


def test_what_the_last_minute_left_out_is_written_at_the_end(tmp_path):
    lines = written(tmp_path / "agent.log", [(logging.WARNING, 7, 0)] * 100)
    assert [line.get("left_out") for line in lines] == [None] * MOST_A_MINUTE + [100 - MOST_A_MINUTE]


def test_a_flood_of_one_warning_hides_no_other_of_the_same_minute(tmp_path):
    flood = [(logging.WARNING, 7, 0)] * 100
    lines = written(tmp_path / "agent.log", [*flood, (logging.WARNING, 9, 1), (logging.ERROR, 10, 2)])
    assert [line["text"] for line in lines[MOST_A_MINUTE:-1]] == ["at 1", "at 2"]
