"""Questions in the forms in which they are published: from files, and from a hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest

from planner.errors import InvalidOption
from services.evaluation.hub import chosen, fetched
from services.evaluation.questions import Question, from_files

GSM8K = {
    "question": "A pen costs $3 and a book $1,250. What do both cost?",
    "answer": "Together they cost 1250 + 3 = <<1250+3=1253>>1253.\n#### 1,253",
}
MATH_500 = {
    "problem": "What is half of a third?",
    "solution": "It is $\\boxed{\\frac{1}{6}}$.",
    "answer": "\\frac{1}{6}",
    "subject": "Prealgebra",
    "level": 1,
    "unique_id": "test/prealgebra/1.json",
}
AIME_LOWER = {"id": 60, "problem": "Find the least n.", "solution": "…", "answer": "033"}
AIME_UPPER = {"ID": "2024-I-1", "Problem": "Find the most n.", "Solution": "…", "Answer": 204}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "text", "answer"),
    [
        (GSM8K, GSM8K["question"], "1,253"),
        (MATH_500, "What is half of a third?", "\\frac{1}{6}"),
        (AIME_LOWER, "Find the least n.", "033"),
        (AIME_UPPER, "Find the most n.", "204"),
        ({"question": "q", "answer": 1.5}, "q", "1.5"),
    ],
)
def test_each_published_form_is_read(tmp_path: Path, row: Any, text: str, answer: str) -> None:
    """The question and the answer alone, whatever else a line says."""
    path = written(tmp_path / "f.jsonl", row)
    assert from_files((path,), None, 0) == (Question("line-1", text, answer),)


@pytest.mark.parametrize(
    "row", [{"problem": "p", "solution": "s"}, {"Problem": 3, "Answer": 4}, {"prompt": "p"}]
)
def test_a_line_of_another_form_is_named(tmp_path: Path, row: Any) -> None:
    """Without a question or an answer the line is told."""
    path = written(tmp_path / "f.jsonl", MATH_500, row)
    with pytest.raises(InvalidOption, match='line 2: must be an object with "question"'):
        from_files((path,), None, 0)


def test_a_table_in_parquet_is_read_like_lines(tmp_path: Path) -> None:
    """Row for row in their order, in any of the forms."""
    lines = written(tmp_path / "f.jsonl", *({**GSM8K, "question": f"ü {n}"} for n in range(50)))
    path = tmp_path / "it's.parquet"
    with duckdb.connect(":memory:") as connection:
        connection.read_json(str(lines)).write_parquet(str(path))
    assert from_files((path,), None, 0) == from_files((lines,), None, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("aime.csv", 'ID,Year,Question,Answer\r\n1983-1,1983,"Let x, y\nbe.",60\r\n'),
        ("aime.json", json.dumps([{"Question": "Let x, y\nbe.", "Answer": 60}])),
        ("aime.jsonl", "\ufeff" + json.dumps({"Question": "Let x, y\nbe.", "Answer": "60"})),
    ],
)
def test_tables_arrays_and_marks_of_order_are_read(tmp_path: Path, name: str, text: str) -> None:
    """As AIME's older years are published, and as some editors write UTF-8."""
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    (question,) = from_files([tmp_path / name], None, 0)
    assert (question.text, question.answer) == ("Let x, y\nbe.", "60")


@pytest.mark.parametrize(
    ("text", "words"),
    [("question,answer\nq,4,2\n", "row 1: has more cells"), ("answer\n4\n", "must be an object")],
)
def test_a_table_that_is_none_of_questions_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    """With the place, and not with a traceback."""
    (tmp_path / "q.CSV").write_text(text)
    with pytest.raises(InvalidOption, match=words):
        from_files([tmp_path / "q.CSV"], None, 0)


