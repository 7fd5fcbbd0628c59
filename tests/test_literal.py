"""Text that people wrote is shown literally, and different names differently."""

import io
import os
import sys

import odd_names
import pytest
from absl import flags, logging

from aa_flax.analysis.results import print_results
from aa_flax.config import command_line
from aa_flax.literal import literal, literal_lines, quoted, told_apart
from aa_flax.runs.progress import ProgressBar


def test_what_is_shown_as_itself():
    for text in (
        *odd_names.MARKUP,
        "cat",
        " cat ",
        "\u00e9",
        "\u732b",
        "\u0633\u200c\u0645",
        "\U0001f469\u200d\U0001f52c",
    ):
        assert literal(text) == text


def test_what_is_shown_as_an_escape():
    for text, shown in (
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x00\x07\x7f\x85", r"\x00\x07\x7f\x85"),
        ("\u2028\u2029\u202e\u200b\ufeff\u00ad", r"\u2028\u2029\u202e\u200b\ufeff\xad"),
        ("\udcff\udcfe", r"\xff\xfe"),
        ("\ud800", r"\ud800"),
        ("caf\udcc3\udca9", "caf\u00e9"),  # as Python reads a name in UTF-8 where the locale is ASCII
    ):
        assert literal(text) == shown == literal(shown)
    assert literal_lines("a\n\x1bb\n") == "a\n\\x1bb\n"
    assert all(odd_names.is_clean(literal(name)) for name in odd_names.NAMES)


def test_names_that_look_alike_are_told_apart():
    for one, other in (
        ("cat", "cat "),
        (" cat", "cat"),
        ("black cat", "black  cat"),
        ("black cat", "black\u00a0cat"),
        ("\u00e9", "e\u0301"),
        ("cat", "c\u0430t"),
        ("OMEGA", "\u039fM\u0395GA"),
        ("\x1b", "\\x1b"),
        ("a\nb", "a\\nb"),
        ("\u0633\u200c\u0645", "\u0633\u0645"),
        ("\u2600", "\u2600\ufe0f"),
        ("\ufb01n", "fin"),
        (os.fsdecode(b"\xff"), "\\xff"),
    ):
        assert told_apart([one, "dog", other]) == [ascii(one), "dog", ascii(other)]
    assert told_apart(["cat", "cat"]) == ["cat", "cat"]  # the same name
    assert told_apart(["cat ", "dog"]) == ["cat ", "dog"]
    trick = ["a ", "a", "'a'"]
    assert len(set(told_apart(trick))) == 3
    shown = told_apart(odd_names.NAMES)
    assert len(set(shown)) == len(odd_names.NAMES) and all(map(odd_names.is_clean, shown))
    assert quoted(["cat", "cat ", "\x1b", "dog"]) == "'cat', 'cat ', '\\x1b' and 1 more"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_a_name_that_the_encoding_lacks_ends_no_command(encoding, monkeypatch):
    """The command line makes it so, whatever PYTHONIOENCODING or the locale has chosen."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(logging.get_absl_handler().python_handler, "stream", streams[1])
    monkeypatch.setattr(sys, "argv", ["command"])
    # pytest's own handlers keep what is logged for their reports, which must be UTF-8.
    monkeypatch.setattr(logging.get_absl_logger(), "handlers", [logging.get_absl_handler()])
    monkeypatch.setattr(logging.get_absl_logger(), "propagate", False)

    def main(argv, values: flags.FlagValues):
        for name in odd_names.NAMES:
            print(literal(name))
        print("\udcff", "not even made literal")
        logging.warning("%s of %d%%", "\x1b[31m\udcff", 7)
        command_line.fail("; ".join(odd_names.NAMES))

    with pytest.raises(SystemExit) as left:
        command_line.run(main)
    assert left.value.code == 2
    out, error = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert len(out.splitlines()) == len(odd_names.NAMES) + 1 and out.endswith("literal\n")
    logged, last = error.splitlines()
    assert logged.endswith("] \\x1b[31m\\xff of 7%")
    assert last.startswith("error: ") and odd_names.is_clean(error)


def test_progress_lines_and_tables_show_names_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar(10, 0, 2) as progress:
        for name in odd_names.NAMES:
            progress.say(f"<{name}>")
    said = capsys.readouterr().out
    assert said == "".join(f"{literal_lines(f'<{name}>')}\n" for name in odd_names.NAMES) and odd_names.is_clean(said)
    result = {
        "dataset": "[x]$y$\x1b",
        "examples": 1,
        "params": 1,
        "flops": 1,
        "images_per_second": 1,
        "train_seconds": 1,
    }
    results = [
        {**result, "label": label, "accuracy": 0.5, "per_name": dict.fromkeys(odd_names.NAMES, 0.25)}
        for label in ("[bold]one[/bold]", "\x1b[31mtwo")
    ]
    print_results(results, "accuracy", {"accuracy", "per_name"})
    table = capsys.readouterr().out
    assert odd_names.is_clean(table) and "[x]$y$\\x1b, 1 held-out" in table
    assert "[bold]one[/bold]" in table and "\\x1b[31mtwo" in table
    rows = [line.strip("\u2502 ") for line in table.splitlines()]
    for name in told_apart(odd_names.NAMES):
        assert any(row.startswith(name.strip()) for row in rows) or len(name) > 80, name
