"""The contract tests, for the authors of plug-ins: one assertion each.

from bench.testing import check_algorithm, check_suite

def test_my_method() -> None:
    check_algorithm(MyMethod)
"""

from typing import Any

from bench.certificate.algorithms import algorithm_checks
from bench.certificate.checks import Check
from bench.certificate.suites import suite_checks
from bench.core.discovery import build
from bench.core.types import Learner, Suite


def check_algorithm(algorithm: type[Learner], **parameters: Any) -> list[Check]:
    """The certificate of an algorithm, with parameters where its fields need them.

    Raises:
        AssertionError: at least one check failed; the message lists them.
    """

    def make(bed: Suite) -> Learner:
        protocol = {name: setting.value for name, setting in bed.protocol.items()}
        made: Learner = build(algorithm, algorithm.__name__.lower(), parameters, protocol)
        return made

    return _sound(list(algorithm_checks(make)))


def check_suite(suite: Suite) -> list[Check]:
    """The checks of a suite: frozen tasks, splits, normalisation as declared, shapes.

    Raises:
        AssertionError: at least one check failed; the message lists them.
    """
    return _sound(list(suite_checks(suite, _file_name(type(suite)))))


def _file_name(suite: type[Suite]) -> str:
    return suite.__module__.rpartition(".")[2].removeprefix("bench_plugin_")


def _sound(checks: list[Check]) -> list[Check]:
    faults = [f"{check.name}: {check.figure} {check.bound}" for check in checks if check.verdict == "FAULT"]
    if faults:
        raise AssertionError("; ".join(faults))
    return checks
