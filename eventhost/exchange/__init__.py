"""Events on their way from one host to another, or to other programs: JSON lines, and CloudEvents."""

from eventhost.exchange.cloudevents import from_cloudevent, to_cloudevent
from eventhost.exchange.lines import as_kept, read_line

__all__ = ["as_kept", "from_cloudevent", "read_line", "to_cloudevent"]
