package integrations

import (
	"context"
	"fmt"
	"time"
)

// delayKey is the key of a context for the function that ReportDelays sets.
type delayKey struct{}

// ReportDelays returns a context for notifications. If the tenant's rate limit delays a notification with this context,
// `report` is called before the delay; the notification itself returns after it. The text of the error may be shown to users
// of the tenant.
func ReportDelays(ctx context.Context, report func(error)) context.Context {
	return context.WithValue(ctx, delayKey{}, report)
}

// reportDelay reports that a notification waits for the rate limit.
func (l *Limiter) reportDelay(ctx context.Context, wait time.Duration, r Rate) {
	if report, ok := ctx.Value(delayKey{}).(func(error)); ok {
		report(fmt.Errorf("delayed for %s by the tenant's rate limit: the limit of %s notifications is %g a second with a burst of %d; "+
			"group more alerts together, or ask the operator for a higher limit",
			wait.Round(time.Millisecond), l.integration, r.PerSecond, max(r.Burst, 1)))
	}
}
