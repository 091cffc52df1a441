"""What the contracts of architectures and encoders have in common: checks that each take a name."""

from collections.abc import Callable

import pytest


class Contract(list[Callable[[str], None]]):
    """The checks; each raises where what it names does not do what others rely on."""

    def promise(self, check):
        self.append(check)
        return check

    def breaches(self, name, among=None):
        """Name of each broken check -> how; of all checks, or of those that are named."""
        found = {}
        for check in self:
            if among is not None and check.__name__ not in among:
                continue
            try:
                check(name)
            except (Exception, pytest.fail.Exception) as error:
                found[check.__name__] = error
        return found
