"""bash, asked as a user's Tab asks it, offers commands, options and names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETE = """
eval "$(_BENCH_COMPLETE=bash_source bench)"
COMP_WORDS=({words}) COMP_CWORD={at}
$(complete -p bench | sed 's/.*-F \\([^ ]*\\) .*/\\1/') bench
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def offered(*words: str) -> list[str]:
    env = {**os.environ, "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]}
    script = COMPLETE.format(words=" ".join(f"'{word}'" for word in words), at=len(words) - 1)
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (("bench", "cer"), ["certify"]),
        (("bench", "run", "--time"), ["--time-limit"]),
        (("bench", "run", "--preset", "sm"), ["smoke"]),
        (("bench", "run", "--algos", "maml,fin"), ["maml,finetune"]),
        (("bench", "run", "--suite", "omn"), ["omniglot"]),
        (("bench", "run", "--suite", "omniglot[wa"), []),
        (("bench", "show", "sinusoid_f"), ["sinusoid_freq"]),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_bash_is_offered(words: tuple[str, ...], first: list[str]) -> None:
    assert offered(*words) == first
