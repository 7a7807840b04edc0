package alertmanager

import (
	"context"
	"log/slog"

	"github.com/palliumhq/pallium/authn/tenant"
)

// tenantLogger returns the logger of a tenant's Alertmanager. Most of its errors are failures of the tenant's receivers,
// which may be many. They are logged as debug messages, and metrics count them by integration.
func tenantLogger(l *slog.Logger, t tenant.ID) *slog.Logger {
	return slog.New(quiet{l.Handler()}).With("tenant", t)
}

// quiet is a slog.Handler that logs warnings and errors as debug messages, and nothing else.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
