"""Why there is no plan."""


class PlanError(RuntimeError):
    """A plan that cannot be made; the message says why and what to do."""
