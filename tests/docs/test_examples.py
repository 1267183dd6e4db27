"""Every example of README and docs/ does what the page says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.hosts import remote_hosts
from tests.docs.pages import PAGES, PROGRAMS, sections
from tests.docs.shell import make_place, run_section, shape
from tests.support.peers import requires

WITH_EXAMPLES = [page for page in PAGES if any(section.statements for section in sections(page))]


@pytest.mark.programs
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_and_print_what_it_shows(page: Path, run_dir: Path) -> None:
    requires(*PROGRAMS)
    place = make_place(run_dir)
    for section in sections(page):
        if not section.statements:
            continue
        with ExitStack() as stack:
            if "hosts storage1 and storage2" in section.settings:
                stack.enter_context(remote_hosts(place))
            printed = run_section(place, section)
        for statement, output in zip(section.statements, printed, strict=True):
            actual = iter(shape(output))
            for line in shape(place.own("\n".join(statement.output))):
                assert line in actual, f"{section}: {statement.text}: no such line as {line!r} in:\n{output}"
