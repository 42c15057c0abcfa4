"""What the store keeps comes back as it was, and is JSON that anything reads."""

import json
import math

from bench.core.metric import Metric
from bench.core.records import Component, Judgement


def test_a_range_without_bounds_comes_back_from_strict_json() -> None:
    metrics = (Metric("accuracy", "%", "higher", low=0, high=100), Metric("return", "", "higher"))
    judged = Judgement(metrics=metrics, report_steps=(1,), floor=20.0, caveat="")

    def refused(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    data = json.loads(judged.model_dump_json(), parse_constant=refused)
    assert Judgement.model_validate(data) == judged
    assert Judgement.model_validate(data).metrics[1].low == -math.inf
    assert judged.headline.name == "accuracy"


def test_a_label_is_what_was_typed() -> None:
    given = {"inner_lr": 0.1, "steps": 2}
    assert Component(name="maml", given=given, parameters={}, source="").label == "maml[inner_lr=0.1,steps=2]"
    assert Component(name="maml", given={}, parameters=given, source="").label == "maml"


def test_several_values_of_a_parameter_come_back_as_they_were_and_are_labelled_as_they_are_typed() -> None:
    component = Component(name="sinusoid", given={"hidden": (100, 50)}, parameters={"hidden": (100, 50)}, source="")
    assert component.label == "sinusoid[hidden=100,50]"
    again = Component.model_validate_json(component.model_dump_json())
    assert again == component
    assert again.parameters["hidden"] == (100, 50)
