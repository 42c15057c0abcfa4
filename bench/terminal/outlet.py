"""Where words leave: any encoding, a pipe that nobody reads any more, no stream at all; never a crash.

Tables, progress, log lines and errors all end in `sys.stdout` or `sys.stderr`, so those two are what is guarded.
"""

import contextlib
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

PLAIN = {
    "×": "x", "±": "+-", "∞": "inf", "−": "-", "–": "-", "—": "-", "·": "-", "•": "*", "…": "...", "≈": "~", "≠": "!=",
    "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "∇": "grad", "∂": "d", "√": "sqrt", "∘": "o", "‖": "||", "⟨": "<",
    "⟩": ">", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "⁄": "/",
}  # fmt: skip


def sayable(text: str, encoding: str) -> str:
    """The text in words that the encoding has: x for ×, +- for ±, alpha for α, ? for what has no other word."""
    return text if _has(text, encoding) else "".join(c if _has(c, encoding) else _plain(c, encoding) for c in text)


def _has(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _plain(character: str, encoding: str) -> str:
    name = unicodedata.name(character, "")
    parts = (PLAIN.get(c, c) for c in unicodedata.normalize("NFKD", character))
    word = "".join(part for part in parts if part.isascii())
    if not word and name.startswith("GREEK "):
        word = name.split(" WITH ")[0].rsplit(" ", 1)[-1].lower()
    elif not word and name.startswith("BOX DRAWINGS "):
        word = "|" if "VERTICAL" in name else "-"
    return word if word and _has(word, encoding) else "?"


class Outlet(io.TextIOBase):
    """A stream that says all it is told in words that its encoding has, and goes on when nobody reads any more.

    It has no `buffer`: whoever would write past it writes through it.
    """

    def __init__(self, stream: TextIO) -> None:
        """Before this stream."""
        self.stream = stream
        self.lost: OSError | None = None  # what else has kept words from being written, such as a full disk
        self.tty = stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes all of it."""
        with self._listened_to():
            self.stream.write(sayable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        with self._listened_to():
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether a person reads."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The stream's."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How libraries are to write what the encoding lacks: as it is."""
        return "strict"

    @contextlib.contextmanager
    def _listened_to(self) -> Iterator[None]:
        """Once a word can't be written, the rest goes nowhere: what is being done is worth more."""
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):  # a stream of no file has no descriptor to point elsewhere
                os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
            hung_up = error.errno == errno.EPIPE or (self.tty and error.errno == errno.EIO)
            self.lost = self.lost or (None if hung_up else error)


@contextlib.contextmanager
def outlets() -> Iterator[None]:
    """Standard output and error guarded meanwhile, flushed, and as they were after.

    Raises:
        OSError: in the end, where standard output could not be written and somebody still reads it.
    """
    with contextlib.ExitStack() as stack:
        made = []
        for name in ("stdout", "stderr"):
            before: TextIO | None = getattr(sys, name)
            # A process that was started without one has None, and libraries stumble over that.
            made.append(Outlet(before or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))  # noqa: PTH123
            stack.callback(setattr, sys, name, before)
            setattr(sys, name, made[-1])
        try:
            yield
        finally:
            for outlet in made:
                outlet.flush()  # now, since at the interpreter's end a broken pipe is an error again
            if made[0].lost:
                raise made[0].lost
