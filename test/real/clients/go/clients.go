// Package clients names what docs/clients.md imports, so that it can be vendored.
package clients

import (
	_ "github.com/jackc/pgx/v5"
	_ "github.com/lib/pq"
)
