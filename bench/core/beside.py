"""What lies beside `bench` (algorithms, suites, reports) is imported from there, whatever else bears those names.

Python looks along sys.path, which may begin with a user's working directory, where an empty folder `suites/` would hide
every suite. Nothing is imported before it is asked for.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from bench.core.errors import BenchError

ROOT = Path(__file__).parents[2]
OURS = ("algorithms", "suites", "reports")


class Finder:
    """Of our own packages; asked before Python's finders."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Where one of our packages is; None for whatever else is looked for."""
        if name not in OURS:
            return None
        folder = ROOT / name
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def find_ours_first() -> None:
    """From now on our own packages are imported from beside `bench`.

    Raises:
        BenchError: a module of the same name is imported already, from elsewhere.
    """
    for name in OURS:
        module = sys.modules.get(name)
        places = [module.__file__] if module and getattr(module, "__file__", None) else getattr(module, "__path__", [])
        found = [Path(str(place)).resolve() for place in places]
        if module and not any(place.is_relative_to((ROOT / name).resolve()) for place in found):
            raise BenchError(
                f"{', '.join(map(str, found)) or 'a module without a file'} is imported as {name!r}, which is the name "
                f"of a package of bench's ({ROOT / name}). Import bench before it, or give it another name."
            )
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
