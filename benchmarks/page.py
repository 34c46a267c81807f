"""Write a measured part of docs/results.md, between its two marks."""

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def put(part: str, text: str) -> None:
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
    print(text)
