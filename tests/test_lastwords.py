"""Of what a process wrote, the line that says why it ended is shown, with its place in the process's own folder."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventhost.connections.lastwords import LONGEST, LONGEST_PLACE, last_words
from eventhost.connections.sourcelog import SourceLog

HERE = "/srv/door"

WORDS = {
    "a Python error": (
        f"""
        going on
        Traceback (most recent call last):
          File "{HERE}/./server.py", line 11, in watch
            cheese = json.loads(text)
                     ^^^^^^^^^^^^^^^^
          File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode
            raise JSONDecodeError("Expecting value", s, err.value) from None
        json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)
        """,
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0) (server.py:11)",
    ),
    "a Python error without a usual name": (
        f"""
        Traceback (most recent call last):
          File "{HERE}/lib/milk.py", line 2, in <module>
            raise Boom
        Boom
        """,
        "Boom (lib/milk.py:2)",
    ),
    "a Python error that came of another, and of several lines": (
        f"""
        Traceback (most recent call last):
          File "{HERE}/server.py", line 2, in <module>
            1/0
        ZeroDivisionError: division by zero

        The above exception was the direct cause of the following exception:

        Traceback (most recent call last):
          File "{HERE}/server.py", line 4, in <module>
            raise RuntimeError("out of\\ncheese") from e
        RuntimeError: out of
        cheese
        """,
        "RuntimeError: out of (server.py:4)",
    ),
    "a Python syntax error": (
        f"""
          File "{HERE}/server.py", line 3
            def f(:
                  ^
        SyntaxError: invalid syntax
        """,
        "SyntaxError: invalid syntax (server.py:3)",
    ),
    "a group of Python errors": (
        f"""
          + Exception Group Traceback (most recent call last):
          |   File "{HERE}/server.py", line 7, in <module>
          |     asyncio.run(main())
          | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
          +-+---------------- 1 ----------------
            | Traceback (most recent call last):
            |   File "{HERE}/server.py", line 3, in watch
            |     raise ValueError("x")
            | ValueError: x
            +------------------------------------
        """,
        "ValueError: x (server.py:3)",
    ),
    "what the kit says below its traceback": (
        f"""
        Traceback (most recent call last):
          File "{HERE}/server.py", line 11, in watch
            raise RuntimeError("out of cheese")
        RuntimeError: out of cheese
        RuntimeError: out of cheese (server.py:11)
        """,
        "RuntimeError: out of cheese (server.py:11)",
    ),
    "code of others alone": (
        """
        Traceback (most recent call last):
          File "<frozen runpy>", line 198, in _run_module_as_main
          File "/opt/venv/lib/python3.11/site-packages/door/server.py", line 8, in <module>
            main()
        OSError: no hinge
        """,
        "OSError: no hinge (server.py:8)",
    ),
    "a folder of modules inside of its own": (
        f"""
        Traceback (most recent call last):
          File "{HERE}/server.py", line 8, in <module>
            requests.get(url)
          File "{HERE}/.venv/lib/python3.11/site-packages/requests/api.py", line 59, in request
            return session.request(method=method, url=url, **kwargs)
        requests.exceptions.ConnectionError: refused
        """,
        "requests.exceptions.ConnectionError: refused (server.py:8)",
    ),
    "a Node syntax error": (
        f"""
        file://{HERE}/server.mjs:31
        let x = ;
                ^

        SyntaxError: Unexpected token ';'
            at compileSourceTextModule (node:internal/modules/esm/utils:346:16)
            at async ModuleJob._link (node:internal/modules/esm/module_job:148:19)

        Node.js v20.20.2
        """,
        "SyntaxError: Unexpected token ';' (server.mjs:31)",
    ),
    "a Node module that is missing": (
        f"""
        node:internal/modules/esm/resolve:873
          throw new ERR_MODULE_NOT_FOUND(packageName, fileURLToPath(base), null);
                ^

        Error [ERR_MODULE_NOT_FOUND]: Cannot find package '@modelcontextprotocol/sdk' imported from {HERE}/server.mjs
            at packageResolve (node:internal/modules/esm/resolve:873:9)
            at ModuleJob._link (node:internal/modules/esm/module_job:168:49) {{
          code: 'ERR_MODULE_NOT_FOUND'
        }}

        Node.js v20.20.2
        """,
        "Error [ERR_MODULE_NOT_FOUND]: Cannot find package '@modelcontextprotocol/sdk' imported from server.mjs",
    ),
    "a Node error of several lines, with a cause": (
        f"""
        file://{HERE}/server.mjs:2
        function f(){{ throw new TypeError("bad") }}
                            ^

        TypeError: bad
        second line
            at read (node:fs:573:11)
            at f (file://{HERE}/node_modules/cheese/index.js:7:3)
            at async file://{HERE}/my%20lib/f.mjs:12:1 {{
          [cause]: Error: inner
              at file://{HERE}/other.mjs:2:38
        }}

        Node.js v20.20.2
        """,
        "TypeError: bad (my lib/f.mjs:12)",
    ),
    "a Node error in a CommonJS module": (
        f"""
        {HERE}/server.cjs:1
        setTimeout(()=>{{ throw new Error("x") }})
                         ^

        Error: x
            at Timeout._onTimeout ({HERE}/server.cjs:1:26)
            at listOnTimeout (node:internal/timers:581:17) {{
          code: 3
        }}

        Node.js v20.20.2
        """,
        "Error: x (server.cjs:1)",
    ),
    "a Node rejection that is no error": (
        """
        node:internal/process/promises:389
              new UnhandledPromiseRejection(reason);
              ^

        UnhandledPromiseRejection: The promise rejected with the reason "nothing to see".
            at throwUnhandledRejectionsMode (node:internal/process/promises:389:7) {
          code: 'ERR_UNHANDLED_REJECTION'
        }

        Node.js v20.20.2
        """,
        'UnhandledPromiseRejection: The promise rejected with the reason "nothing to see".',
    ),
    "a Go panic": (
        f"""
        panic: no cheese

        goroutine 1 [running]:
        main.watch(...)
        \t{HERE}/main.go:5
        main.main()
        \t{HERE}/main.go:9 +0x1d
        exit status 2
        """,
        "panic: no cheese (main.go:5)",
    ),
    "a Rust panic": (
        """
        thread 'main' panicked at src/main.rs:2:5:
        no cheese
        note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
        """,
        "thread 'main' panicked at src/main.rs:2:5: no cheese",
    ),
    "a Java exception": (
        """
        Exception in thread "main" java.lang.IllegalStateException: no cheese
        \tat shop.Door.open(Door.java:12)
        Caused by: java.io.IOException: no milk
        \tat shop.Milk.pour(Milk.java:3)
        \t... 1 more
        """,
        "Caused by: java.io.IOException: no milk (Milk.java:3)",
    ),
    "a Ruby error": (
        f"""
        {HERE}/server.rb:3:in `open': no cheese (RuntimeError)
        \tfrom {HERE}/server.rb:9:in `<main>'
        """,
        "server.rb:3:in `open': no cheese (RuntimeError)",
    ),
    "a sentence of its own, and a farewell": (
        """
        listening
        fatal: no such sensor
        goodbye
        """,
        "fatal: no such sensor",
    ),
    "a line of a log": (
        """
        2026-11-21 10:00:00 INFO door: up
        2026-11-21 10:00:01 ERROR door: the hinge is loose
        2026-11-21 10:00:01 INFO door: shutting down
        """,
        "2026-11-21 10:00:01 ERROR door: the hinge is loose",
    ),
    "an error that it got over": ("error: no milk\n" + "going on\n" * 20 + "bye", "bye"),
    "nothing but a sentence": ("up\nno such sensor\n\n  \n", "no such sensor"),
    "nothing but a banner": ("bye\nNode.js v20.20.2\n", "bye"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_line_that_tells_the_error_is_found(name: str) -> None:
    written, words = WORDS[name]
    assert last_words(textwrap.dedent(written).split("\n"), [HERE]) == words


@pytest.mark.parametrize("name", WORDS)
def test_another_name_of_the_folder_is_left_out_too(name: str) -> None:
    written, words = WORDS[name]
    moved = textwrap.dedent(written).replace(HERE, "/private/srv/door")
    assert last_words(moved.split("\n"), [HERE, "/private/srv/door"]) == words


some_lines = st.lists(
    st.one_of(
        st.sampled_from([line for written, _ in WORDS.values() for line in textwrap.dedent(written).split("\n")]),
        st.text(alphabet=" \t|+-:()/.1aE\"'[]{}^~", max_size=60),
        st.sampled_from(["   at " + "x" * 4000, "  /" + ":1" * 2000, " |" * 2000, "Error" * 800, "(" * 4096]),
    ),
    max_size=100,
)


@given(some_lines)
def test_whatever_was_written_its_words_are_one_short_line_of_it(lines: list[str]) -> None:
    words = last_words(lines, [HERE])
    assert "\n" not in words
    assert len(words) <= LONGEST + LONGEST_PLACE + len(" (:123456789)")
    assert f" {HERE}/" not in words
    assert words or not any("cheese" in line for line in lines)


@pytest.mark.anyio
async def test_a_log_tells_what_the_present_process_wrote_from_what_others_did() -> None:
    log = SourceLog("door")
    log.begin()
    await log.stderr(b"no such sensor\nunfin")
    log.take_garbage("hallo")
    log.hear("info", "hinge\nis loose")
    log.say("warning", "event rejected: no type")
    assert list(log.words) == ["no such sensor", "hallo", "hinge", "is loose"]
    log.begin()
    assert list(log.words) == []
    await log.stderr(b"up")
    log.end()
    assert list(log.words) == ["up"]
    assert len(log.lines) == 5


def test_a_log_describes_what_was_no_message() -> None:
    log = SourceLog("door")
    assert log.describe_garbage() is None
    log.take_garbage("hallo")
    assert log.describe_garbage() == "1 line was no JSON-RPC message, the last: hallo"
    log.take_garbage("{", "Expecting property name enclosed in double quotes at character 2")
    assert log.describe_garbage() == (
        "2 lines were no JSON-RPC messages, the last: {: Expecting property name enclosed in double quotes "
        "at character 2"
    )
    assert list(log.lines)[1] == f"not a JSON-RPC message: {log.last_garbage}"
