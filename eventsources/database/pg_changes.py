"""Makes events of pgoutput's messages, whole transactions in their order; no input or output of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from options import TypeTemplate
from pg_values import FIRST_OWN_OID, OwnType, value_of
from pgoutput import UNCHANGED, Begin, Change, Commit, Message, Relation, Truncate, Tuple, Unreadable, lsn_text

from eventhost.kit import Event


@dataclass(frozen=True, slots=True)
class _Transaction:
    begin: Begin
    changes: int = 0


class Changes:
    """Knows the tables and the transaction in which the stream stands."""

    def __init__(self, database: str, template: TypeTemplate) -> None:
        self.own_types: dict[int, OwnType] = {}
        self._database = database
        self._template = template
        self._relations: dict[int, Relation] = {}
        self._transaction: _Transaction | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether the stream stands between a transaction's begin and its commit."""
        return self._transaction is not None

    def unknown_types(self, message: Message) -> set[int]:
        """The types that this message makes it necessary to know, by their numbers."""
        if not isinstance(message, Relation):
            return set()
        own = {column.type_oid for column in message.columns if column.type_oid >= FIRST_OWN_OID}
        return own - self.own_types.keys()

    def take(self, message: Message, lsn: int) -> list[Event]:
        """The events that come of one message, which stands at `lsn` in the log.

        Raises:
            Unreadable: the message does not fit what was there before it.
        """
        if isinstance(message, Relation):
            self._relations[message.oid] = message
        elif isinstance(message, Begin):
            self._transaction = _Transaction(message)
        elif isinstance(message, Commit):
            self._transaction = None
        elif isinstance(message, Truncate):
            said = {"cascade": message.cascade, "restart_identity": message.restart_identity}
            return [self._event(self._relation(oid), "truncate", said, lsn) for oid in message.relations]
        else:
            relation = self._relation(message.relation)
            return [self._event(relation, message.operation, self._rows(relation, message), lsn)]
        return []

    def _relation(self, oid: int) -> Relation:
        if oid not in self._relations:
            raise Unreadable(f"a row of table {oid}, which was not described before")
        return self._relations[oid]

    def _rows(self, relation: Relation, change: Change) -> dict[str, Any]:
        new, unchanged = self._row(relation, change.new, change.old if change.whole_old else None)
        old, _ = self._row(relation, change.old, None, keys_alone=not change.whole_old)
        if change.operation == "update" and change.old is None:
            # The key did not change, so the server did not repeat it.
            old = {column.name: new[column.name] for column in relation.columns if column.key and column.name in new}
        rows: dict[str, Any] = {
            "old": old if change.operation != "insert" else None,
            "new": new if change.operation != "delete" else None,
        }
        if unchanged:
            rows["unchanged"] = unchanged
        return rows

    def _row(
        self, relation: Relation, row: Tuple | None, before: Tuple | None, *, keys_alone: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """The row as an object, and the columns whose values the server did not send."""
        values: dict[str, Any] = {}
        unchanged = []
        for at, (column, sent) in enumerate(zip(relation.columns, row or (), strict=False)):
            if keys_alone and not column.key:
                continue
            value = before[at] if sent is UNCHANGED and before is not None else sent
            if value is UNCHANGED:
                unchanged.append(column.name)
            else:
                values[column.name] = None if value is None else value_of(value, column.type_oid, self.own_types)
        return values, unchanged

    def _event(self, relation: Relation, operation: str, said: dict[str, Any], lsn: int) -> Event:
        transaction = self._transaction
        if transaction is None:
            raise Unreadable("a change outside of a transaction")
        begin, position = transaction.begin, transaction.changes + 1
        self._transaction = replace(transaction, changes=position)
        committed = datetime.fromtimestamp(begin.time_us // 1_000_000, UTC).replace(
            microsecond=begin.time_us % 1_000_000
        )
        payload = {
            "database": self._database,
            "schema": relation.schema,
            "table": relation.table,
            "operation": operation,
            **said,
        }
        metadata = {
            "xid": begin.xid,
            "lsn": lsn_text(lsn),
            "commit_lsn": lsn_text(begin.lsn),
            "commit_time": committed.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "position": position,
        }
        event_type = self._template.fill(self._database, relation.schema, relation.table, operation)
        event_id = f"{self._database}:{lsn_text(begin.lsn)}:{position}"
        return Event(event_type, payload, event_id, begin.time_us // 1000, metadata)