def test_an_empty_answer_is_refused(tmp_path: Path) -> None:
    """With it every reply would be wrong."""
    path = written(tmp_path / "q.jsonl", {"question": "q", "answer": " "})
    with pytest.raises(InvalidOption, match="is empty"):
        from_files([path], None, 0)


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    """A file that only has the name of one, or is none at all."""
    path = written(tmp_path / "f.parquet", GSM8K)
    for each in (path, tmp_path / "none.parquet"):
        with pytest.raises(InvalidOption, match=rf"{each.name}: isn't a table in Parquet"):
            from_files((each,), None, 0)


def test_several_files_are_one_set(tmp_path: Path) -> None:
    """Their questions follow each other, and no two have the same id."""
    paths = tuple(written(tmp_path / f"{n}.jsonl", GSM8K, MATH_500) for n in ("I", "II"))
    found = from_files(paths, None, 0)
    assert [one.id for one in found] == [
        "I.jsonl line-1",
        "I.jsonl line-2",
        "II.jsonl line-1",
        "II.jsonl line-2",
    ]
    assert len(set(from_files(paths, 3, 1))) == 3


@pytest.mark.parametrize(
    ("files", "part", "expected"),
    [
        (
            [
                *("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"),
                *("socratic/test-00000-of-00001.parquet", "README.md"),
            ],
            "",
            ("main/test-00000-of-00001.parquet",),
        ),
        (
            ["main/train-0.parquet", "main/test-0.parquet", "socratic/test-0.parquet"],
            "socratic/test",
            ("socratic/test-0.parquet",),
        ),
        (["README.md", "test.jsonl"], "", ("test.jsonl",)),
        (["data/train-00000-of-00001.parquet"], "", ("data/train-00000-of-00001.parquet",)),
        (["b-II.jsonl", "b-I.jsonl"], "", ("b-I.jsonl", "b-II.jsonl")),
        (["b-II.jsonl", "b-I.jsonl"], "II", ("b-II.jsonl",)),
        (["test.jsonl", "test.parquet"], "", ("test.jsonl",)),
    ],
)
def test_the_test_questions_are_found(
    files: list[str], part: str, expected: tuple[str, ...]
) -> None:
    """Test files before others, the usual configuration before others, lines before tables."""
    assert chosen("owner/name", files, part) == expected


@pytest.mark.parametrize(
    ("files", "part"),
    [(["README.md"], ""), (["a/test.jsonl", "b/test.jsonl"], ""), (["test.jsonl"], "algebra")],
)
def test_a_set_that_leaves_it_open_is_asked_back(files: list[str], part: str) -> None:
    """Where it can't be told which files are meant, they are listed."""
    with pytest.raises(InvalidOption, match=r"owner/name:PART.* which are: (none|a/test|test)"):
        chosen(f"owner/name:{part}", files, part)


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as serves one data set, to huggingface_hub itself."""

    protocol_version = "HTTP/1.1"
    content = json.dumps(GSM8K).encode()

    def do_GET(self) -> None:
        siblings = [{"rfilename": name} for name in ("README.md", "main/test.jsonl")]
        if self.path == "/api/datasets/owner/name":
            self.reply(200, json.dumps({"id": "owner/name", "sha": "a" * 40, "siblings": siblings}))
        elif self.path == f"/datasets/owner/name/resolve/{'a' * 40}/main/test.jsonl":
            self.reply(200, self.content.decode())
        else:
            self.reply(404, "")

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("x-repo-commit", "a" * 40)
        self.send_header("etag", '"1"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub with the data set owner/name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_data_set_is_fetched_from_a_hub(hub: str, tmp_path: Path) -> None:
    """Its test questions come over, once."""
    paths = fetched("owner/name", endpoint=hub, cache=tmp_path)
    assert from_files(paths, None, 0)[0].answer == "1,253"
    assert all(path.is_relative_to(tmp_path) for path in paths)


@pytest.mark.parametrize("name", ["owner/none", "no name at/all/"])
def test_a_data_set_that_is_not_there_is_told(hub: str, tmp_path: Path, name: str) -> None:
    """The message says what to do instead."""
    with pytest.raises(InvalidOption, match=r"can't be fetched from http://127.*--file"):
        fetched(name, endpoint=hub, cache=tmp_path)
