"""The parameter of suites whose network is a stack of layers; apart, so that nobody's stored runs are touched by it."""

from typing import Annotated

from pydantic import Field

Hidden = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, description="widths of the network's hidden layers")
]
