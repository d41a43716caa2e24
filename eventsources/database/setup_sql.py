"""Prints the SQL that a database's administrator runs once, so that this source can do without great rights."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from options import EVERY_TABLE, Database, MySql, Postgres
from pg_slot import publication_sql, quoted, table_sql

_TRIGGER = """\
-- Notifies {channel} of each changed row of {table}. A notification holds at most 8000 bytes: hence the key alone,
-- if there is a column `id`.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
BEGIN
  PERFORM pg_notify({literal}, jsonb_build_object(
    'operation', lower(TG_OP), 'schema', TG_TABLE_SCHEMA, 'table', TG_TABLE_NAME, 'id', changed -> 'id')::text);
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER {function} AFTER INSERT OR UPDATE OR DELETE ON {table}
  FOR EACH ROW EXECUTE FUNCTION {function}();
"""


def setup_sql(databases: Sequence[Database]) -> str:
    """The statements for each database; never a password."""
    return "\n".join(f"-- {database.name}\n{_of(database)}" for database in databases)


def _of(database: Database) -> str:
    if isinstance(database, Postgres):
        return _postgres(database)
    if isinstance(database, MySql):
        return _mysql(database)
    return "-- SQLite needs nothing.\n"


def _postgres(options: Postgres) -> str:
    parts = []
    user = unquote(urlsplit(options.conninfo).username or "the source's user")
    if options.captures:
        tables = options.tables or ()
        publication = f"{publication_sql(options.publication, tables)};\n" if tables else ""
        some_table = "ALTER TABLE … REPLICA IDENTITY FULL;\n"
        whole_rows = "".join(
            f"ALTER TABLE {table_sql(table)} REPLICA IDENTITY FULL;\n" for table in tables if table != EVERY_TABLE
        )
        parts.append(
            "ALTER SYSTEM SET wal_level = 'logical';  -- then restart PostgreSQL\n"
            f"ALTER ROLE {quoted(user)} REPLICATION;\n"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {quoted(user)};\n"
            f"{publication}"
            f"SELECT pg_create_logical_replication_slot('{options.slot}', 'pgoutput');\n"
            "-- Where `old` is to hold the whole row, and not its key alone:\n"
            f"{whole_rows or some_table}"
            "-- So that a source that never comes back does not fill the disk:\n"
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';\n"
            f"-- When the source is taken away for good: SELECT pg_drop_replication_slot('{options.slot}');\n"
        )
    for channel in options.channels:
        literal = "'" + channel.replace("'", "''") + "'"
        function = quoted(f"notify_{channel}")
        named = [table for table in options.tables or () if table != EVERY_TABLE]
        parts += [
            _TRIGGER.format(channel=channel, table=table, function=function, literal=literal)
            for table in [table_sql(table) for table in named] or ['"public"."your_table"']
        ]
    return "\n".join(parts)


def _mysql(options: MySql) -> str:
    return (
        "-- In the server's configuration, under [mysqld]; then restart it:\n"
        "--   log_bin, server_id = 1, binlog_format = ROW, binlog_row_image = FULL, binlog_row_metadata = FULL\n"
        f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {_user(options)}@'%';\n"
        "-- How long what was not read is kept:\n"
        "SET GLOBAL binlog_expire_logs_seconds = 604800;\n"
    )


def _user(options: MySql) -> str:
    return "'" + (options.connect["user"] or "the source's user").replace("'", "''") + "'"
