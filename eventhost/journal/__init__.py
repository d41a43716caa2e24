"""Where accepted events are kept: the protocol, and one file for each way of keeping them."""

from eventhost.journal.memory import MemoryJournal
from eventhost.journal.opening import open_journal
from eventhost.journal.protocol import Entry, Journal, JournalStatistics
from eventhost.journal.records import Change, DeadLetter, LettersHeld, LetterSize, Pending, Position, Progress, Trace
from eventhost.journal.salvage import Loss
from eventhost.journal.sqlite import SqliteJournal

__all__ = [
    "Change",
    "DeadLetter",
    "Entry",
    "Journal",
    "JournalStatistics",
    "LetterSize",
    "LettersHeld",
    "Loss",
    "MemoryJournal",
    "Pending",
    "Position",
    "Progress",
    "SqliteJournal",
    "Trace",
    "open_journal",
]
