"""What the values of recipes may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from dear.errors import ConfigError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
"""0 switches it off."""
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Inapplicable(ConfigError, ValueError):
    """Settings that do not go with each other, "key: what is wrong".

    A ValueError too: pydantic adds where in the recipe it was.
    """
