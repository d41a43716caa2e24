"""Where accepted events are kept: the protocol, and one file for each way of keeping them."""

from eventhost.journal.memory import MemoryJournal
from eventhost.journal.protocol import Entry, Journal, JournalStatistics

__all__ = ["Entry", "Journal", "JournalStatistics", "MemoryJournal"]
