"""A table is the same facts in a terminal, in Markdown and in a page."""

from __future__ import annotations

import pytest

from contray.tables import Table, hanging


@pytest.fixture
def table() -> Table:
    made = Table("runs of <b>", "run", "top-1 %", caption="of 10 images")
    made.add("[red]a|b", "91.5")
    made.divide()
    made.add("<script>", "-")
    return made


def test_as_text_in_80_columns(table: Table) -> None:
    lines = table.text(80).splitlines()
    assert lines[0] == "runs of <b>"
    assert max(map(len, lines)) <= 80
    assert "[red]a|b" in table.text(80)
    assert "of 10 images" in lines[-1]
    assert sum("──" in line or "━━" in line for line in lines) == 4, (
        "top, below the headings, the line that was asked for, bottom"
    )


def test_as_html_nothing_of_a_name_is_markup(table: Table) -> None:
    page = table.html()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count('class="section"') == 1
    assert page.count("<tr") == 3


def test_as_markdown(table: Table) -> None:
    assert "| [red]a\\|b | 91.5 |" in table.markdown().splitlines()
    assert "|---|---:|" in table.markdown().splitlines()


def test_a_row_of_another_length_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="3 cells for the columns run, top-1 %"):
        table.add("a", "b", "c")


def test_lines_fold_under_their_text_and_commands_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns a plan's lines hang under their text; the command can be copied; a pipe gets every line whole."""
    long = "network  " + "a small network of few layers " * 5
    fix = "fix it   contray train --config " + "folder/" * 12 + "config.yaml"
    assert hanging(f"{long}\n{fix}", 9) == f"{long}\n{fix}"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    *folded, last = hanging(f"{long}\n{fix}", 9).splitlines()
    assert last == fix
    assert len(folded) > 1
    assert all(len(line) <= 80 for line in folded)
    assert all(line.startswith(" " * 9) for line in folded[1:])
    assert " ".join(" ".join(folded).split()) == " ".join(long.split())
